"""Tensors of a pretrained model, straight into sharded device arrays.

Host memory never holds more than the arrays themselves (where devices are the host's own) and one
piece: a layer of one parameter, or some rows of a table. Every host reads only the box of a tensor
that its devices hold.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from marker_lm.convert.check import check_tensors, check_tied_head, model_config, their_tensors
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.pretrained import Pretrained
from marker_lm.convert.source import PIECE, Index, TensorSource
from marker_lm.convert.tensors import TheirTensor
from marker_lm.markers.definitions import MarkerRows
from marker_lm.model.config import ModelConfig
from marker_lm.model.marker_rows import init_marker_rows
from marker_lm.model.params import ArrayInfo, abstract_params
from marker_lm.progress import Progress
from marker_lm.sharding.rules import param_shardings


def load_config(path: epath.PathLike, **runtime) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder or GGUF file; `runtime` sets or overrides fields.

    Raises ConvertError.
    """
    return model_config(open_pretrained(path), **runtime)


def load_params(
    pretrained: Pretrained, config: ModelConfig, mesh, log: Callable[[str], None] = print
):
    """The parameters of a pretrained model, laid out on `mesh`.

    Args:
      pretrained: from `open_pretrained`.
      config: of `load_config`; its vocabulary may be larger: then new rows of the tables are zeros.
      mesh: see sharding/mesh.py.
      log: takes lines for people.

    Raises ConvertError: a missing or an extra tensor, a wrong shape, another architecture.
    """
    family, table = their_tensors(pretrained, config)
    source = pretrained.tensors
    for head in check_tensors(pretrained, family, table, log):
        check_tied_head(source, head, table["embedding"][0].name)

    with Progress("load", sum(map(len, table.values()))) as progress:

        def load(path, info: ArrayInfo, sharding) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            array = load_array(source, table[name], info, sharding)
            progress.update(progress.done + len(table[name]), name)
            return array

        return jax.tree_util.tree_map_with_path(
            load, abstract_params(config), param_shardings(config, mesh)
        )


def with_marker_rows(params, rows: MarkerRows):
    """The parameters with rows of marker tokens in all tables, see model/marker_rows.py.

    The tables that are given can't be used afterwards.
    """
    fill = jax.jit(functools.partial(init_marker_rows, rows=rows), donate_argnums=0)
    tables = {name: fill(params[name]) for name in ("embedding", "head") if name in params}
    return params | tables


