"""Which mesh axes a logical axis is split over."""

import contextlib
import difflib
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from marker_lm.model.cache import KVCache, init_cache
from marker_lm.model.config import ModelConfig
from marker_lm.model.matrix import decoding_infos
from marker_lm.model.params import abstract_arrays, abstract_params

Tree = Any
Rules = Mapping[str, tuple[str, ...]]

RULES: Rules = {
    "vocab": ("tensor",),
    "embed": ("fsdp", "context"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head": (),
    "mlp": ("tensor",),
    "rank": (),
    "layers": (),
    "batch": ("slice", "data", "fsdp"),
    "length": ("context",),
    # The loss: copies of the parameters, devices that share a copy, and the vocabulary over these.
    "replica": ("slice", "data"),
    "gathered": ("fsdp", "context"),
    "loss_vocab": ("tensor", "fsdp", "context"),
}


class ShardingError(ValueError):
    """An array can not be laid out on the mesh as the rules say."""


def partition_spec(
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    mesh: Mesh,
    rules: Rules = RULES,
) -> PartitionSpec:
    """The layout of one array; `name` is for messages.

    Raises:
      ShardingError: an unknown logical axis, a mesh axis used twice, or a dimension that its mesh
        axes do not divide.
    """
    used: dict[str, str] = {}
    entries = []
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and axis not in rules:
            nearest = difflib.get_close_matches(axis, rules, n=1, cutoff=0.0)[0]
            raise ShardingError(
                f"{name}: no rule for the logical axis {axis!r} (nearest: {nearest!r})."
            )
        mesh_axes = rules[axis] if axis is not None else ()
        for mesh_axis in mesh_axes:
            if mesh_axis in used:
                raise ShardingError(
                    f"{name}: the mesh axis {mesh_axis!r} would split both {used[mesh_axis]!r} "
                    f"and {axis!r}; give one of them another mesh axis in the rules."
                )
            used[mesh_axis] = axis
        ways = math.prod(mesh.shape[mesh_axis] for mesh_axis in mesh_axes)
        if size % ways:
            raise ShardingError(
                f"{name}: the dimension {axis!r} of size {size} does not divide by {ways} "
                f"(mesh {'*'.join(mesh_axes)}); make it {-(-size // ways) * ways} or use a mesh "
                f"with {'*'.join(mesh_axes)}={math.gcd(size, ways)}."
            )
        entries.append(mesh_axes if len(mesh_axes) > 1 else (mesh_axes[0] if mesh_axes else None))
    return PartitionSpec(*entries)


def info_shardings(infos: Tree, mesh: Mesh, rules: Rules = RULES) -> Tree:
    """The tree of `NamedSharding` of a tree of `ArrayInfo`. Raises ShardingError."""

    def sharding(path, info) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, info.shape, info.axes, mesh, rules))

    return jax.tree_util.tree_map_with_path(sharding, infos)


def param_shardings(config: ModelConfig, mesh: Mesh, rules: Rules = RULES) -> Tree:
    """The same of the model's parameters. Raises ShardingError."""
    return info_shardings(abstract_params(config), mesh, rules)


def laid_out(tree: Tree, shardings: Tree) -> Tree:
    """The shapes and dtypes of a tree with their shardings: what restoring and compiling take."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def laid_out_params(config: ModelConfig, mesh: Mesh, rules: Rules = RULES) -> Tree:
    """The same of the model's parameters. Raises ShardingError."""
    return laid_out(abstract_arrays(config), param_shardings(config, mesh, rules))


def laid_out_decoding(
    config: ModelConfig, mesh: Mesh, weights: str = "", rules: Rules = RULES
) -> Tree:
    """The same of what `decoding_params` makes of them. Raises ShardingError, ValueError."""
    infos = decoding_infos(config, weights)
    return laid_out(infos, info_shardings(infos, mesh, rules))


def laid_out_cache(
    config: ModelConfig, mesh: Mesh, rows: int, size: int, dtype: str = "", rules: Rules = RULES
) -> KVCache:
    """The same of `init_cache`."""
    batch = rules["batch"] if rows % batch_shards(mesh, rules) == 0 else None
    split = NamedSharding(mesh, PartitionSpec(batch, rules["kv_heads"]))
    cache = jax.eval_shape(functools.partial(init_cache, config, rows, size, dtype))
    shardings = jax.tree.map(lambda x: split if x.ndim == 4 else replicated(mesh), cache)
    return laid_out(cache, shardings)


def device_bytes(tree: Tree) -> int:
    """Bytes that a tree of arrays, or of their laid out shapes, takes of one device."""

    def size(leaf) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """The layout of a batch array [B, L]: rows over slice, data and fsdp, length over context."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"], rules["length"]))


def batch_shards(mesh: Mesh, rules: Rules = RULES) -> int:
    """How many parts the rows of a batch are split into."""
    return ways("batch", mesh.shape, rules)


def ways(axis: str, sizes: Mapping[str, int], rules: Rules = RULES) -> int:
    """How many parts a logical axis is split into on a mesh of these sizes."""
    return math.prod(sizes[name] for name in rules[axis])


def replicated(mesh: Mesh) -> NamedSharding:
    """The layout of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings_like(tree: Tree, params: Tree, shardings: Tree, mesh: Mesh) -> Tree:
    """Shardings for a tree that holds copies of the parameters, such as an optimizer state.

    A leaf whose path ends in a parameter's path and that has its shape, or its shape without one
    axis (factored moments), is laid out like that parameter; every other leaf is replicated.

    Args:
      tree: any tree of arrays or ShapeDtypeStructs.
      params: the parameters, or anything with their nesting and `.shape` at the leaves.
      shardings: the parameters' shardings.
      mesh: for the replicated leaves.
    """
    known = {}
    for (path, param), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
    ):
        known[path] = (param.shape, sharding)

    def choose(path, leaf) -> NamedSharding:
        ends = (path[start:] for start in range(len(path)))
        shape, sharding = next((known[end] for end in ends if end in known), ((), replicated(mesh)))
        if shape == leaf.shape:
            return sharding
        for axis in range(len(shape)):
            if shape[:axis] + shape[axis + 1 :] == leaf.shape:
                spec = sharding.spec[:axis] + sharding.spec[axis + 1 :]
                return NamedSharding(mesh, PartitionSpec(*spec))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(choose, tree)


@contextlib.contextmanager
def use_mesh(mesh: Mesh, rules: Rules = RULES) -> Iterator[Mesh]:
    """Makes `mesh` current: the constraints on activations hold for what is traced inside."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules.items())):
        yield mesh


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks for x to be laid out by its logical axes; x itself outside `use_mesh`."""
    return nn.with_logical_constraint(x, axes)
