"""Schedule, clipping, and what weight decay leaves alone."""

import jax
import jax.numpy as jnp
import ml_dtypes
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
        learning_rate_factors=(),
        moment_dtype="float32",
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
    with pytest.raises(
        ValueError, match="optimizer='adamx' is not one of adafactor, adamw, lion, muon"
    ):
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
    # The first step of AdamW has the same size in every element.
    for of in (lambda tree: tree["embedding"], lambda tree: tree["layers"]["mlp_norm"]):
        np.testing.assert_allclose(of(updates), -0.1 * np.sign(of(grads)), rtol=1e-3)
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
        update, grad = (tree["layers"]["attention"][name] for tree in (updates, grads))
        np.testing.assert_allclose(update, -0.1 * np.sign(grad), rtol=1e-3)
    factors = {name: x for name, x in moved["layers"]["attention"].items() if "_lora_" in name}
    with pytest.raises(ValueError, match="muon' finds no whole matrix.*train.optimizer=adamw"):
        optimizer.init({"layers": {"attention": factors}})


OPTIMIZERS = ("adafactor", "adamw", "lion", "muon")


def update(optimizer, grads, params, steps=1):
    """The last updates and the state after so many steps with the same gradients."""

    @jax.jit
    def run(grads, params):
        state = optimizer.init(params)
        for _ in range(steps):
            updates, state = optimizer.update(grads, state, params)
        return updates, state

    return run(grads, params)


def random_like(params, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), params)


def test_lion_moves_every_element_by_its_rate():
    params = make_params(small_config(layers=2))
    optimizer = make_optimizer(config(optimizer="lion", warmup_steps=0, weight_decay=0.0), 100)
    grads = random_like(params)
    updates, state = update(optimizer, grads, params)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -0.1 * np.sign(g)), updates, grads)
    sizes = sum(x.size for x in jax.tree.leaves(state))
    assert sizes < 1.01 * sum(x.size for x in jax.tree.leaves(params))  # one moment, not two


