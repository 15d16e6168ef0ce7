"""The memory of a decode job beside what the compiler says; what int8 costs in score."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.decoding import memory
from marker_lm.decoding.memory import Job, check_memory, job_memory
from marker_lm.decoding.quantization import compare_quantized
from marker_lm.decoding.steps import extend
from marker_lm.model.cache import init_cache
from marker_lm.sharding.mesh import compiler_options, make_mesh
from marker_lm.sharding.rules import laid_out_cache, laid_out_decoding, use_mesh
from tests.model.helpers import forward, make_params, plain, random_tokens, small_config

CONFIG = small_config(
    vocab=256, width=128, heads=4, kv_heads=2, head_size=32, ff=512, windows=(64, 0)
)
JOB = Job(rows=8, size=1024, prompt_rows=4, prompt_tokens=64)


@pytest.mark.parametrize("split", [False, True], ids=["one device", "a mesh"])
@pytest.mark.parametrize(("weights", "cache"), [("", ""), ("int8", "int8")])
def test_it_is_what_the_compiler_says(split, weights, cache):
    devices = jax.devices()[: 4 if split else 1]
    mesh = make_mesh(**({"data": 2, "tensor": 2} if split else {}), devices=devices)
    job = dataclasses.replace(JOB, weights=weights, cache=cache)
    found = job_memory(CONFIG, mesh, job)
    params = laid_out_decoding(CONFIG, mesh, weights)
    slots = laid_out_cache(CONFIG, mesh, job.rows, job.size, cache)
    step = compiled_memory(mesh, functools.partial(extend, CONFIG), params, slots, (job.rows, 1))
    assert found.weights + found.cache == pytest.approx(step.argument_size_in_bytes, rel=0.001)

    def read(params, ids_PxL, real_PxL):
        prompts = init_cache(CONFIG, job.prompt_rows, job.prompt_tokens, cache)
        return extend(CONFIG, params, prompts, ids_PxL, real_PxL)

    prompts = compiled_memory(mesh, read, params, None, (job.prompt_rows, job.prompt_tokens))
    beside = prompts.output_size_in_bytes + max(
        step.temp_size_in_bytes + step.output_size_in_bytes - step.alias_size_in_bytes,
        prompts.temp_size_in_bytes,
    )
    assert found.need == pytest.approx(step.argument_size_in_bytes + beside, rel=0.05)


def compiled_memory(mesh, program, params, cache, tokens: tuple[int, int]):
    """The compiler's report of a program of (params, cache, ids, which are real)."""
    ids, real = (jax.ShapeDtypeStruct(tokens, dtype) for dtype in (jnp.int32, bool))
    arguments = (params, ids, real) if cache is None else (params, cache, ids, real)
    with use_mesh(mesh):
        donated = () if cache is None else (1,)
        lowered = jax.jit(program, donate_argnums=donated).lower(*arguments)
        return lowered.compile(compiler_options(mesh)).memory_analysis()


def test_rings_and_int8_are_counted():
    mesh = make_mesh(devices=jax.devices()[:1])
    token = 2 * CONFIG.kv_heads * CONFIG.head_size * 4 * JOB.rows
    windows = [window or JOB.size for window in CONFIG.layer_windows]
    whole = job_memory(CONFIG, mesh, JOB)
    assert whole.cache == token * sum(windows) + 4 * JOB.rows
    small = job_memory(CONFIG, mesh, dataclasses.replace(JOB, cache="int8", weights="int8"))
    assert small.cache < 0.29 * whole.cache and small.weights < 0.27 * whole.weights


def test_what_does_not_fit_is_refused_with_what_helps(monkeypatch):
    mesh = make_mesh(devices=jax.devices()[:1])
    need = job_memory(CONFIG, mesh, JOB).need
    monkeypatch.setattr(memory, "device_memory", lambda _: need)
    assert check_memory(CONFIG, mesh, JOB).need == need
    monkeypatch.setattr(memory, "device_memory", lambda _: need - 1)
    said = r"8 rows of up to 1024 tokens does not fit: a device needs .* what helps: --cache=int8"
    with pytest.raises(ValueError, match=said) as refused:
        check_memory(CONFIG, mesh, JOB)
    assert "--slots=4" in str(refused.value) and "at most 512 tokens" in str(refused.value)
    monkeypatch.setattr(memory, "device_memory", lambda _: 1000)
    with pytest.raises(ValueError, match="it takes more devices"):
        check_memory(CONFIG, mesh, JOB)


def test_the_change_in_score_is_that_of_the_logits():
    config = small_config(max_len=64)
    mesh = make_mesh(devices=jax.devices()[:1])
    params = jax.tree.map(jnp.asarray, make_params(config))
    tokens = random_tokens(config, 3, 20)
    wanted = np.arange(20) >= 5
    found = compare_quantized(
        params, config, mesh, [(row, wanted) for row in tokens], "int8", "int8", 2
    )
    log_p = jax.nn.log_softmax(forward(config, params, *plain(tokens))[0][:, :-1])
    nats = -np.take_along_axis(np.asarray(log_p), tokens[:, 1:, None], axis=-1)[:, 4:]
    assert found.tokens == nats.size == 45
    assert found.nats == pytest.approx(nats.mean(), abs=1e-5)
    assert 0 < abs(found.change) < 0.05
    assert found.quantized_weights < found.weights and found.quantized_cache < found.cache
    assert "nats a token" in str(found)
    with pytest.raises(ValueError, match="no token to score"):
        compare_quantized(params, config, mesh, [([1, 2], [True, False])])
