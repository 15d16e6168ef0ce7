"""The abstract tree, initial values and the configuration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.model.params import abstract_arrays, abstract_params, init_params, parameter_count
from marker_lm.model.transformer import Transformer
from tests.model.helpers import plain, random_tokens, small_config


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(tied_head=False, scan=False, remat="full", param_dtype="bfloat16"),
        dict(qkv_bias=True, qk_norm="shared", post_norms=True),
        dict(qk_norm="per_head", parallel=True, norm="layer"),
    ],
    ids=["tied", "untied", "biases and norms", "parallel"],
)
def test_abstract_tree_is_what_the_modules_and_init_make(changes):
    config = small_config(**changes)
    batch = plain(random_tokens(config, 1, 3))
    declared = jax.eval_shape(Transformer(config).init, jax.random.key(0), *batch)["params"]
    made = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    assert declared == made == abstract_arrays(config)
    for info in jax.tree.leaves(abstract_params(config)):
        assert len(info.shape) == len(info.axes)


def test_parameters_are_a_plain_nested_dict():
    def check(node):
        if type(node) is dict:
            for child in node.values():
                check(child)
        else:
            assert isinstance(node, jax.ShapeDtypeStruct)

    config = small_config()
    check(jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0)))


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_count(tied):
    c = small_config(tied_head=tied)
    D, H, K, N, F, V = c.width, c.heads, c.kv_heads, c.head_size, c.ff, c.vocab
    block = D * N * (H + 2 * K) + H * N * D + 3 * D * F + 2 * D
    assert parameter_count(c) == (1 if tied else 2) * V * D + c.layers * block + D
    assert parameter_count(c) == sum(x.size for x in jax.tree.leaves(abstract_arrays(c)))


def test_initial_scales():
    config = small_config(vocab=300, width=64, head_size=16, ff=96, layers=4, tied_head=False)
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(1))
    attention, mlp = params["layers"]["attention"], params["layers"]["mlp"]
    depth = np.sqrt(2 * config.layers)
    expected = [
        (params["embedding"], 0.02),
        (params["head"], 64**-0.5),
        (attention["query"], 64**-0.5),
        (attention["value"], 64**-0.5),
        (mlp["gate"], 64**-0.5),
        (attention["out"], (4 * 16) ** -0.5 / depth),
        (mlp["down"], 96**-0.5 / depth),
    ]
    for array, std in expected:
        assert abs(array.std() / std - 1) < 0.05
        # Cut at two standard deviations of the normal before the cut.
        assert np.abs(array).max() < 2.3 * std
    assert (params["final_norm"] == 1).all() and (params["layers"]["mlp_norm"] == 1).all()
    # Layers and parameters of one shape are drawn apart.
    assert (mlp["gate"][0] != mlp["gate"][1]).any()
    assert (mlp["gate"] != mlp["up"]).any()


def test_norms_begin_as_one_and_biases_as_zero():
    config = small_config(norm_offset=1.0, qkv_bias=True, qk_norm="per_head", post_norms=True)
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(1))
    layers, attention = params["layers"], params["layers"]["attention"]
    for scale in (params["final_norm"], layers["mlp_post_norm"], attention["query_norm"]):
        assert (scale + config.norm_offset == 1).all()
    assert (attention["key_bias"] == 0).all()


def test_a_new_parameter_leaves_the_others_alone():
    key = jax.random.key(0)
    make = jax.jit(init_params, static_argnums=0)
    tied = make(small_config(tied_head=True), key)
    untied = make(small_config(tied_head=False), key)
    del untied["head"]
    jax.tree.map(np.testing.assert_array_equal, tied, untied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(kv_heads=3), "kv_heads must divide heads"),
        (dict(head_size=5), "head_size is 5; RoPE needs an even one"),
        (dict(remat="ful"), r"remat is 'ful'; .*nearest: full"),
        (dict(dtype="bf16"), r"nearest: bfloat16"),
        (dict(layers=0), "layers is 0; it must be at least 1"),
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def test_config_is_hashable_and_dtype_resolves():
    config = small_config(dtype="bfloat16")
    assert hash(config) == hash(dataclasses.replace(config))
    assert config.compute_dtype == jnp.bfloat16
