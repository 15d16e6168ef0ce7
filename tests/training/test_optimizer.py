"""Schedule, clipping, and what weight decay leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from marker_lm.model.config import LoRA
from marker_lm.training.optimizer import make_optimizer, schedule
from tests.model.helpers import make_params, small_config


def config(**changes):
    known = dict(
        optimizer="adamw",
        learning_rate=0.1,
        final_learning_rate=0.02,
        warmup_steps=10,
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.5,
        clip_norm=1.0,
    )
    return ConfigDict(known | changes)


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    rate = schedule(config(), 110)
    found = [float(rate(step)) for step in (0, 5, 10, 35, 60, 110, 500)]
    cosine = 0.02 + 0.08 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(found, [0, 0.05, 0.1, cosine, 0.06, 0.02, 0.02], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_run_shorter_than_its_warm_up_is_finite(steps):
    rates = [float(schedule(config(), steps)(step)) for step in range(steps + 1)]
    assert np.isfinite(rates).all() and 0 < max(rates) <= 0.1 + 1e-6


def test_without_warm_up_it_starts_at_its_peak():
    assert float(schedule(config(warmup_steps=0), 100)(0)) == pytest.approx(0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_weight_decay_shrinks_matrices_and_leaves_norms(tied):
    params = make_params(small_config(tied_head=tied))
    optimizer = make_optimizer(config(warmup_steps=0), 100)
    grads = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def step(grads, params):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    new = step(grads, params)
    kept = shrunk = 0
    for (path, before), after in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(new), strict=True
    ):
        is_norm = "norm" in jax.tree_util.keystr(path[-1:])
        kept, shrunk = kept + is_norm, shrunk + (not is_norm)
        np.testing.assert_allclose(after, before if is_norm else 0.95 * before, rtol=1e-5)
    assert kept == 3 and shrunk == (8 if tied else 9)


def test_large_gradients_are_clipped_by_their_global_norm():
    params = make_params(small_config())
    optimizer = make_optimizer(config(clip_norm=0.5), 100)
    grads = jax.tree.map(lambda x: jnp.full_like(x, 3.0), params)
    state = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[1])(grads, params)
    moment = optax.tree.get(state, "mu")
    assert float(optax.global_norm(moment)) == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_an_unknown_optimizer():
    with pytest.raises(ValueError, match="train.optimizer='adamx' is not one of adamw"):
        make_optimizer(config(optimizer="adamx"), 10)


def test_muon_turns_block_matrices_and_leaves_tables_and_norms_to_adam():
    params = make_params(small_config(layers=2))
    settings = dict(optimizer="muon", muon_learning_rate=0.03, warmup_steps=0, weight_decay=0.0)
    optimizer = make_optimizer(config(**settings), 100)
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)

    @jax.jit
    def updates_of(grads, params):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    updates = updates_of(grads, params)
    # The first step of Adam (with Nesterov's momentum) has the same size in every element.
    for of in (lambda tree: tree["embedding"], lambda tree: tree["layers"]["mlp_norm"]):
        first = (1 + 0.9 / 1.9) * 0.1
        np.testing.assert_allclose(of(updates), -first * np.sign(of(grads)), rtol=1e-3)
    # Muon's is near an orthogonal matrix: all singular values alike, over all heads at once.
    query_DxHN = np.asarray(updates["layers"]["attention"]["query"][0])
    query_DxHN = query_DxHN.reshape(query_DxHN.shape[0], -1)
    singular = np.linalg.svd(query_DxHN, compute_uv=False)
    assert singular.max() / singular.min() < 2.5
    assert singular.max() < 0.03 * 1.3 * max(1, query_DxHN.shape[1] / query_DxHN.shape[0]) ** 0.5


def test_weight_decay_draws_lora_back_to_the_base_model():
    params = make_params(small_config(lora=LoRA(2, 1.0)))["layers"]["mlp"]
    optimizer = make_optimizer(config(warmup_steps=0), 100)
    grads = jax.tree.map(jnp.zeros_like, params)
    updates = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])(grads, params)
    for name in ("gate_lora_a", "gate_lora_b"):
        np.testing.assert_allclose(updates[name], -0.05 * params[name], rtol=1e-5)


def test_muon_leaves_loras_factors_to_adam():
    params = make_params(small_config(layers=2, lora=LoRA(2, 1.0, "query")))
    settings = dict(optimizer="muon", muon_learning_rate=0.03, warmup_steps=0, weight_decay=0.0)
    optimizer = make_optimizer(config(**settings), 100)
    moved = {"layers": {"attention": params["layers"]["attention"]}}
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), moved)
    updates = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])(grads, moved)
    for name in ("query_lora_a", "query_lora_b"):
        first = (1 + 0.9 / 1.9) * 0.1
        update, grad = (tree["layers"]["attention"][name] for tree in (updates, grads))
        np.testing.assert_allclose(update, -first * np.sign(grad), rtol=1e-3)
    factors = {name: x for name, x in moved["layers"]["attention"].items() if "_lora_" in name}
    with pytest.raises(ValueError, match="muon' finds no whole matrix.*train.optimizer=adamw"):
        optimizer.init({"layers": {"attention": factors}})
