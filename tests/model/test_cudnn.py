"""cuDNN's attention without a GPU: what it is told, and when it is chosen."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn

from marker_lm.model import cudnn, kernels
from marker_lm.model.attention import segment_mask, within_window
from marker_lm.model.cudnn import (
    can_pack,
    cudnn_attention,
    fault,
    most_segments,
    obstacle,
    places,
    seen,
)
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import use_mesh
from tests.model.attention_cases import (
    KEYS,
    QUERIES,
    SCALE,
    SEGMENTS,
    VALUES,
    B,
    assert_agree,
    reference,
    values_and_gradients,
)
from tests.model.helpers import small_config

FITS = dict(head_size=64, dtype="bfloat16")


@pytest.mark.parametrize(
    ("changes", "length", "capability", "reason"),
    [
        ({}, 256, "8.0", ""),
        (dict(head_size=256), 256, "9.0", ""),
        (dict(head_size=256), 256, "8.6", "heads have size 256; .* up to 128"),
        (dict(head_size=20), 256, "9.0", "heads have size 20; .* multiple of 8"),
        (dict(dtype="float32"), 256, "9.0", "the model in float32"),
        (dict(attention_softcap=50.0), 256, "9.0", "no soft-cap .*50"),
        ({}, 255, "9.0", "255 tokens; it wants an even number"),
        ({}, 256, "7.5", "compute capability 7.5"),
        ({}, 256, "gfx942", "compute capability gfx942"),
    ],
)
def test_what_keeps_cudnn_from_attending(changes, length, capability, reason):
    found = obstacle(small_config(**(FITS | changes)), length, capability)
    assert re.fullmatch(reason and f".*{reason}.*", found)


def rows_of_segments(length: int):
    """Segment ids of a row: 1, 2, ... in pieces, and padding at the end."""

    def ids(borders, padding):
        at = np.arange(length)
        row = np.searchsorted(sorted(borders), at, side="right") + 1
        return np.where(at >= length - padding, 0, row)

    return st.builds(
        ids, st.sets(st.integers(1, length - 1), max_size=9), st.integers(0, length - 1)
    )


def batches(length: int):
    row = rows_of_segments(length)
    return st.tuples(row, row).map(lambda rows: np.stack(rows).astype(np.int32))


@settings(max_examples=40, deadline=None)
@given(batches(512))
def test_what_fits_is_packed(ids):
    pieces = max(1 + np.sum(row[1:] != row[:-1]) for row in ids)
    assert bool(jax.jit(can_pack)(ids)) == (pieces <= most_segments(512) == 4)


@pytest.mark.parametrize("row", [[0, 0, 1, 1], [1, 2, 2, 1], [1, 0, 0, 2], [2, 2, 1, 1]])
def test_segments_in_disorder_are_not_packed(row):
    assert not can_pack(np.repeat([row], 64, axis=1).astype(np.int32))


@settings(max_examples=30, deadline=None)
@given(batches(512).filter(jax.jit(can_pack)))
def test_places_say_the_mask(ids):
    """From the numbers in the form that JAX gives to cuDNN: of all rows, in elements."""
    B, L = ids.shape
    first, tokens = jax.jit(places)(ids)
    heads, size = 2, 8
    q = jax.ShapeDtypeStruct((B, L, heads, size), jnp.bfloat16)
    tokens, _, first, _ = jax_cudnn._fix_seqlen_offsets(tokens, tokens, first, first, q, q)
    tokens, first = np.ravel(tokens), np.ravel(first) // (heads * size)
    assert np.sum(tokens) == B * L  # no token is left out
    mask = np.zeros((B * L, B * L), bool)
    for start, count in zip(first, tokens, strict=False):
        mask[start : start + count, start : start + count] = np.tri(count, dtype=bool)
    for b in range(B):
        rows = slice(b * L, (b + 1) * L)
        np.testing.assert_array_equal(mask[rows, rows], seen(ids, ids, 0, 0)[b])
        mask[rows, rows] = False
    assert not mask.any()


@settings(max_examples=30, deadline=None)
@given(batches(64), st.sampled_from([0, 1, 5, 70]), st.sampled_from([1, 4]))
def test_the_mask_is_that_of_plain_attention(ids, window, parts):
    positions = np.stack([np.arange(64) - [np.argmax(row == i) for i in row] for row in ids])
    expected = within_window(segment_mask(positions, ids), positions, positions, window)
    size, see = 64 // parts, jax.jit(seen, static_argnums=3)
    found = np.concatenate(
        [see(ids[:, i : i + size], ids, i, window) for i in range(0, 64, size)], axis=1
    )
    real = ids != 0
    np.testing.assert_array_equal(found[real], expected[real])


PAIRS = np.stack([np.repeat([1, 0], [100, 156]), np.repeat([1, 2], [131, 125])]).astype(np.int32)
plain_attention = jax.nn.dot_product_attention


def as_masked(q, k, v, *, mask, scale, is_causal):
    """What cuDNN gives for a mask, by XLA."""
    return plain_attention(q, k, v, mask=mask, scale=scale, is_causal=is_causal)


def as_packed(
    q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, sliding_window_length
):
    """What cuDNN gives for segments' places, by XLA."""
    assert q.shape == k.shape == v.shape and mask_type == jax_cudnn.MaskType.PADDING_CAUSAL
    assert q_seqlen is kv_seqlen and q_offsets is kv_offsets
    at = jnp.arange(q.shape[1])
    first = q_offsets[:, :-1, None]
    inside = (first <= at) & (at < first + q_seqlen[:, :, None]) & (first >= 0)
    same = jnp.einsum("bmq,bmk->bqk", inside, inside) > 0
    mask = same & (at[:, None] - at < (sliding_window_length or len(at)))
    return plain_attention(q, k, v, mask=mask[:, None], scale=scale, is_causal=True)


