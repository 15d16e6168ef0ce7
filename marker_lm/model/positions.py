"""Rotary position embedding (RoPE; Su et al. 2021, arXiv:2104.09864)."""

import jax
import jax.numpy as jnp


def rope_angles(positions_BxL: jax.Array, head_size: int, base: float) -> jax.Array:
    """Angles in radians, float32 [B, L, N/2]: position * base^(-2i/N)."""
    wavelengths = base ** (jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    return positions_BxL[..., None].astype(jnp.float32) / wavelengths


def apply_rope(x_BxLxHxN: jax.Array, cos_BxLxN2: jax.Array, sin_BxLxN2: jax.Array) -> jax.Array:
    """Turns the pairs (i, i + N/2) of every head by the position's angles (half-split layout)."""
    cos, sin = cos_BxLxN2[:, :, None], sin_BxLxN2[:, :, None]
    first, second = jnp.split(x_BxLxHxN.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxLxHxN.dtype)
