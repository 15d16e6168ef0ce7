"""The one abstract parameter tree: shape, dtype, logical axes and initializer of every array.

Initialisation, sharding, checkpoint restore and conversion all read this tree; the modules in
`transformer.py` declare their parameters from it too, so the two can not drift apart.
"""

import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.nn import initializers

from marker_lm.model import lora
from marker_lm.model.config import ModelConfig

Tree = Any


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
    """What is known of a parameter before it exists. `init(key, shape, dtype)` makes it.

    `inputs`: how many axes, from the first, a matrix of a block sums over; 0 for all other arrays.
    """

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str, ...]
    init: initializers.Initializer
    inputs: int = 0


def _truncated_normal(std: float) -> initializers.Initializer:
    # Cutting a normal at two standard deviations leaves this much of its standard deviation.
    return initializers.truncated_normal(std / 0.87962566103423978)


def norm_params(config: ModelConfig) -> dict[str, ArrayInfo]:
    """Scales of the norms of one block, which stand around attention and feed-forward."""
    names = ["attention_norm"]
    if not config.parallel:
        names.append("mlp_norm")
    if config.post_norms:
        names += ["attention_post_norm", "mlp_post_norm"]
    return {name: _scale(config, (config.width,), ("embed",)) for name in names}


def _scale(config: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...]) -> ArrayInfo:
    """The scale of a norm, such that it begins as 1."""
    init = initializers.constant(1 - config.norm_offset)
    return ArrayInfo(shape, jnp.dtype(config.param_dtype), axes, init)


def attention_params(config: ModelConfig) -> dict[str, ArrayInfo]:
    """Parameters of the attention part of one block, LoRA's factors among them."""
    D, H, K, N = config.width, config.heads, config.kv_heads, config.head_size
    dtype = jnp.dtype(config.param_dtype)
    fan_in = _truncated_normal(D**-0.5)
    out = _truncated_normal((H * N) ** -0.5 / math.sqrt(2 * config.layers))
    params = {
        "query": ArrayInfo((D, H, N), dtype, ("embed", "heads", "head"), fan_in, inputs=1),
        "key": ArrayInfo((D, K, N), dtype, ("embed", "kv_heads", "head"), fan_in, inputs=1),
        "value": ArrayInfo((D, K, N), dtype, ("embed", "kv_heads", "head"), fan_in, inputs=1),
        "out": ArrayInfo((H, N, D), dtype, ("heads", "head", "embed"), out, inputs=2),
    }
    params = lora.with_factors(config, "layers/attention", params)
    heads = {"query": (H, "heads"), "key": (K, "kv_heads"), "value": (K, "kv_heads")}
    if config.qkv_bias:
        for name, (count, axis) in heads.items():
            shape, axes = (count, N), (axis, "head")
            params[f"{name}_bias"] = ArrayInfo(shape, dtype, axes, initializers.zeros)
    for name in ("query", "key") if config.qk_norm != "none" else ():
        count, axis = heads[name]
        per_head = config.qk_norm == "per_head"
        shape, axes = ((count, N), (axis, "head")) if per_head else ((N,), ("head",))
        params[f"{name}_norm"] = _scale(config, shape, axes)
    return params


def mlp_params(config: ModelConfig) -> dict[str, ArrayInfo]:
    """Parameters of the gated feed-forward part of one block, LoRA's factors among them."""
    D, F = config.width, config.ff
    dtype = jnp.dtype(config.param_dtype)
    fan_in = _truncated_normal(D**-0.5)
    out = _truncated_normal(F**-0.5 / math.sqrt(2 * config.layers))
    params = {
        "gate": ArrayInfo((D, F), dtype, ("embed", "mlp"), fan_in, inputs=1),
        "up": ArrayInfo((D, F), dtype, ("embed", "mlp"), fan_in, inputs=1),
        "down": ArrayInfo((F, D), dtype, ("mlp", "embed"), out, inputs=1),
    }
    return lora.with_factors(config, "layers/mlp", params)


def outer_params(config: ModelConfig) -> dict[str, ArrayInfo]:
    """Parameters outside the blocks; both tables are [vocab, width]."""
    D, V = config.width, config.vocab
    dtype = jnp.dtype(config.param_dtype)
    tables = {"embedding": ArrayInfo((V, D), dtype, ("vocab", "embed"), _truncated_normal(0.02))}
    if not config.tied_head:
        tables["head"] = ArrayInfo((V, D), dtype, ("vocab", "embed"), _truncated_normal(D**-0.5))
    return tables | {"final_norm": _scale(config, (D,), ("embed",))}


def abstract_params(config: ModelConfig) -> Tree:
    """The tree of `ArrayInfo`: the same nesting as the parameters, blocks stacked on axis 0.

    Raises:
      ValueError: config.lora has no target among the matrices.
    """

    def stack(info: ArrayInfo) -> ArrayInfo:
        # Initialisers draw every element alike, so the stacked array needs no loop over layers.
        return dataclasses.replace(
            info, shape=(config.layers, *info.shape), axes=("layers", *info.axes)
        )

    block = norm_params(config) | {
        "attention": attention_params(config),
        "mlp": mlp_params(config),
    }
    tree = outer_params(config) | {"layers": jax.tree.map(stack, block)}
    lora.check_targets(config, tree)
    return tree


def abstract_arrays(config: ModelConfig) -> Tree:
    """The tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda info: jax.ShapeDtypeStruct(info.shape, info.dtype), abstract_params(config)
    )


def init_params(config: ModelConfig, key: jax.Array) -> Tree:
    """Fresh parameters as a plain nested dict of arrays.

    Call it under `jax.jit` with `out_shardings` to have them made in place; the values do not
    depend on the sharding. A parameter's key comes from its path, so the others keep their
    values when one is added.
    """

    def make(path, info: ArrayInfo) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return info.init(jax.random.fold_in(key, zlib.crc32(name.encode())), info.shape, info.dtype)

    return jax.tree_util.tree_map_with_path(make, abstract_params(config))


def parameter_count(config: ModelConfig, paths: frozenset[str] | None = None) -> int:
    """Number of scalar parameters, of those at `paths` or of all."""
    infos = flatten_dict(abstract_params(config), sep="/")
    return sum(math.prod(infos[path].shape) for path in (infos if paths is None else paths))
