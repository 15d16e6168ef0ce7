"""The attention kernel of TPUs, run by interpretation, beside attention over a whole mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.model.attention import attention, segment_mask, within_window
from marker_lm.model.splash import platform, splash_attention
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import use_mesh

B, L, H, K, N = 2, 256, 4, 2, 24
SCALE = 0.2
RANDOM = np.random.default_rng(0)
QUERIES = RANDOM.normal(size=(B, L, H, N)).astype(np.float32)
KEYS, VALUES = RANDOM.normal(size=(2, B, L, K, N)).astype(np.float32)
# Three segments and padding a row, none of them at a border of the kernel's blocks.
BORDERS = [[50, 131, 236], [7, 8, 255]]
SEGMENTS = np.stack([np.searchsorted(b, np.arange(L), side="right") + 1 for b in BORDERS])
SEGMENTS = np.where(SEGMENTS == 4, 0, SEGMENTS).astype(np.int32)
POSITIONS = np.stack(
    [
        np.arange(L) - np.concatenate([[0], b])[np.searchsorted(b, np.arange(L), "right")]
        for b in BORDERS
    ]
).astype(np.int32)
REAL = (SEGMENTS != 0)[:, :, None, None]


def by_mask(q, k, v, window: int, softcap: float):
    mask = segment_mask(POSITIONS, SEGMENTS)
    mask = within_window(mask, POSITIONS, POSITIONS, jnp.int32(window))
    return attention(q, k, v, mask, SCALE, softcap)


def by_kernel(q, k, v, window: int, softcap: float):
    ids = jnp.asarray(SEGMENTS)
    return splash_attention(q, k, v, ids, SCALE, softcap, window, interpret=True)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (17, 0.0), (0, 5.0), (130, 5.0)])
def test_values_and_gradients_agree(window, softcap):
    def both(attend):
        def total(q, k, v):
            mixed = attend(q, k, v, window, softcap) * REAL
            return jnp.sum(jnp.sin(mixed)), mixed

        grad = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
        (_, mixed), gradients = jax.jit(grad)(QUERIES, KEYS, VALUES)
        return mixed, *gradients

    for found, expected in zip(both(by_kernel), both(by_mask), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_on_a_mesh_rows_and_heads_are_split():
    mesh = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    with use_mesh(mesh):
        found = jax.jit(by_kernel, static_argnums=(3, 4))(QUERIES, KEYS, VALUES, 17, 0.0)
    expected = by_mask(QUERIES, KEYS, VALUES, 17, 0.0)
    np.testing.assert_allclose(found * REAL, expected * REAL, atol=1e-5)


def test_the_length_must_be_whole_registers():
    short = [x[:, :100] for x in (QUERIES, KEYS, VALUES, SEGMENTS)]
    with pytest.raises(ValueError, match="sequences have 100 tokens.*multiple of 128"):
        splash_attention(*short, SCALE)


def test_the_platform_is_that_of_the_mesh():
    assert platform() == "cpu"
    with use_mesh(make_mesh(devices=jax.devices()[:1])):
        assert platform() == "cpu"
