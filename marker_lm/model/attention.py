"""Masks and attention."""

import jax


def segment_mask(positions_BxL: jax.Array, segment_ids_BxL: jax.Array) -> jax.Array:
    """Boolean [B, L, L]: causal by position, within one segment; segment 0 is padding."""
    same = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    causal = positions_BxL[:, :, None] >= positions_BxL[:, None, :]
    return same & causal & (segment_ids_BxL != 0)[:, None, :]


def attention(
    q_BxLxHxN: jax.Array, k_BxSxKxN: jax.Array, v_BxSxKxN: jax.Array, mask_BxLxS: jax.Array
) -> jax.Array:
    """Grouped-query attention [B, L, H, N]; scale 1/sqrt(N), softmax in float32.

    A query that may see nothing gets the mean of the values, never NaN.
    """
    return jax.nn.dot_product_attention(q_BxLxHxN, k_BxSxKxN, v_BxSxKxN, mask=mask_BxLxS[:, None])
