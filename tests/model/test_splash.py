"""The attention kernel of TPUs, run by interpretation, beside attention in NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from marker_lm.model.attention import MIXED
from marker_lm.model.splash import splash_attention
from marker_lm.model.transformer import Transformer
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding, laid_out_params, use_mesh
from tests.model.attention_cases import (
    CASES,
    KEYS,
    QUERIES,
    SCALE,
    SEGMENTS,
    VALUES,
    assert_agree,
    reference,
    values_and_gradients,
)
from tests.model.helpers import small_config


def by_kernel(window: int, softcap: float, segments=SEGMENTS):
    def attend(q, k, v):
        ids = jnp.asarray(segments)
        return splash_attention(q, k, v, ids, SCALE, softcap, window, interpret=True)

    return attend


@pytest.mark.slow
@pytest.mark.parametrize(("window", "softcap"), CASES)
def test_values_and_gradients_agree(window, softcap):
    found = values_and_gradients(by_kernel(window, softcap))
    assert_agree(found, reference(QUERIES, KEYS, VALUES, SEGMENTS, window, softcap))


@pytest.mark.slow
@pytest.mark.parametrize(("window", "softcap"), [CASES[0], CASES[3]])
def test_on_a_mesh_rows_heads_and_length_are_split(window, softcap):
    with use_mesh(make_mesh(data=2, context=2, tensor=2)):
        found = values_and_gradients(by_kernel(window, softcap))
    assert_agree(found, reference(QUERIES, KEYS, VALUES, SEGMENTS, window, softcap))


@pytest.mark.slow
def test_one_sequence_on_all_devices():
    # Both rows, one after the other: a part of 128 tokens sees up to eight blocks of keys.
    q, k, v, ids = (
        np.concatenate([x, x[::-1]], 1).reshape(1, 1024, *x.shape[2:])
        for x in (QUERIES[:, :, :2], KEYS[:, :, :1], VALUES[:, :, :1], SEGMENTS)
    )
    ids = np.cumsum(np.diff(ids, prepend=0, axis=1) != 0, axis=1).astype(np.int32)
    with use_mesh(make_mesh(data=1, context=8)):
        found = values_and_gradients(by_kernel(0, 0.0, ids), q, k, v, real=1)
    assert_agree(found, reference(q, k, v, ids, 0, 0.0))


def test_a_remat_policy_can_save_what_the_kernel_gives():
    def forward_kernels(policy):
        attend = jax.checkpoint(by_kernel(0, 0.0), policy=policy)
        grad = jax.grad(lambda *x: jnp.sum(attend(*x)), argnums=(0, 1, 2))
        return count_forward_kernels(jax.make_jaxpr(grad)(QUERIES, KEYS, VALUES).jaxpr)

    assert forward_kernels(jax.checkpoint_policies.nothing_saveable) == 2
    assert forward_kernels(jax.checkpoint_policies.save_only_these_names(MIXED)) == 1


def count_forward_kernels(jaxpr) -> int:
    """Those whose outputs are used: JAX leaves out the others when it compiles."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.outvars:
            inner = [getattr(p, "jaxpr", p) for p in equation.params.values()]
            count += sum(count_forward_kernels(p) for p in inner if hasattr(p, "eqns"))
            count += "splash_mha_fwd" in str(equation.params.get("name"))
    return count


def test_the_length_must_be_whole_registers():
    short = [x[:, :100] for x in (QUERIES, KEYS, VALUES, SEGMENTS)]
    with pytest.raises(ValueError, match="sequences have 100 tokens.*multiples of 128"):
        splash_attention(*short, SCALE)
    with use_mesh(make_mesh(context=4, devices=jax.devices()[:4])):
        with pytest.raises(ValueError, match="256 tokens in 4 parts.*mesh.context"):
            splash_attention(QUERIES, KEYS, VALUES, SEGMENTS, SCALE)


@pytest.mark.extra
@pytest.mark.slow
def test_on_a_pod_the_kernels_run_over_split_sequences(monkeypatch):
    pytest.importorskip("libtpu")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU whose facts could be asked for
    pod = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
    mesh = make_mesh(data=2, context=4, tensor=2, devices=pod.devices)
    config = small_config(
        **dict(width=256, layers=2, heads=4, kv_heads=2, head_size=64, ff=256, vocab=128),
        **dict(dtype="bfloat16", remat="attention"),
    )

    def total(params, tokens, positions, segment_ids):
        logits, _ = Transformer(config).apply({"params": params}, tokens, positions, segment_ids)
        return jnp.mean(logits)

    batch = [jax.ShapeDtypeStruct((4, 1024), jnp.int32, sharding=batch_sharding(mesh))] * 3
    with use_mesh(mesh):
        step = jax.jit(jax.grad(total)).lower(laid_out_params(config, mesh), *batch).compile()
    calls = re.findall(r"%splash_mha_([a-z]+)\S* = .*\), custom_call_target", step.as_text())
    assert sorted(calls) == ["dkv", "dq", "fwd"]
    # A device has 2 rows, 2 of 4 heads, and 256 queries for 1024 keys, filled up to 128 lanes.
    (forward,) = re.findall(r"%splash_mha_fwd\S* = .*", step.as_text())
    assert "bf16[2,2,256,128]" in forward and "bf16[2,1,1024,128]" in forward
    # Nowhere are there products of the queries and keys of a row.
    assert not re.search(r"\[[\d,]*256,1024\]", step.as_text())
