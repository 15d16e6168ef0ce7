"""Weights as decoding reads them: the same model, and nearly so in int8."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from marker_lm.model.cache import init_cache
from marker_lm.model.config import LoRA
from marker_lm.model.likelihood import batch_nll
from marker_lm.model.matrix import Matrix, decoding_infos, decoding_params, quantize
from marker_lm.model.transformer import head_logits, head_table
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings, use_mesh
from tests.model.helpers import forward, make_params, plain, random_tokens, small_config

CONFIGS = [
    small_config(),
    small_config(tied_head=False, qkv_bias=True, qk_norm="per_head", windows=(3, 0)),
    small_config(parallel=True, norm="layer", logit_softcap=2.0, ff_blocks=2),
]
every = pytest.mark.parametrize("config", CONFIGS, ids=["plain", "untied", "parallel"])


def both(config, weights, cached):
    tokens = plain(random_tokens(config, 3, 7))
    expected, _ = forward(config, make_params(config), *tokens)
    params, prepared = decoding_params(make_params(config), config, weights)
    cache = init_cache(config, 3, 9) if cached else None
    return np.asarray(forward(prepared, params, *tokens, cache)[0]), np.asarray(expected)


@every
@pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached"])
def test_the_form_changes_nothing(config, cached):
    found, expected = both(config, "", cached)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@every
def test_int8_is_near(config):
    found, expected = both(config, "int8", cached=True)
    assert 0 < np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()


@every
def test_int8_computes_with_the_rounded_weights(config):
    params, prepared = decoding_params(make_params(config), config, "int8")

    def is_matrix(x):
        return isinstance(x, Matrix)

    def dense(x):
        return Matrix(x.dense(jnp.float32), None, x.inputs) if is_matrix(x) else x

    rounded = jax.tree.map(dense, params, is_leaf=is_matrix)
    tokens = plain(random_tokens(config, 3, 7))
    found, expected = (forward(prepared, x, *tokens)[0] for x in (params, rounded))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_row_is_rounded_to_half_a_step_at_most():
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    x[2] = 0
    values, scale = quantize(jnp.asarray(x), (-2, -1))
    assert values.dtype == jnp.int8 and scale.shape == (4, 1, 1)
    assert (np.abs(values * scale - x) <= scale / 2 + 1e-7).all()
    assert (np.abs(values).max((1, 2)) == [127, 127, 0, 127]).all()


@pytest.mark.parametrize("weights", ["", "int8"])
@every
def test_the_infos_tell_what_comes(config, weights):
    infos = decoding_infos(config, weights)
    params, _ = decoding_params(make_params(config), config, weights)
    assert jax.tree.structure(params) == jax.tree.structure(infos)
    for info, x in zip(jax.tree.leaves(infos), jax.tree.leaves(params), strict=True):
        assert (info.shape, info.dtype, len(info.axes)) == (x.shape, x.dtype, x.ndim)


def test_int8_takes_a_quarter_of_float32():
    config = small_config(width=64, head_size=16, ff=128)
    params, _ = decoding_params(make_params(config), config, "int8")
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    whole = sum(x.nbytes for x in jax.tree.leaves(make_params(config)))
    assert 0.25 < size / whole < 0.30
    half, _ = decoding_params(make_params(config), dataclasses.replace(config, dtype="bfloat16"))
    assert sum(x.nbytes for x in jax.tree.leaves(half)) < 0.52 * whole


@pytest.mark.parametrize("weights", ["", "int8"])
def test_on_a_mesh_all_is_split_and_equal(weights):
    config = small_config(vocab=32)
    tokens = plain(random_tokens(config, 4, 5))
    expected = forward(*reversed(decoding_params(make_params(config), config, weights)), *tokens)[0]
    with use_mesh(make_mesh(data=2, fsdp=2, tensor=2)) as mesh:
        params = jax.device_put(make_params(config), param_shardings(config, mesh))
        params, _ = decoding_params(params, config, weights)
        gate = params["layers"][0]["mlp"]["gate"]
        assert gate.values.addressable_shards[0].data.shape == (config.ff // 2, config.width // 2)
        found, _ = forward(config, params, *tokens, init_cache(config, 4, 8))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_likelihoods_are_those_of_the_logits():
    config = small_config(tied_head=False)
    params, config = decoding_params(make_params(config), config, "int8")
    tokens, positions, segments = plain(random_tokens(config, 2, 6))
    logits, _ = forward(config, params, tokens, positions, segments)
    targets = np.roll(tokens, -1, axis=1)
    batch = dict(tokens=tokens, positions=positions, segment_ids=segments, targets=targets)
    weights = jnp.ones(tokens.shape)
    _, nats = batch_nll(params, config, batch, weights, weights > 0, blocks=1)
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1)
    np.testing.assert_allclose(nats, expected[..., 0], atol=1e-5)


def test_norms_stay_and_tables_are_one_matrix():
    config = CONFIGS[1]
    params, _ = decoding_params(make_params(config), config, "int8")
    layer = flatten_dict(params["layers"][1], sep="/")
    kept = {name for name, x in layer.items() if not isinstance(x, Matrix)}
    attention = ("query_bias", "key_bias", "value_bias", "query_norm", "key_norm")
    assert kept == {"attention_norm", "mlp_norm", *(f"attention/{name}" for name in attention)}
    hidden = np.random.default_rng(1).normal(size=(2, config.width)).astype(np.float32)
    table = head_table(params, config)
    dense = np.asarray(table.dense(np.float32))
    np.testing.assert_allclose(head_logits(table, config, hidden), hidden @ dense.T, atol=1e-5)
    np.testing.assert_array_equal(table.rows(np.array([3, 0])), dense[[3, 0]])


def test_what_is_refused():
    with pytest.raises(ValueError, match="weights is 'int4'; choose"):
        decoding_infos(CONFIGS[0], "int4")
    with pytest.raises(ValueError, match="merge it"):
        decoding_infos(small_config(lora=LoRA(2, 4.0)))
