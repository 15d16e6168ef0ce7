"""The guard against broken steps: a loss or gradient that is not finite, or far larger than usual.

Inside the jitted step `judge` decides without waiting for the host, and with train.on_spike='skip'
the step leaves parameters and optimizer as they are. Afterwards the loop gives the step's metrics
to `verdict`, which stops the run or says what was skipped.
"""

import jax
import jax.numpy as jnp
import numpy as np

# The running mean goes over so many steps, and says nothing before it has seen a few.
WINDOW = 100
LEAST = 10


class TrainingDiverged(ValueError):
    """A step's loss or gradient is not finite or far too large, or too many were skipped."""


def new_guard() -> dict[str, jax.Array]:
    """The guard's part of the state.

    mean: float32, of the gradient's norm over the last sound steps; count: int32, of those steps;
    skipped_in_row: int32, steps skipped just before.
    """
    return {
        "mean": jnp.float32(0),
        "count": jnp.int32(0),
        "skipped_in_row": jnp.int32(0),
    }


def judge(guard, loss: jax.Array, grad_norm: jax.Array, train):
    """Whether a step is sound, and what the guard keeps of it.

    Args:
      guard: see `new_guard`.
      loss, grad_norm: float32 scalars of the step.
      train: the `train` section of a config: on_spike and spike_factor count.

    Returns:
      sound: bool scalar.
      guard: after the step.
      metrics: float32 scalars: 'spike' (1 where the gradient's norm is finite and more than
        spike_factor times its mean), 'skipped' (1 where the step is), 'skipped_in_row' (with this
        one) and 'grad_norm_mean' (of the steps before).
    """
    mean, count = guard["mean"], guard["count"]
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    spike = jnp.bool_(False)
    if train.spike_factor:
        spike = finite & (count >= LEAST) & (grad_norm > train.spike_factor * mean)
    sound = finite & ~spike
    skipped = ~sound if train.on_spike == "skip" else jnp.bool_(False)
    seen = jnp.minimum(count + 1, WINDOW)
    after = {
        "mean": jnp.where(sound, mean + (grad_norm - mean) / seen, mean),
        "count": jnp.where(sound, seen, count),
        "skipped_in_row": jnp.where(skipped, guard["skipped_in_row"] + 1, 0),
    }
    metrics = {
        "spike": spike,
        "skipped": skipped,
        "skipped_in_row": after["skipped_in_row"],
        "grad_norm_mean": mean,
    }
    return sound, after, {name: x.astype(jnp.float32) for name, x in metrics.items()}


def check(train) -> None:
    """Raises ValueError where the guard's settings in the `train` section make no sense."""
    if train.on_spike not in ("stop", "skip"):
        raise ValueError(f"train.on_spike={train.on_spike!r} is not one of skip, stop.")
    if train.spike_factor and train.spike_factor <= 1:
        raise ValueError(
            f"train.spike_factor={train.spike_factor} would take usual gradients for spikes; "
            "use more than 1, such as 10, or 0 for none."
        )


def verdict(step: int, metrics, train) -> str | None:
    """What the loop does about a step: None where it was sound, a line to log where it was skipped.

    The loop calls it with the metrics of every step, fetched, in order, and before anything after
    that step is saved. The losses of skipped steps belong in no mean.

    Args:
      step: number of steps before this one.
      metrics: what the train step returned, as host values.
      train: the `train` section of a config: on_spike, spike_factor and most_skipped count.

    Raises:
      TrainingDiverged: the step is not sound and train.on_spike is 'stop', or train.most_skipped
        steps in a row were skipped.
    """
    fault = _fault(step, metrics, train)
    if fault is None:
        return None
    if train.on_spike == "stop":
        raise TrainingDiverged(
            f"{fault}; lower train.learning_rate, look at the rows of this batch, or pass over "
            "such steps with train.on_spike=skip."
        )
    in_row = int(metrics["skipped_in_row"])
    if in_row >= train.most_skipped:
        raise TrainingDiverged(
            f"{in_row} steps in a row were skipped (train.most_skipped); at last {fault}; lower "
            "train.learning_rate, or go on from an earlier checkpoint."
        )
    return f"skipped: {fault}"


def _fault(step: int, metrics, train) -> str | None:
    """What is wrong with a step, in words."""
    for name, words in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
        if not np.isfinite(metrics[name]):
            return f"the {words} of step {step + 1} is {metrics[name]}"
    if metrics["spike"]:
        return (
            f"the norm of the gradient of step {step + 1} is {metrics['grad_norm']:.4g}, more than "
            f"{train.spike_factor:g} times (train.spike_factor) its mean of "
            f"{metrics['grad_norm_mean']:.4g}"
        )
    return None
