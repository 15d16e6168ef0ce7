"""What is frozen costs nothing and stays as it is; what is trained moves, alike on every mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from configs import default
from marker_lm.model.config import LoRA, ModelConfig
from marker_lm.model.lora import is_factor
from marker_lm.model.params import parameter_count
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.step import (
    abstract_batch,
    abstract_state,
    make_train_step,
    new_state,
)
from marker_lm.training.trainable import join, split, trained_paths
from tests.model.helpers import make_params, small_config
from tests.training.test_step import STEPS, Case

# The sizes of SmolLM2-135M.
SMOLLM2 = ModelConfig(
    vocab=49152, width=576, layers=30, heads=9, kv_heads=3, head_size=64, ff=1536, max_len=2048
)
SETTINGS = {
    "lora": dict(rank=2, alpha=8.0),
    "lora and tables": dict(rank=2, alpha=8.0, targets="query|down", trainable="lora|embedding"),
    "feed-forward": dict(trainable="mlp/"),
}


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def test_by_default_all_is_trained_or_only_the_factors():
    assert len(trained_paths(small_config())) == 11
    factors = trained_paths(small_config(lora=LoRA(2, 1.0, "query|value")))
    assert factors == {
        f"layers/attention/{name}_lora_{x}" for name in ("query", "value") for x in "ab"
    }


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("^embedding$", {"embedding"}),
        ("norm", {"final_norm", "layers/attention_norm", "layers/mlp_norm"}),
        ("mlp/(up|down)$", {"layers/mlp/up", "layers/mlp/down"}),
    ],
)
def test_paths_are_chosen_by_regex(pattern, want):
    assert trained_paths(small_config(), pattern) == want


def test_a_pattern_without_a_path_is_refused():
    message = r"train.trainable='layers/atention' is found in no.*\(nearest: layers/attention/"
    with pytest.raises(ValueError, match=message):
        trained_paths(small_config(), "layers/atention")
    with pytest.raises(ValueError, match=r"train.trainable='\[' is no regular expression"):
        trained_paths(small_config(), "[")


@pytest.mark.parametrize("pattern", ["", "query|embedding"])
def test_a_split_tree_is_joined_again(pattern):
    config = small_config()
    params, paths = make_params(config), trained_paths(config, pattern)
    moved, frozen = split(params, paths)
    assert set(flatten_dict(moved, sep="/")) == paths
    assert not paths & set(flatten_dict(frozen, sep="/"))
    jax.tree.map(np.testing.assert_array_equal, join(moved, frozen), params)


@pytest.fixture(scope="module", params=list(SETTINGS))
def case(request, data):
    return Case(data, **SETTINGS[request.param])


@pytest.fixture(scope="module")
def trained(case):
    """The final state and the metrics of each step, on one device."""
    return case.train(one_device())


def test_the_frozen_stay_bit_equal_and_the_trained_move(case, trained):
    state, metrics = trained
    before = flatten_dict(new_state(case.model, case.optimizer, one_device(), 0)["params"], sep="/")
    after = flatten_dict(state["params"], sep="/")
    assert case.trained and before.keys() - case.trained
    for path, x in after.items():
        same = np.asarray(x).tobytes() == np.asarray(before[path]).tobytes()
        assert same == (path not in case.trained), path
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.05


def test_there_are_moments_of_the_trained_only(case, trained):
    state, _ = trained
    for name in ("mu", "nu"):
        moments = flatten_dict(optax.tree.get(state["opt_state"], name), sep="/")
        assert moments.keys() == case.trained


def test_eight_devices_train_as_one(case, trained):
    state, one = trained
    sharded, eight = case.train(make_mesh(2, 2, 2))
    assert len(one) == len(eight) == STEPS
    np.testing.assert_allclose([m["loss"] for m in eight], [m["loss"] for m in one], atol=1e-5)
    norms = [[m["grad_norm"] for m in metrics] for metrics in (eight, one)]
    np.testing.assert_allclose(*norms, rtol=1e-4)
    abstract = abstract_state(case.model, case.optimizer, make_mesh(2, 2, 2), case.trained)
    jax.tree.map(
        lambda x, a: np.testing.assert_equal(
            (x.shape, x.dtype, x.sharding), (a.shape, a.dtype, a.sharding)
        ),
        sharded,
        abstract,
    )
    moments = jax.tree.leaves(optax.tree.get(sharded["opt_state"], "mu"))
    assert any(x.addressable_shards[0].data.size < x.size for x in moments)


def compiled_step(config, pattern=""):
    """The compiled step of a batch of 2 x 32 tokens."""
    paths, optimizer, mesh = trained_paths(config, pattern), optax.adamw(1e-3), one_device()
    train = default.get_config().train.unlock()
    train.update(batch=2, length=32, loss_blocks=4)
    step = make_train_step(config, optimizer, mesh, train, paths)
    state = abstract_state(config, optimizer, mesh, paths)
    return step.lower(state, abstract_batch(train, mesh)).compile()


def test_a_step_computes_no_gradient_of_what_is_frozen():
    # Weights are larger than activations, so that memory of gradients is seen.
    base = small_config(vocab=1024, width=64, heads=4, head_size=16, ff=256, layers=4)
    full = compiled_step(base)
    lora = compiled_step(dataclasses.replace(base, lora=LoRA(2, 4.0)))
    gradients = 4 * parameter_count(base)
    saved = full.memory_analysis().temp_size_in_bytes - lora.memory_analysis().temp_size_in_bytes
    assert saved > 0.9 * gradients
    # Of the six products a weight and token, two are for the gradient of the weight.
    assert lora.cost_analysis()["flops"] < 0.8 * full.cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("lora", "share"),
    [(LoRA(8, 16.0), 0.0182), (LoRA(16, 32.0, "query|value"), 0.0069)],
    ids=["all", "query and value"],
)
def test_optimizer_state_of_smollm2_is_under_2_percent_of_full(lora, share):
    def size(config):
        state = abstract_state(config, optax.adamw(1e-3), one_device())["opt_state"]
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    full = size(SMOLLM2)
    assert full == 2 * 4 * parameter_count(SMOLLM2) + 4 and parameter_count(SMOLLM2) == 134_515_008
    assert size(dataclasses.replace(SMOLLM2, lora=lora)) / full == pytest.approx(share, abs=1e-4)


def test_factors_and_their_moments_are_float32_on_a_bfloat16_base():
    config = small_config(param_dtype="bfloat16", lora=LoRA(2, 1.0))
    state = abstract_state(config, optax.adamw(1e-3), one_device())
    for path, x in flatten_dict(state["params"], sep="/").items():
        assert x.dtype == (jnp.float32 if is_factor(path) else jnp.bfloat16)
    for x in jax.tree.leaves(optax.tree.get(state["opt_state"], "mu")):
        assert x.dtype == jnp.float32
