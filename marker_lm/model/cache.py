"""The key-value cache: an explicit value that goes into the model and comes back longer.

Every layer has a cache of its own. A layer that sees all has a place for each token that a row may
hold; one with a window keeps the last tokens only, in a ring: position p stands in place p mod R.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from marker_lm.model.config import ModelConfig
from marker_lm.model.layout import parts
from marker_lm.model.matrix import quantize


@flax.struct.dataclass
class Stored:
    """Keys or values of one layer, as attention multiplies by them: nothing need be moved.

    Attributes:
      values: keys [B, K, N, R] or values [B, K, R, N], of a float dtype, or int8.
      scale: float32, of int8 values, one for each token and head: N is 1; else None.
    """

    values: jax.Array
    scale: jax.Array | None = None

    def read(self, dtype) -> jax.Array:
        """All of it in a float dtype."""
        if self.scale is None:
            return self.values.astype(dtype)
        return (self.values.astype(jnp.float32) * self.scale).astype(dtype)


@flax.struct.dataclass
class LayerCache:
    """The keys [B, K, N, R] and the values [B, K, R, N] of one layer."""

    k: Stored
    v: Stored

    @property
    def places(self) -> int:
        """R, how many tokens are kept."""
        return self.v.values.shape[2]

    def map(self, function: Callable[..., jax.Array], *others: "LayerCache") -> "LayerCache":
        """function(array, *others, axis=) of every array; `axis` is that of the places."""
        k, v = (
            jax.tree.map(functools.partial(function, axis=axis), *parts)
            for axis, parts in (
                (3, (x.k for x in (self, *others))),
                (2, (x.v for x in (self, *others))),
            )
        )
        return LayerCache(k, v)


@flax.struct.dataclass
class KVCache:
    """Keys and values of the tokens so far. Axis 0 of every array are the rows.

    Attributes:
      layers: one `LayerCache` a layer, with `ring_size` places.
      length: int32 [B], the tokens each row has read. Rows differ.
      size: S, the tokens a row can hold.
      windows: of the layers, 0 where one sees all.
    """

    layers: tuple[LayerCache, ...]
    length: jax.Array
    size: int = flax.struct.field(pytree_node=False)
    windows: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def take(self, rows: jax.Array) -> "KVCache":
        """The cache of `rows` (int [B']), repeated or reordered at will."""
        return jax.tree.map(lambda x: x[rows], self)


class Place(NamedTuple):
    """Where new tokens go.

    Attributes:
      positions_BxL: int32.
      real_BxL: bool, the tokens that are written; padding is not, nor what is beyond the size.
      before_B, after_B: int32, the lengths of the rows.
    """

    positions_BxL: jax.Array
    real_BxL: jax.Array
    before_B: jax.Array
    after_B: jax.Array


class Seen(NamedTuple):
    """What new tokens of a layer attend to.

    Attributes:
      k_BxKxNxS, v_BxKxSxN: in the compute dtype.
      positions_BxS: int32, of the keys; negative where a place is empty.
      mask_BxLxS: bool, keys up to a token's own position. A window is not in it.
    """

    k_BxKxNxS: jax.Array
    v_BxKxSxN: jax.Array
    positions_BxS: jax.Array
    mask_BxLxS: jax.Array


def ring_size(window: int, size: int) -> int:
    """R, the places of a layer's cache for rows of up to `size` tokens; window 0 sees all."""
    return min(window or size, size)


def init_cache(config: ModelConfig, batch: int, size: int, dtype=None) -> KVCache:
    """An empty cache for `batch` rows of up to `size` tokens.

    Under `use_mesh` its rows (where they divide) and heads are split as those of the keys are.

    Args:
      dtype: the compute dtype where it is None or ''; 'int8' keeps scales too.
    """
    dtype = jnp.dtype(dtype or config.dtype)
    rows = "batch" if batch % parts("batch") == 0 else None

    def empty(shape, dtype):
        zeros = jnp.zeros((batch, config.kv_heads, *shape), dtype)
        return nn.with_logical_constraint(zeros, (rows, "kv_heads", None, None))

    def layer(places: int) -> LayerCache:
        keys, values = (config.head_size, places), (places, config.head_size)
        if not jnp.issubdtype(dtype, jnp.integer):
            return LayerCache(Stored(empty(keys, dtype)), Stored(empty(values, dtype)))
        scales = empty((1, places), jnp.float32), empty((places, 1), jnp.float32)
        return LayerCache(
            Stored(empty(keys, dtype), scales[0]), Stored(empty(values, dtype), scales[1])
        )

    layers = tuple(layer(ring_size(window, size)) for window in config.layer_windows)
    return KVCache(layers, jnp.zeros((batch,), jnp.int32), size, config.layer_windows)


def find_place(cache: KVCache, positions_BxL: jax.Array, segment_ids_BxL: jax.Array) -> Place:
    """Where new tokens go; those of segment 0 are padding."""
    real_BxL = (segment_ids_BxL != 0) & (positions_BxL < cache.size)
    last_B = jnp.max(jnp.where(real_BxL, positions_BxL + 1, 0), axis=1)
    after_B = jnp.maximum(cache.length, last_B).astype(jnp.int32)
    return Place(positions_BxL, real_BxL, cache.length, after_B)


def extend_layer(
    layer: LayerCache, place: Place, k_BxLxKxN: jax.Array, v_BxLxKxN: jax.Array, ring: bool
) -> tuple[Seen, LayerCache]:
    """Writes new keys and values of one layer, in place under jit.

    Args:
      layer: the cache.
      place: where they go.
      k_BxLxKxN, v_BxLxKxN: in the compute dtype.
      ring: whether old tokens make room for new ones.
    """
    dtype = k_BxLxKxN.dtype
    new = LayerCache(
        _stored(k_BxLxKxN.transpose(0, 2, 3, 1), layer.k, axis=2),
        _stored(v_BxLxKxN.transpose(0, 2, 1, 3), layer.v, axis=3),
    )
    written = _write(layer, new, place)
    if not ring or place.positions_BxL.shape[1] == 1:
        shown, positions_BxS = written, _positions(place.after_B, layer.places)
    else:
        # The first of many new tokens see some that the last ones replace.
        shown = layer.map(lambda old, more, axis: jnp.concatenate([old, more], axis), new)
        new_BxL = jnp.where(place.real_BxL, place.positions_BxL, -1)
        positions_BxS = jnp.concatenate([_positions(place.before_B, layer.places), new_BxL], 1)
    key_Bx1xS = positions_BxS[:, None]
    mask_BxLxS = (key_Bx1xS >= 0) & (key_Bx1xS <= place.positions_BxL[:, :, None])
    return Seen(shown.k.read(dtype), shown.v.read(dtype), positions_BxS, mask_BxLxS), written


def _stored(x: jax.Array, like: Stored, axis: int) -> Stored:
    """x in the dtype of another; `axis` is that of N, which shares a scale."""
    if like.scale is None:
        return Stored(x.astype(like.values.dtype))
    return Stored(*quantize(x, (axis,)))


def _write(layer: LayerCache, new: LayerCache, place: Place) -> LayerCache:
    places = layer.places
    last_BxL = place.real_BxL & (place.positions_BxL >= place.after_B[:, None] - places)
    slots_BxL = jnp.where(last_BxL, place.positions_BxL % places, places)  # the end: dropped
    rows_Bx1 = jnp.arange(slots_BxL.shape[0])[:, None]

    def write(into, x, axis: int):
        at = (rows_Bx1, slice(None), slots_BxL) if axis == 2 else (rows_Bx1, ..., slots_BxL)
        return into.at[at].set(jnp.moveaxis(x, axis, 1), mode="drop")

    return layer.map(write, new)


def _positions(length_B: jax.Array, places: int) -> jax.Array:
    """int32 [B, R]: the position that each place of a ring holds, negative where it is empty."""
    last_Bx1 = length_B[:, None] - 1
    return last_Bx1 - (last_Bx1 - jnp.arange(places)) % places


def put_rows(cache: KVCache, rows: KVCache, at_P: jax.Array) -> KVCache:
    """`cache` with other rows in place of some of its own, in place under jit.

    Args:
      cache: of B rows.
      rows: of P rows and the same or a smaller size.
      at_P: int32, which row of `cache` each one replaces; B, past the end, leaves one out.
    """

    def put(into, new, axis: int):
        at = (
            (at_P, slice(None), slice(new.shape[2]))
            if axis == 2
            else (at_P, ..., slice(new.shape[3]))
        )
        return into.at[at].set(new, mode="drop")

    layers = tuple(into.map(put, new) for into, new in zip(cache.layers, rows.layers, strict=True))
    return cache.replace(layers=layers, length=cache.length.at[at_P].set(rows.length, mode="drop"))


def with_size(cache: KVCache, size: int) -> KVCache:
    """The cache with room for `size` tokens a row; no row that is still used may hold more.

    A ring that has not its window's size yet has not begun anew: its places are still positions.
    """

    def fit(layer: LayerCache, window: int) -> LayerCache:
        places = ring_size(window, size)

        def fit_array(x, axis: int):
            kept = jax.lax.slice_in_dim(x, 0, min(places, x.shape[axis]), axis=axis)
            more = [(0, 0)] * x.ndim
            more[axis] = (0, places - kept.shape[axis])
            return jnp.pad(kept, more)

        return layer.map(fit_array)

    return cache.replace(layers=tuple(map(fit, cache.layers, cache.windows)), size=size)
