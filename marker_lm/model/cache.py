"""The key-value cache: an explicit value that goes into the model and comes back longer."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from marker_lm.model.config import ModelConfig
from marker_lm.model.layout import parts


@flax.struct.dataclass
class KVCache:
    """Keys and values of the tokens so far; slot s of a row holds the token at position s.

    Attributes:
      k, v: [layers, B, S, K, N].
      length: int32 [B], the tokens each row holds. Rows differ.
    """

    k: jax.Array
    v: jax.Array
    length: jax.Array

    @property
    def size(self) -> int:
        """S, the tokens a row can hold."""
        return self.k.shape[2]

    def take(self, rows: jax.Array) -> "KVCache":
        """The cache of `rows` (int [B']), repeated or reordered at will."""
        return KVCache(self.k[:, rows], self.v[:, rows], self.length[rows])


def init_cache(config: ModelConfig, batch: int, size: int, dtype=None) -> KVCache:
    """An empty cache for `batch` rows of up to `size` tokens; `dtype` is the compute dtype.

    Under `use_mesh` its rows (where they divide) and heads are split as those of the keys are.
    """
    shape = (config.layers, batch, size, config.kv_heads, config.head_size)
    dtype = jnp.dtype(dtype or config.dtype)
    rows = "batch" if batch % parts("batch") == 0 else None

    def empty():
        zeros = jnp.zeros(shape, dtype)
        return nn.with_logical_constraint(zeros, ("layers", rows, None, "kv_heads", "head"))

    return KVCache(empty(), empty(), jnp.zeros((batch,), jnp.int32))


def cache_slots(
    cache: KVCache, positions_BxL: jax.Array, segment_ids_BxL: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where new tokens go and what they see.

    Returns:
      slots int32 [B, L] (S, past the end, for padding: such a write is dropped), mask bool
      [B, L, S] (filled slots up to the token's own position), and the new lengths int32 [B].
    """
    real = segment_ids_BxL != 0
    slots = jnp.where(real, positions_BxL, cache.size)
    last_B = jnp.max(jnp.where(slots < cache.size, slots + 1, 0), axis=1)
    length_B = jnp.maximum(cache.length, last_B).astype(jnp.int32)
    slot_S = jnp.arange(cache.size)
    seen = slot_S <= positions_BxL[:, :, None]
    return slots, seen & (slot_S < length_B[:, None])[:, None], length_B


def write_layer(
    array: jax.Array, layer: jax.Array, slots_BxL: jax.Array, new_BxLxKxN: jax.Array
) -> jax.Array:
    """Writes new keys or values of one layer into [layers, B, S, K, N], in place under jit."""
    rows = jnp.arange(slots_BxL.shape[0])[:, None]
    return array.at[layer, rows, slots_BxL].set(new_BxLxKxN.astype(array.dtype), mode="drop")


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
        return into.at[:, at_P, : new.shape[2]].set(new, mode="drop")

    return jax.tree.map(put, cache, rows)


def with_size(cache: KVCache, size: int) -> KVCache:
    """The cache with room for `size` tokens a row; no row that is still used may hold more."""

    def fit(array):
        if array.ndim == 1:
            return array
        kept = array[:, :, :size]
        more = [(0, 0)] * array.ndim
        more[2] = (0, size - kept.shape[2])
        return jnp.pad(kept, more)

    return jax.tree.map(fit, cache)