def fails(*args, **kwargs):
    return jnp.full(args[0].shape, jnp.nan, args[0].dtype)


@pytest.fixture
def stand_in(monkeypatch):
    """Sets what stands in for the two functions of JAX that run cuDNN."""

    def use(masked=as_masked, packed=as_packed):
        def public(*args, implementation=None, **kwargs):
            function = masked if implementation == "cudnn" else plain_attention
            return function(*args, **kwargs)

        monkeypatch.setattr(jax.nn, "dot_product_attention", public)
        monkeypatch.setattr(jax_cudnn, "dot_product_attention", packed)

    return use


@pytest.mark.parametrize("window", [0, 17, 130])
@pytest.mark.parametrize(
    ("segments", "functions"),
    [(SEGMENTS, dict(packed=fails)), (PAIRS, dict(masked=fails))],
    ids=["masked", "packed"],
)
@pytest.mark.parametrize("sizes", [{}, dict(data=2, tensor=2)], ids=["alone", "mesh"])
def test_values_and_gradients_agree(stand_in, sizes, segments, functions, window):
    stand_in(**functions)
    mesh = make_mesh(**sizes, devices=jax.devices()[: 4 if sizes else 1])
    with use_mesh(mesh):
        found = values_and_gradients(
            lambda *qkv: cudnn_attention(*qkv, jnp.asarray(segments), SCALE, window, packed=True),
            real=(segments != 0)[:, :, None, None],
        )
    assert_agree(found, reference(QUERIES, KEYS, VALUES, segments, window, 0.0))


@pytest.mark.parametrize("window", [0, 17, 130])
def test_sequences_that_are_split_are_masked(stand_in, window):
    stand_in(packed=fails)
    with use_mesh(make_mesh(data=2, context=2, tensor=2)):
        found = values_and_gradients(
            lambda *qkv: cudnn_attention(*qkv, jnp.asarray(PAIRS), SCALE, window, packed=True),
            real=(PAIRS != 0)[:, :, None, None],
        )
    assert_agree(found, reference(QUERIES, KEYS, VALUES, PAIRS, window, 0.0))


def without_segments(q, k, v, **kwargs):
    return plain_attention(q, k, v, is_causal=True, scale=kwargs["scale"])


def without_gradient(q, k, v, **kwargs):
    return as_masked(q, jax.lax.stop_gradient(k), v, **kwargs)


