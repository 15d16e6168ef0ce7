"""The key-value cache: an explicit value that goes into the model and comes back longer.

Every layer has a cache of its own. A layer that sees all has a place for each token that a row may
hold; one with a window keeps the last tokens only, in a ring: position p stands in place p mod R.
"""

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
    """Keys or values of one layer, heads before length: attention need not move them.

    Attributes:
      values: [B, K, R, N], of a float dtype, or int8.
      scale: float32 [B, K, R, 1], of int8 values, one for each token and head; else None.
    """

    values: jax.Array
    scale: jax.Array | None = None

    def read(self, dtype) -> jax.Array:
        if self.scale is None:
            return self.values.astype(dtype)
        return (self.values.astype(jnp.float32) * self.scale).astype(dtype)


@flax.struct.dataclass
class LayerCache:
    """The keys and the values of one layer."""

    k: Stored
    v: Stored


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
      k_BxKxSxN, v_BxKxSxN: in the compute dtype.
      positions_BxS: int32, of the keys; negative where a place is empty.
      mask_BxLxS: bool, keys up to a token's own position. A window is not in it.
    """

    k_BxKxSxN: jax.Array
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

    def empty(*shape, dtype):
        zeros = jnp.zeros((batch, config.kv_heads, *shape), dtype)
        return nn.with_logical_constraint(zeros, (rows, "kv_heads", None, "head"))

    def stored(places: int) -> Stored:
        values = empty(places, config.head_size, dtype=dtype)
        integer = jnp.issubdtype(dtype, jnp.integer)
        return Stored(values, empty(places, 1, dtype=jnp.float32) if integer else None)

    layers = tuple(
        LayerCache(stored(places), stored(places))
        for places in (ring_size(window, size) for window in config.layer_windows)
    )
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
    dtype, places = k_BxLxKxN.dtype, layer.k.values.shape[2]
    new = LayerCache(*(_stored(x, layer.k.values.dtype) for x in (k_BxLxKxN, v_BxLxKxN)))
    written = _write(layer, new, place)
    if not ring or place.positions_BxL.shape[1] == 1:
        shown, positions_BxS = written, _positions(place.after_B, places)
    else:
        # The first of many new tokens see some that the last ones replace.
        shown = jax.tree.map(lambda old, more: jnp.concatenate([old, more], 2), layer, new)
        new_BxL = jnp.where(place.real_BxL, place.positions_BxL, -1)
        positions_BxS = jnp.concatenate([_positions(place.before_B, places), new_BxL], axis=1)
    key_Bx1xS = positions_BxS[:, None]
    mask_BxLxS = (key_Bx1xS >= 0) & (key_Bx1xS <= place.positions_BxL[:, :, None])
    return Seen(shown.k.read(dtype), shown.v.read(dtype), positions_BxS, mask_BxLxS), written


def _stored(x_BxLxKxN: jax.Array, dtype) -> Stored:
    x_BxKxLxN = x_BxLxKxN.swapaxes(1, 2)
    if jnp.issubdtype(dtype, jnp.integer):
        return Stored(*quantize(x_BxKxLxN, (-1,)))
    return Stored(x_BxKxLxN.astype(dtype))


def _write(layer: LayerCache, new: LayerCache, place: Place) -> LayerCache:
    places = layer.k.values.shape[2]
    last_BxL = place.real_BxL & (place.positions_BxL >= place.after_B[:, None] - places)
    slots_BxL = jnp.where(last_BxL, place.positions_BxL % places, places)  # the end: dropped
    rows_Bx1 = jnp.arange(slots_BxL.shape[0])[:, None]

    def write(into_BxKxRxn, x_BxKxLxn):
        x_BxLxKxn = x_BxKxLxn.swapaxes(1, 2)
        return into_BxKxRxn.at[rows_Bx1, :, slots_BxL].set(x_BxLxKxn, mode="drop")

    return jax.tree.map(write, layer, new)


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

    def put(into, new):
        if new.ndim == 1:
            return into.at[at_P].set(new, mode="drop")
        return into.at[at_P, :, : new.shape[2]].set(new, mode="drop")

    layers, length = jax.tree.map(put, (cache.layers, cache.length), (rows.layers, rows.length))
    return cache.replace(layers=layers, length=length)


def with_size(cache: KVCache, size: int) -> KVCache:
    """The cache with room for `size` tokens a row; no row that is still used may hold more.

    A ring that has not its window's size yet has not begun anew: its places are still positions.
    """

    def fit(layer: LayerCache, window: int) -> LayerCache:
        places = ring_size(window, size)

        def fit_array(x_BxKxRxn):
            kept = x_BxKxRxn[:, :, :places]
            return jnp.pad(kept, [(0, 0), (0, 0), (0, places - kept.shape[2]), (0, 0)])

        return jax.tree.map(fit_array, layer)

    return cache.replace(layers=tuple(map(fit, cache.layers, cache.windows)), size=size)
