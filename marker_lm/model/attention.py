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
    mask_Bx1xLxS = mask_BxLxS[:, None]
    if not softcap:
        return jax.nn.dot_product_attention(
            q_BxLxHxN, k_BxSxKxN, v_BxSxKxN, mask=mask_Bx1xLxS, scale=scale
        )
    B, L, H, N = q_BxLxHxN.shape
    K = k_BxSxKxN.shape[2]
    q_BxLxKxGxN = q_BxLxHxN.reshape(B, L, K, H // K, N)
    products = jnp.einsum(
        "blkgn,bskn->bkgls", q_BxLxKxGxN, k_BxSxKxN, preferred_element_type=jnp.float32
    )
    products = softcap * jnp.tanh(products * (scale / softcap))
    lowest = jnp.finfo(jnp.float32).min
    products = jnp.where(mask_Bx1xLxS[:, None], products, lowest)
    weights_BxKxGxLxS = jax.nn.softmax(products, axis=-1).astype(v_BxSxKxN.dtype)
    return jnp.einsum("bkgls,bskn->blkgn", weights_BxKxGxLxS, v_BxSxKxN).reshape(B, L, H, N)
