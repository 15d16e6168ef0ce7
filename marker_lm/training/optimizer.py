"""Optimizers by name, all from Optax; the learning rate warms up and then follows a cosine."""

from collections.abc import Callable

import jax
import optax


def schedule(config, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine from `learning_rate` to `final_learning_rate`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, max(steps - 1, 1)),
        decay_steps=max(steps, 2),
        end_value=config.final_learning_rate,
    )


def _decayed(params):
    """Weight decay is for matrices: norms and other vectors (stacked by layer: rank 2) are left."""
    return jax.tree.map_with_path(lambda path, x: not path[-1].key.endswith("scale"), params)


def _adamw(config, learning_rate):
    return optax.adamw(
        learning_rate,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )


OPTIMIZERS: dict[str, Callable] = {"adamw": _adamw}


def make_optimizer(config, steps: int) -> optax.GradientTransformation:
    """The optimizer of a training config: global-norm clipping, then `config.optimizer`.

    Args:
      config: the `train` section of a config.
      steps: length of the schedule.
    """
    if config.optimizer not in OPTIMIZERS:
        known = ", ".join(sorted(OPTIMIZERS))
        raise ValueError(f"train.optimizer={config.optimizer!r} is not one of {known}.")
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        OPTIMIZERS[config.optimizer](config, schedule(config, steps)),
    )