def trained_markers(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a pretrained model knows the marker tokens of a run: its rows for them are kept.

    Args:
      before: what marker_lm.json says, {} of a model that was not exported from a run.
      now: the facts of the run.
    """
    same = ("taxonomy_hash", "tokenizer_hash")
    return bool(before) and (
        all(before[key] == now[key] for key in same)
        and before["config"]["template"] == now["config"]["template"]
    )


def load_array(
    source: TensorSource, tensors: list[TheirTensor], info: ArrayInfo, sharding: Any
) -> jax.Array:
    """One parameter from one tensor of theirs, or from one a layer."""
    local = {
        device: tuple(range(n)[part] for part, n in zip(index, info.shape, strict=True))
        for device, index in sharding.addressable_devices_indices_map(info.shape).items()
    }
    shards = load_shards(source, tensors, info, local)
    return jax.make_array_from_single_device_arrays(info.shape, sharding, list(shards.values()))


def load_shards(
    source: TensorSource,
    tensors: list[TheirTensor],
    info: ArrayInfo,
    local: Mapping[jax.Device, tuple[range, ...]],
) -> dict[jax.Device, jax.Array]:
    """The parts `local` of a parameter, each on its device; what the file lacks is zeros."""
    shards = {
        device: jnp.zeros([len(r) for r in ranges], info.dtype, device=device)
        for device, ranges in local.items()
    }
    held = [_hull(ranges) for ranges in zip(*local.values(), strict=True)]
    for tensor, target in _pieces(tensors, info, source.dtype(tensors[0].name).itemsize):
        wanted = _common(target, held)
        if not all(wanted):
            continue
        host = locate(tensor, wanted, stacked=info.axes[0] == "layers")
        data = source.read(tensor.name, host.box)
        for device, ranges in local.items():
            wanted = _common(target, ranges)
            if not all(wanted):
                continue
            place = locate(tensor, wanted, stacked=info.axes[0] == "layers")
            starts = [w.start - r.start for w, r in zip(wanted, ranges, strict=True)]
            part = data[_relative(place.box, host.box)]
            shape = tuple(len(r) for r in wanted)
            shards[device] = _write(
                shards[device], part, starts, split=place.split, axes=place.axes, shape=shape
            )
        # Devices that lag behind would keep the pieces alive.
        jax.block_until_ready(list(shards.values()))
    return shards


@functools.partial(jax.jit, donate_argnums=0, static_argnames=("split", "axes", "shape"))
def _write(shard, part, starts, *, split, axes, shape):
    """A part in their layout, written into a shard in ours, in place."""
    part = part.reshape(split).transpose(axes).reshape(shape)
    return jax.lax.dynamic_update_slice(shard, part.astype(shard.dtype), starts)


def _pieces(
    tensors: list[TheirTensor], info: ArrayInfo, itemsize: int
) -> Iterator[tuple[TheirTensor, list[range]]]:
    """What is read at once: a tensor or some rows of it, and where that lies in the parameter."""
    if info.axes[0] == "layers":
        for layer, tensor in enumerate(tensors):
            yield tensor, [range(layer, layer + 1), *map(range, info.shape[1:])]
        return
    [tensor] = tensors
    rows = _ours(tensor).shape[0]  # a file's table may have fewer than the parameter
    step = max(PIECE * rows // max(int(np.prod(tensor.shape)) * itemsize, 1), 1)
    for start in range(0, rows, step):
        yield tensor, [range(start, min(start + step, rows)), *map(range, info.shape[1:])]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a part of a parameter lies in their tensor.

    Attributes:
      box: what to read of it.
      split, axes: `box.reshape(split).transpose(axes)` is the part.
    """

    box: Index
    split: tuple[int, ...]
    axes: tuple[int, ...]


def locate(tensor: TheirTensor, wanted: list[range], stacked: bool) -> Place:
    """The Place of the part `wanted` of a parameter; `stacked`: the first axis is that of layers.

    Reshapes and transposes are views to NumPy, so a view of an array that is never written tells by
    its strides which elements of theirs a part of ours consists of.
    """
    whole = _ours(tensor)
    part = whole[tuple(slice(r.start, r.stop) for r in (wanted[1:] if stacked else wanted))]
    first = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    last = first + sum((n - 1) * step for n, step in zip(part.shape, part.strides, strict=True))
    corners = (np.unravel_index(at, tensor.shape) for at in (first, last))
    box = tuple(slice(int(low), int(high) + 1) for low, high in zip(*corners, strict=True))
    by_stride = sorted(range(part.ndim), key=lambda axis: -part.strides[axis])
    return Place(
        box=box,
        split=tuple(part.shape[axis] for axis in by_stride),
        axes=tuple(by_stride.index(axis) for axis in range(part.ndim)),
    )


def _ours(tensor: TheirTensor) -> np.ndarray:
    """A view, in our layout, of bytes that nobody ever touches: no memory is taken for them."""
    whole = np.empty(tensor.shape, np.int8)
    ours = tensor.to_ours(whole)
    assert np.may_share_memory(whole, ours), f"{tensor.name}: to_ours copies"
    return ours


def _hull(ranges: tuple[range, ...]) -> range:
    """The smallest range that holds all of them."""
    return range(min(r.start for r in ranges), max(r.stop for r in ranges))


def _common(a: list[range], b) -> list[range]:
    """Axis by axis, what two boxes have in common."""
    return [
        range(max(x.start, y.start), max(min(x.stop, y.stop), max(x.start, y.start)))
        for x, y in zip(a, b, strict=True)
    ]


def _relative(inner: Index, outer: Index) -> Index:
    """The index of a box within another one that was read."""
    return tuple(
        slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
    )