@pytest.mark.parametrize(
    ("functions", "packed", "found"),
    [
        ({}, True, ""),
        (dict(packed=without_segments), True, "values are wrong by"),
        (dict(masked=without_gradient), False, "gradients of keys are wrong by 1 "),
        (dict(masked=lambda *args, **kwargs: 1 / 0), False, "ZeroDivisionError"),
    ],
)
def test_a_trial_finds_what_is_wrong(stand_in, functions, packed, found):
    stand_in(**functions)

    def in_a_step(x):
        result = fault.__wrapped__(packed, 2, 16, 100)
        assert result.startswith(found) and bool(result) == bool(found)
        return x

    with use_mesh(make_mesh()):  # as when a train step is traced
        jax.jit(in_a_step)(jnp.zeros(8))


def test_without_a_gpu_a_trial_says_so():
    assert fault.__wrapped__(False, 1, 64, 0)


@pytest.mark.parametrize(
    ("capability", "faults", "packed"),
    [
        ("9.0", {}, True),
        ("8.0", {}, False),
        ("9.0", {True: "no"}, False),
        ("9.0", {False: "no execution plan"}, None),
        ("7.0", {}, None),
    ],
)
def test_the_best_way_that_works_is_taken(monkeypatch, caplog, capability, faults, packed):
    class Gpu:
        compute_capability = capability

    cudnn._warn.cache_clear()
    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu])
    monkeypatch.setattr(cudnn, "fault", lambda packed, *rest: faults.get(packed, ""))
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    config = small_config(**FITS, windows=(32, 0))
    kernel = kernels.kernel_for(config, 256, 0.5)
    if packed is None:
        assert kernel is None and kernels.kernel_for(config, 256, 0.5) is None
        (line,) = caplog.messages
        reason = faults.get(False) or "compute capability 7.0"
        assert line.startswith("Attention runs without cuDNN: ") and reason in line
    else:
        assert kernel.func is cudnn_attention and kernel.keywords == {
            "packed": packed,
            "scale": 0.5,
        }
        assert not caplog.messages


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_compiled_for_a_gpu_calls_cudnn(monkeypatch, packed):
    monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(jax_cudnn, "check_compute_capability", lambda capability: True)
    ids = jax.ShapeDtypeStruct((B, 1024), jnp.int32)
    q, k = (jax.ShapeDtypeStruct((B, 1024, heads, 64), jnp.bfloat16) for heads in (4, 2))

    def total(q, k, v, ids):
        return jnp.sum(cudnn_attention(q, k, v, ids, 1.0, 100, packed).astype(jnp.float32))

    grad = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    text = grad.trace(q, k, k, ids).lower(lowering_platforms=("cuda",)).as_text()
    calls = dict(re.findall(r"@__cudnn\$(\w+)\(.*?backend_config = \"(.*?)\", ", text))
    names = {"fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"}
    if packed:
        names |= {"fmhaSoftmax", "fmhaSoftmaxBackward"}
        told = json.loads(calls["fmhaSoftmax"].replace("\\22", '"'))["cudnn_fmha_backend_config"]
        assert told["mask_type"] == "PADDING_CAUSAL"
        assert told["max_seg_per_batch"] == 8 and told["sliding_window_length"] == 100
    assert set(calls) == names


def test_on_a_real_gpu_both_ways_are_right():
    if not any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        pytest.skip("needs an NVIDIA GPU and jax[cuda12] or jax[cuda13]")
    code = """
import itertools, jax
from marker_lm.model.cudnn import fault
try:
    gpu = jax.devices("gpu")[0]
except RuntimeError as error:
    raise SystemExit(f"no GPU: {error}")
ways = (False, True) if float(gpu.compute_capability) >= 9 else (False,)
for case in itertools.product(ways, (1, 4), (64, 128), (0, 100)):
    assert not fault(*case), (case, fault(*case))
print("all agree")
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    if done.stderr.startswith("no GPU"):
        pytest.skip(done.stderr)
    assert done.stdout.splitlines()[-1:] == ["all agree"], done.stderr
