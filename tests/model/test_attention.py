"""Attention by a mask, beside attention in NumPy; the model where a mesh splits sequences."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.model import kernels
from marker_lm.model.attention import attention, segment_mask, within_window
from marker_lm.model.layout import parts, split_over
from marker_lm.model.splash import splash_attention
from marker_lm.model.transformer import Attention, Context
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import constrain, use_mesh
from tests.model.attention_cases import (
    CASES,
    KEYS,
    POSITIONS,
    QUERIES,
    SCALE,
    SEGMENTS,
    VALUES,
    B,
    H,
    K,
    L,
    N,
    assert_agree,
    reference,
    values_and_gradients,
)
from tests.model.helpers import small_config


@pytest.mark.parametrize(("window", "softcap"), CASES)
def test_values_and_gradients_agree(window, softcap):
    def by_mask(q, k, v):
        mask = segment_mask(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS))
        mask = within_window(mask, POSITIONS, POSITIONS, jnp.int32(window))
        return attention(q, k, v, mask, SCALE, softcap)

    found = values_and_gradients(by_mask)
    assert_agree(found, reference(QUERIES, KEYS, VALUES, SEGMENTS, window, softcap))


@pytest.mark.parametrize(("window", "softcap"), CASES)
def test_the_derivatives_of_the_reference_are_right(window, softcap):
    """By differences along a random direction, in float64."""
    ids = SEGMENTS[:1]
    random = np.random.default_rng(1)
    at = [np.asarray(x[:1], np.float64) for x in (QUERIES, KEYS, VALUES)]
    way = [random.normal(size=x.shape) for x in at]

    def total(step):
        moved = (x + step * d for x, d in zip(at, way, strict=True))
        return np.sum(np.sin(reference(*moved, ids, window, softcap)[0]))

    slope = (total(1e-5) - total(-1e-5)) / 2e-5
    gradients = reference(*at, ids, window, softcap)[1:]
    expected = sum(np.sum(g * d) for g, d in zip(gradients, way, strict=True))
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_a_query_that_sees_nothing_gets_the_mean_of_the_values(softcap):
    mask = np.ones((2, 256, 256), bool)
    mask[1, 3] = False
    mixed = attention(QUERIES, KEYS, VALUES, mask, SCALE, softcap)
    expected = np.repeat(VALUES[1].mean(0), 2, axis=0)
    np.testing.assert_allclose(mixed[1, 3], expected, atol=1e-6)


@pytest.mark.parametrize(
    "sizes", [dict(data=2, context=2, tensor=2), dict(data=1, fsdp=2, context=4)]
)
@pytest.mark.parametrize(("window", "softcap"), [CASES[0], CASES[3]])
def test_a_layer_attends_alike_where_sequences_are_split(sizes, window, softcap):
    config = small_config(
        **dict(heads=H, kv_heads=K, head_size=N, attention_scale=SCALE),
        **dict(windows=(window,), attention_softcap=softcap),
    )

    def by_layer(q, k, v):
        q, k, v = (
            constrain(x, "batch", "length", heads, None)
            for x, heads in ((q, "heads"), (k, "kv_heads"), (v, "kv_heads"))
        )
        mask = segment_mask(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS))
        context = Context(POSITIONS, SEGMENTS, None, None, mask, None)
        arguments = q, k, v, jnp.int32(window), context
        return Attention(config).apply({}, *arguments, method="_mix")

    with use_mesh(make_mesh(**sizes)):
        found = values_and_gradients(by_layer)
        forward = jax.jit(by_layer).lower(QUERIES, KEYS, VALUES).compile().as_text()
    assert_agree(found, reference(QUERIES, KEYS, VALUES, SEGMENTS, window, softcap))
    # A device has the products of its rows, heads and queries with all keys, and no others.
    shapes = {tuple(map(int, x.split(","))) for x in re.findall(r"f32\[([\d,]+)\]", forward)}
    products = {shape for shape in shapes if shape[-1] == L and len(shape) > 3}
    assert max(map(math.prod, products)) == B * H * L * L // 8


def test_what_a_logical_axis_is_split_over():
    assert split_over("length") == () and parts("length") == 1
    with use_mesh(make_mesh(data=2, context=2, tensor=2)):
        assert split_over("length") == ("context",) and parts("length") == 2
        assert set(split_over("batch")) >= {"data", "fsdp"} and parts("batch") == 2
        assert split_over("head") == ()


def test_the_platform_is_that_of_the_mesh():
    assert kernels.platform() == "cpu"
    with use_mesh(make_mesh(devices=jax.devices()[:1])):
        assert kernels.platform() == "cpu"


def test_which_kernel_attends(monkeypatch):
    config = small_config(attention_softcap=3.0)
    assert kernels.kernel_for(config, 256, 0.5) is None
    monkeypatch.setattr(kernels, "platform", lambda: "tpu")
    kernel = kernels.kernel_for(config, 256, 0.5)
    assert kernel.func is splash_attention and kernel.keywords == {"scale": 0.5, "softcap": 3.0}
    assert kernels.kernel_for(config, 200, 0.5) is None
    with use_mesh(make_mesh(data=2, context=4)):
        assert kernels.kernel_for(config, 256, 0.5) is None
        assert kernels.kernel_for(config, 512, 0.5) is not None
