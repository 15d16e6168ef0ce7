"""Stochastic rounding has the right mean, loses no small step, and does not depend on the mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings
from marker_lm.training.rounding import apply_updates, check, step_key, stochastic_round
from tests.training import steps

MANY = 20_000


def rounded(x: float, key: int = 0, count: int = MANY) -> np.ndarray:
    return np.asarray(stochastic_round(jnp.full(count, x, jnp.float32), jax.random.key(key)))


@settings(max_examples=50, deadline=None)
@given(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), st.integers(0, 2**31))
def test_it_is_one_of_the_neighbours_and_right_in_the_mean(x, key):
    found = rounded(x, key).astype(np.float64)
    low, high = found.min(), found.max()
    nearest = np.float32(x).astype(jnp.bfloat16)
    if nearest == x:
        assert low == high == x
        return
    step = high - low
    assert low <= x <= high or step == 0
    spacing = abs(x) * 2**-7  # bfloat16 numbers near x are at most so far apart
    assert step <= spacing
    # The mean of n draws from two values d apart has a deviation of at most d / 2 sqrt(n).
    assert abs(found.mean() - x) < 5 * spacing / 2 / MANY**0.5


def test_a_quarter_of_the_way_is_rounded_up_a_quarter_of_the_times():
    low, high = 1.0, 1.0 + 2**-7
    found = rounded(low + 0.25 * 2**-7)
    assert set(found.astype(float)) == {low, high}
    assert abs(np.mean(found.astype(float) == high) - 0.25) < 0.02


@pytest.mark.parametrize("x", [0.0, -0.0, 1.5, -3.0, np.inf, -np.inf])
def test_what_bfloat16_holds_stays(x):
    want = np.full(MANY, x).astype(jnp.bfloat16)
    assert rounded(x).tobytes() == want.tobytes()


def test_nan_stays_nan():
    # All bits set: a carry would make it another number.
    x = jax.lax.bitcast_convert_type(jnp.full(8, 0x7FFFFFFF, jnp.uint32), jnp.float32)
    assert np.isnan(np.asarray(stochastic_round(x, jax.random.key(0))).astype(float)).all()


def test_small_steps_are_not_lost():
    """A thousand steps of a 64th of what bfloat16 can tell from 1."""
    params = {"w": jnp.ones(256, jnp.bfloat16)}
    updates = {"w": jnp.full(256, 2.0**-13)}

    @jax.jit
    def run(params):
        return jax.lax.fori_loop(
            0, 1000, lambda i, p: apply_updates(p, updates, step_key(0, i)), params
        )

    nearest = optax.apply_updates(params, updates)
    assert (nearest["w"] == params["w"]).all()  # so they are without it
    found = np.asarray(run(params)["w"]).astype(float)
    assert abs(found.mean() - (1 + 1000 * 2**-13)) < 0.01


def test_a_mesh_rounds_as_one_device_does():
    model = dataclasses.replace(steps.MODEL, param_dtype="bfloat16")
    random = np.random.default_rng(0)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    shardings = param_shardings(model, mesh)
    params = jax.tree.map(lambda _: random.normal(size=(16, 64)), shardings)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    updates = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape) * 1e-3), params)
    apply = jax.jit(apply_updates)
    one = apply(params, updates, step_key(7, 3))
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), "tensor"))
    eight = apply(*jax.device_put((params, updates), rows), step_key(7, 3))
    assert steps.same_bits(one, eight)
    for changed in (step_key(7, 4), step_key(8, 3)):
        assert not steps.same_bits(one, apply(params, updates, changed))
    leaves = jax.tree.leaves(one)
    assert not steps.same_bits(leaves[0], leaves[1])


def test_a_run_goes_on_to_the_bit():
    """Steps 3 and 4 of a state that was on its way, in a step made anew, are those of one run."""
    model = dataclasses.replace(steps.MODEL, param_dtype="bfloat16", layers=1)
    train = steps.settings(stochastic_rounding=True, learning_rate=1e-4)
    batches = [steps.make_batch(seed) for seed in range(4)]
    run = steps.Run(train, model=model)
    half, _ = run.train(batches[:2])
    whole, metrics = run.train(batches[2:], half)
    again, _ = steps.Run(train, model=model).train(batches[2:], half)
    assert steps.same_bits(whole, again)
    assert {x.dtype for x in jax.tree.leaves(whole["params"])} == {jnp.dtype("bfloat16")}
    moments = jax.tree.leaves(optax.tree.get(whole["opt_state"], "nu"))
    assert {x.dtype for x in moments} == {jnp.dtype("float32")}
    assert metrics[-1]["loss"] > 0


def test_parameters_in_float32_are_not_rounded():
    with pytest.raises(ValueError, match="use model.param_dtype=bfloat16, or leave it off"):
        steps.Run(steps.settings(stochastic_rounding=True))
    check({"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.bfloat16)})
