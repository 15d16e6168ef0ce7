"""Rotary position embedding (RoPE; Su et al. 2021, arXiv:2104.09864)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.model.config import ModelConfig, RopeScaling


class Rotation(NamedTuple):
    """Cosines and sines of the angles that each position turns pairs by, float32 [B, L, N/2]."""

    cos: jax.Array
    sin: jax.Array


def rotations(config: ModelConfig, positions_BxL: jax.Array) -> tuple[Rotation, Rotation]:
    """The rotation of layers that see all, and that of layers with a window."""
    scaling = config.rope_scaling
    frequencies, magnitude = rope_frequencies(config.head_size, config.rope_base, scaling)
    everywhere = _rotation(positions_BxL, frequencies, magnitude)
    local = everywhere
    if config.rope_local_base:
        local = _rotation(
            positions_BxL, *rope_frequencies(config.head_size, config.rope_local_base, None)
        )
    if not config.rope_everywhere:  # turning by no angle changes nothing
        everywhere = _rotation(positions_BxL, np.zeros_like(frequencies), 1.0)
    return everywhere, local


def _rotation(positions_BxL, frequencies, magnitude: float) -> Rotation:
    angles = positions_BxL[..., None].astype(jnp.float32) * frequencies
    return Rotation(jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude)


def rope_frequencies(
    head_size: int, base: float, scaling: RopeScaling | None
) -> tuple[np.ndarray, float]:
    """Radians a position of each pair, float32 [N/2]: base^(-2i/N), stretched by `scaling`.

    Returns them and what cosines and sines are multiplied by.
    """
    steps = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    frequencies = 1.0 / np.float32(base) ** steps
    if scaling is None:
        return frequencies, 1.0
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor), 1.0
    if scaling.kind == "llama3":
        kept = _llama3_kept(frequencies, scaling)
        magnitude = 1.0
    else:
        kept = _yarn_kept(head_size, base, scaling)
        magnitude = scaling.magnitude or 0.1 * math.log(scaling.factor) + 1.0
    stretched = frequencies * kept + frequencies / scaling.factor * (1 - kept)
    return stretched.astype(np.float32), magnitude


def _llama3_kept(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Which share of each frequency stays as it is: 1 for short wavelengths, 0 for long ones."""
    rotations_in_original = scaling.original_len * frequencies / (2 * math.pi)
    ramp = (rotations_in_original - scaling.low) / (scaling.high - scaling.low)
    return np.clip(ramp, 0.0, 1.0)


def _yarn_kept(head_size: int, base: float, scaling: RopeScaling) -> np.ndarray:
    """The same by YaRN: a ramp over the number of the pair (equations 19 to 23 of the paper)."""

    def pair(turns: float) -> float:
        """The pair that makes so many turns within the original length."""
        length = scaling.original_len / (2 * math.pi * turns)
        return head_size * math.log(length) / (2 * math.log(base))

    first = max(math.floor(pair(scaling.high)), 0)
    last = min(math.ceil(pair(scaling.low)), head_size - 1)
    pairs = np.arange(head_size // 2, dtype=np.float32)
    return 1 - np.clip((pairs - first) / (last - first or 1e-3), 0.0, 1.0)


def apply_rope(x_BxLxHxN: jax.Array, rotation: Rotation, interleaved: bool) -> jax.Array:
    """Turns the pairs (i, i + N/2) of every head, or (2i, 2i + 1) where `interleaved`."""
    cos, sin = rotation.cos[:, :, None], rotation.sin[:, :, None]
    x = x_BxLxHxN.astype(jnp.float32)
    if interleaved:
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = jnp.split(x, 2, axis=-1)
    turned = [
        half.astype(x_BxLxHxN.dtype)  # before they are joined, which XLA makes an array of
        for half in (first * cos - second * sin, second * cos + first * sin)
    ]
    if interleaved:
        return jnp.stack(turned, -1).reshape(x.shape)
    return jnp.concatenate(turned, -1)
