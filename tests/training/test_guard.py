"""A broken step is skipped as if it had not been, or stops the run; the step is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marker_lm.training.guard import LEAST, TrainingDiverged, check, judge, new_guard, verdict
from tests.training import steps

SKIP = steps.settings(on_spike="skip", spike_factor=10.0, most_skipped=3)
STOP = steps.settings(spike_factor=10.0)


def after(norms, train, losses=None):
    """The guard and the metrics after steps with these norms of the gradient."""
    guard, metrics, sound = new_guard(), {}, True
    for i, norm in enumerate(norms):
        loss = jnp.float32(losses[i] if losses else 1.0)
        sound, guard, metrics = judge(guard, loss, jnp.float32(norm), train)
    return bool(sound), jax.device_get(guard), jax.device_get(metrics)


def test_the_mean_is_that_of_the_sound_steps():
    norms = [float(n) for n in range(1, LEAST + 1)]
    sound, guard, metrics = after([*norms, 1e3, np.nan, 2.0], SKIP)
    assert sound and guard["count"] == LEAST + 1
    np.testing.assert_allclose(guard["mean"], (sum(norms) + 2) / (LEAST + 1), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm_mean"], np.mean(norms), rtol=1e-6)
    assert guard["skipped_in_row"] == 0


def test_the_mean_forgets():
    _, guard, _ = after([1.0] * 150 + [3.0] * 300, SKIP)
    assert 2.8 < guard["mean"] < 3.0 and guard["count"] == 100


@pytest.mark.parametrize(
    ("norms", "loss", "train", "sound", "spike"),
    [
        ([1.0] * LEAST + [10.5], 1.0, SKIP, False, True),
        ([1.0] * LEAST + [9.5], 1.0, SKIP, True, False),
        ([1.0] * (LEAST - 1) + [10.5], 1.0, SKIP, True, False),  # too few to know
        ([1.0] * LEAST + [10.5], 1.0, steps.settings(on_spike="skip"), True, False),
        ([1.0] * LEAST + [np.inf], 1.0, SKIP, False, False),
        ([np.nan], 1.0, SKIP, False, False),
        ([1.0], np.nan, SKIP, False, False),
        ([1.0], -np.inf, STOP, False, False),
        ([1.0] * LEAST + [10.5], 1.0, STOP, False, True),
    ],
)
def test_which_steps_are_sound(norms, loss, train, sound, spike):
    found, guard, metrics = after(norms, train, [1.0] * (len(norms) - 1) + [loss])
    assert found == sound and metrics["spike"] == spike
    skipped = not sound and train.on_spike == "skip"
    assert metrics["skipped"] == metrics["skipped_in_row"] == guard["skipped_in_row"] == skipped
    assert all(x.dtype == np.float32 for x in metrics.values())


def make_metrics(**changes):
    known = dict(loss=1.0, grad_norm=2.0, spike=0.0, skipped_in_row=0.0, grad_norm_mean=0.5)
    return {name: np.float32(x) for name, x in (known | changes).items()}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_what_is_not_finite_stops_the_run(name, value):
    words = {"loss": "loss", "grad_norm": "norm of the gradient"}[name]
    with pytest.raises(TrainingDiverged, match=f"the {words} of step 8 is {value}; lower train.l"):
        verdict(7, make_metrics(**{name: value}), STOP)


def test_a_spike_stops_the_run():
    message = (
        r"^the norm of the gradient of step 8 is 12.5, more than 10 times \(train.spike_factor\) "
        r"its mean of 0.5; .*train.on_spike=skip.$"
    )
    with pytest.raises(TrainingDiverged, match=message):
        verdict(7, make_metrics(grad_norm=12.5, spike=1.0), STOP)


def test_a_step_is_skipped_and_told_until_it_is_too_much():
    assert verdict(7, make_metrics(), SKIP) is None
    broken = make_metrics(loss=np.nan)
    for count in (1, 2):
        line = verdict(7, broken | {"skipped_in_row": np.float32(count)}, SKIP)
        assert line == "skipped: the loss of step 8 is nan"
    message = r"^3 steps in a row were skipped \(train.most_skipped\); at last the loss of step 8"
    with pytest.raises(TrainingDiverged, match=message):
        verdict(7, broken | {"skipped_in_row": np.float32(3)}, SKIP)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="on_spike='ignore' is not one of skip, stop"):
        check(steps.settings(on_spike="ignore"))
    with pytest.raises(ValueError, match="spike_factor=0.5 would take usual gradients for spikes"):
        check(steps.settings(spike_factor=0.5))
    check(SKIP)


def test_a_skipped_step_leaves_all_but_the_count_as_it_was():
    """Bit for bit, and what follows goes on as if the batch had not been."""
    good = [steps.make_batch(seed) for seed in range(LEAST + 1)]
    spike = steps.make_batch(50)
    spike["weights"] = 1e4 * spike["weights"]
    broken = steps.make_batch(51)
    broken["weights"][2, -1] = np.inf
    run = steps.Run(SKIP)
    want, _ = run.train(good)
    found, metrics = run.train([*good[:-1], spike, broken, good[-1]])
    assert int(found.pop("step")) == int(want.pop("step")) + 2 == LEAST + 3
    assert steps.same_bits(found, want)
    assert [m["skipped"] for m in metrics] == [0.0] * LEAST + [1.0, 1.0, 0.0]
    assert [m["spike"] for m in metrics[LEAST:]] == [1.0, 0.0, 0.0]
    assert [m["skipped_in_row"] for m in metrics[LEAST:]] == [1.0, 2.0, 0.0]
    assert not np.isfinite(metrics[LEAST + 1]["grad_norm"])
    lines = [verdict(step, m, SKIP) for step, m in enumerate(metrics)]
    assert [line is None for line in lines] == [True] * LEAST + [False, False, True]
