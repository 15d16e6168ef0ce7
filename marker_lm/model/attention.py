"""Masks and attention."""

import jax
import jax.numpy as jnp

# The name of what attention gives, for remat policies that save it.
MIXED = "mixed"


def segment_mask(positions_BxL: jax.Array, segment_ids_BxL: jax.Array) -> jax.Array:
    """Boolean [B, L, L]: causal by position, within one segment; segment 0 is padding."""
    same = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    causal = positions_BxL[:, :, None] >= positions_BxL[:, None, :]
    return same & causal & (segment_ids_BxL != 0)[:, None, :]


def within_window(
    mask_BxLxS: jax.Array, positions_BxL: jax.Array, key_positions_BxS: jax.Array, window: jax.Array
) -> jax.Array:
    """The mask where a token sees only the last `window` positions, its own included; 0 is all."""
    distance_BxLxS = positions_BxL[:, :, None] - key_positions_BxS[:, None, :]
    return mask_BxLxS & ((distance_BxLxS < window) | (window == 0))


def attention(
    q_BxLxHxN: jax.Array,
    k_BxSxKxN: jax.Array,
    v_BxSxKxN: jax.Array,
    mask_BxLxS: jax.Array,
    scale: float,
    softcap: float = 0.0,
) -> jax.Array:
    """Grouped-query attention [B, L, H, N]; softmax in float32.

    A query that may see nothing gets the mean of the values, never NaN. With `softcap` c the scaled
    products x become c tanh(x / c).
    """
    B, L, H, N = q_BxLxHxN.shape
    K = k_BxSxKxN.shape[2]
    # Heads before length, so that nothing which grows with L x S is ever transposed.
    q_BxKxGxLxN = q_BxLxHxN.reshape(B, L, K, H // K, N).transpose(0, 2, 3, 1, 4)
    k_BxKxSxN, v_BxKxSxN = (x.swapaxes(1, 2) for x in (k_BxSxKxN, v_BxSxKxN))
    products = jnp.einsum(
        "bkgln,bksn->bkgls", q_BxKxGxLxN, k_BxKxSxN, preferred_element_type=jnp.float32
    )
    products *= scale
    if softcap:
        products = softcap * jnp.tanh(products / softcap)
    products = jnp.where(mask_BxLxS[:, None, None], products, jnp.finfo(jnp.float32).min)
    weights_BxKxGxLxS = jax.nn.softmax(products, axis=-1).astype(v_BxSxKxN.dtype)
    mixed_BxKxGxLxN = jnp.einsum("bkgls,bksn->bkgln", weights_BxKxGxLxS, v_BxKxSxN)
    return mixed_BxKxGxLxN.transpose(0, 3, 1, 2, 4).reshape(B, L, H, N)