def test_adafactor_keeps_rows_and_columns():
    params = {"layers": {"mlp": {"up": np.ones((3, 64, 96), np.float32)}}}
    grads = random_like(params)
    settings = dict(optimizer="adafactor", warmup_steps=0, weight_decay=0.0, clip_norm=1e9)
    updates, state = update(make_optimizer(config(**settings, beta1=0.0), 100), grads, params)
    shapes = sorted(x.shape for x in jax.tree.leaves(state) if x.size > 1)
    assert shapes == [(3, 64), (3, 96)]
    # The first step by hand: the gradient over its estimated size, which is 1 in the mean.
    g = grads["layers"]["mlp"]["up"].astype(np.float64)
    row, column = (g**2).mean(2, keepdims=True), (g**2).mean(1, keepdims=True)
    step = g / np.sqrt(row * column / row.mean(1, keepdims=True))
    step /= max(1, np.sqrt((step**2).mean()))
    np.testing.assert_allclose(updates["layers"]["mlp"]["up"], -0.1 * step, rtol=1e-4, atol=1e-6)
    # With a first moment, one array of the parameter's size is kept.
    _, state = update(make_optimizer(config(**settings), 100), grads, params)
    assert sorted(x.shape for x in jax.tree.leaves(state) if x.ndim == 3) == [(3, 64, 96)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rates_by_path(name):
    """The first pattern that is found counts; a factor of 0 leaves parameters as they are."""
    params = make_params(small_config(layers=2))
    grads = random_like(params)
    factors = (("attention/query$", 0.0), ("attention", 0.5), ("norm", 3.0))
    settings = dict(optimizer=name, muon_learning_rate=0.02, warmup_steps=0)
    plain, _ = update(make_optimizer(config(**settings), 100), grads, params)
    scaled, _ = update(
        make_optimizer(config(**settings, learning_rate_factors=factors), 100), grads, params
    )
    found = set()
    for (path, x), y in zip(jax.tree.leaves_with_path(scaled), jax.tree.leaves(plain), strict=True):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        factor = 0.0 if path.endswith("/query") else 0.5 if "attention" in path else 1.0
        factor = 3.0 if path.endswith("norm") and "attention" not in path else factor
        np.testing.assert_allclose(x, factor * y, rtol=1e-6)
        assert np.abs(y).max() > 0
        found.add(factor)
    assert found == {0.0, 0.5, 1.0, 3.0}


def test_a_pattern_of_learning_rates_that_matches_nothing_is_refused():
    params = make_params(small_config())
    optimizer = make_optimizer(config(learning_rate_factors=(("mpl/up", 0.1),)), 100)
    message = r"learning_rate_factors='mpl/up' is found in no parameter.*nearest: layers/mlp/up\)"
    with pytest.raises(ValueError, match=message):
        optimizer.init(params)
    optimizer = make_optimizer(config(learning_rate_factors=(("(", 0.1),)), 100)
    with pytest.raises(ValueError, match=r"learning_rate_factors='\(' is no regular expression"):
        optimizer.init(params)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_a_step_changes_no_dtype(name, param_dtype):
    """Moments are stored in moment_dtype, updates and all that is small are float32."""
    model = small_config(layers=2, param_dtype=param_dtype)
    params = jax.tree.map(lambda x: x.astype(param_dtype), make_params(model))
    grads = random_like(params)
    for moment_dtype in ("float32", "bfloat16"):
        settings = dict(optimizer=name, muon_learning_rate=0.02, moment_dtype=moment_dtype)
        optimizer = make_optimizer(config(**settings), 100)
        before = jax.eval_shape(optimizer.init, params)
        updates, after = jax.eval_shape(optimizer.update, grads, before, params)
        jax.tree.map(
            lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)),
            before,
            after,
        )
        assert {x.dtype.name for x in jax.tree.leaves(updates)} == {"float32"}
        moments = [
            x.dtype.name
            for field in ("mu", "nu", "ema")
            for _, tree in optax.tree.get_all_with_path(before, field)
            for x in jax.tree.leaves(tree)
        ]
        assert len(moments) >= 11 and set(moments) == {moment_dtype}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_bfloat16_moments_make_nearly_the_same_steps(name):
    params = make_params(small_config(layers=2))
    grads = random_like(params)
    settings = dict(optimizer=name, muon_learning_rate=0.02, warmup_steps=0)
    optimizers = [
        make_optimizer(config(**settings, moment_dtype=dtype), 100)
        for dtype in ("float32", "bfloat16")
    ]
    for x, y in zip(
        *(jax.tree.leaves(update(o, grads, params, 3)[0]) for o in optimizers), strict=True
    ):
        assert np.abs(x - y).max() < 0.03 * np.abs(x).max()


def test_bfloat16_moments_that_could_not_forget_are_refused():
    with pytest.raises(ValueError, match="rounds away what train.beta2=0.999 would change"):
        make_optimizer(config(moment_dtype="bfloat16", beta2=0.999), 10)
    make_optimizer(config(moment_dtype="bfloat16", beta2=0.999, optimizer="adafactor"), 10)
    with pytest.raises(ValueError, match="moment_dtype='float16' is not one of bfloat16, float32"):
        make_optimizer(config(moment_dtype="float16"), 10)
    # Why: this many steps without a gradient should halve a moment.
    moment = {0.999: ml_dtypes.bfloat16(1.0), 0.99: ml_dtypes.bfloat16(1.0)}
    for beta in moment:
        for _ in range(round(np.log(0.5) / np.log(beta))):
            moment[beta] = ml_dtypes.bfloat16(beta * np.float32(moment[beta]))
    assert float(moment[0.999]) == 1.0 and float(moment[0.99]) < 0.6


def test_weight_decay_leaves_norms_under_every_optimizer():
    params = make_params(small_config(layers=2))
    grads = jax.tree.map(jnp.zeros_like, params)
    for name in OPTIMIZERS:
        settings = dict(optimizer=name, muon_learning_rate=0.1, warmup_steps=0)
        updates, _ = update(make_optimizer(config(**settings), 100), grads, params)
        for (path, x), param in zip(
            jax.tree.leaves_with_path(updates), jax.tree.leaves(params), strict=True
        ):
            want = 0 * param if path[-1].key.endswith("norm") else -0.05 * param
            np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-7)
