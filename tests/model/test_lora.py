"""LoRA's factors in the abstract tree, in the model, and merged."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from marker_lm.model.config import LoRA, ModelConfig
from marker_lm.model.lora import is_factor, merge
from marker_lm.model.params import abstract_arrays, abstract_params, init_params, parameter_count
from marker_lm.model.transformer import Transformer
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings
from tests.model.helpers import forward, make_params, plain, random_tokens, small_config

MATRICES = [
    *(f"layers/attention/{name}" for name in ("query", "key", "value", "out")),
    *(f"layers/mlp/{name}" for name in ("gate", "up", "down")),
]
ALL = LoRA(rank=3, alpha=6.0)


def factors(config):
    return {p: x for p, x in flatten_dict(abstract_params(config), sep="/").items() if is_factor(p)}


def test_every_matrix_has_factors_beside_it():
    config = small_config(lora=ALL)
    D, H, N, F, layers = config.width, config.heads, config.head_size, config.ff, config.layers
    found = factors(config)
    assert sorted(found) == sorted(f"{path}_lora_{x}" for path in MATRICES for x in "ab")
    want = {
        "attention/query_lora_a": ((layers, D, 3), ("layers", "embed", "rank")),
        "attention/query_lora_b": ((layers, 3, H, N), ("layers", "rank", "heads", "head")),
        "attention/out_lora_a": ((layers, H, N, 3), ("layers", "heads", "head", "rank")),
        "attention/out_lora_b": ((layers, 3, D), ("layers", "rank", "embed")),
        "mlp/down_lora_a": ((layers, F, 3), ("layers", "mlp", "rank")),
    }
    for path, (shape, axes) in want.items():
        info = found[f"layers/{path}"]
        assert (info.shape, info.axes) == (shape, axes)
    plainer = dataclasses.replace(config, lora=None)
    assert parameter_count(config) - parameter_count(plainer) == parameter_count(
        config, frozenset(found)
    )


@pytest.mark.parametrize(
    ("targets", "count"),
    [("query|value", 2), ("attention/", 4), ("^layers/mlp/(gate|up)$", 2), ("", 7), ("out$", 1)],
)
def test_targets_are_chosen_by_regex(targets, count):
    config = small_config(qkv_bias=True, qk_norm="shared", lora=LoRA(2, 1.0, targets))
    assert len(factors(config)) == 2 * count
    batch = plain(random_tokens(config, 1, 3))
    declared = jax.eval_shape(Transformer(config).init, jax.random.key(0), *batch)["params"]
    made = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    assert declared == made == abstract_arrays(config)


@pytest.mark.parametrize("targets", ["q_proj", "embedding", "query_bias", "attention_norm"])
def test_targets_that_are_no_matrix_are_refused(targets):
    with pytest.raises(ValueError, match=f"lora.targets='{targets}' is found in no matrix") as e:
        abstract_params(small_config(qkv_bias=True, lora=LoRA(2, 1.0, targets)))
    assert all(path in str(e.value) for path in MATRICES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(rank=0, alpha=1.0), "lora.rank is 0; it must be at least 1"),
        (dict(rank=1, alpha=0.0), "lora.alpha is 0.0; it must be more than 0"),
        (dict(rank=1, alpha=1.0, targets="("), r"lora.targets='\(' is no regular expression"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**fields)


@pytest.mark.parametrize("lora", [None, LoRA(4, 8.0, "query")])
def test_a_config_comes_back_from_json(lora):
    config = small_config(lora=lora)
    assert ModelConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_training_begins_at_the_base_model():
    config = small_config(lora=ALL, param_dtype="bfloat16")
    base_config = dataclasses.replace(config, lora=None)
    make = jax.jit(init_params, static_argnums=0)
    params = flatten_dict(make(config, jax.random.key(0)), sep="/")
    base = flatten_dict(make(base_config, jax.random.key(0)), sep="/")
    for path, x in params.items():
        if path.endswith("_lora_b"):
            assert not x.any()
        if path.endswith("_lora_a"):
            inputs = np.prod(x.shape[1:-1])
            assert x.std() == pytest.approx(inputs**-0.5, rel=0.2)
        if is_factor(path):
            assert x.dtype == jnp.float32  # whatever the base is
        else:
            assert x.dtype == jnp.bfloat16 and (x == base[path]).all()
    batch = plain(random_tokens(config, 2, 5))
    logits = forward(config, unflatten_dict(params, sep="/"), *batch)[0]
    np.testing.assert_array_equal(
        logits, forward(base_config, unflatten_dict(base, sep="/"), *batch)[0]
    )


@pytest.mark.parametrize("target", [*MATRICES, ""])
def test_merged_and_unmerged_agree(target):
    config = small_config(layers=2, lora=LoRA(2, 3.0, target))
    params = make_params(config)
    batch = plain(random_tokens(config, 2, 9))
    logits = forward(config, params, *batch)[0]
    merged, without = merge(params, config)
    assert without == dataclasses.replace(config, lora=None)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, make_params(without))
    np.testing.assert_allclose(forward(without, merged, *batch)[0], logits, atol=1e-5, rtol=0)
    base = unflatten_dict(
        {p: x for p, x in flatten_dict(params, sep="/").items() if not is_factor(p)}, sep="/"
    )
    assert np.abs(forward(without, base, *batch)[0] - logits).max() > 1e-2


def test_the_sum_of_a_merge_is_made_in_float32():
    config = small_config(lora=LoRA(2, 3.0), param_dtype="bfloat16")
    params = jax.tree.map(  # in 64ths, so that sums are exact in float32, though not in bfloat16
        lambda x, like: jnp.asarray(np.round(x * 64) / 64, like.dtype),
        make_params(config),
        abstract_arrays(config),
    )
    merged = merge(params, config)[0]
    p = params["layers"]["attention"]
    product = np.einsum("lhnr,lrd->lhnd", p["out_lora_a"], p["out_lora_b"])
    want = np.asarray(p["out"], np.float32) + 1.5 * product
    assert merged["layers"]["attention"]["out"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        merged["layers"]["attention"]["out"], want.astype(jnp.bfloat16), strict=True
    )


def test_a_merge_keeps_arrays_laid_out_as_they_are():
    config = small_config(vocab=28, lora=ALL)
    shardings = param_shardings(config, make_mesh(2, 2, 2))
    params = jax.tree.map(jax.device_put, make_params(config), shardings)
    merged, without = merge(params, config)
    jax.tree.map(
        lambda x, s: np.testing.assert_equal(x.sharding, s),
        merged,
        param_shardings(without, make_mesh(2, 2, 2)),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        merged,
        merge(make_params(config), config)[0],
    )
    assert merged["embedding"] is params["embedding"]


def test_without_lora_a_merge_changes_nothing():
    config = small_config()
    params = make_params(config)
    assert merge(params, config) == (params, config)
