"""Optimizers by name, all from Optax; the learning rate warms up and then follows a cosine."""

from collections.abc import Callable

import jax
import optax

from marker_lm.model.lora import is_factor


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
    """Weight decay is for matrices; scales of norms and biases are left (they are stacked too).

    LoRA's factors are matrices: their decay draws the model back to the one it began as.
    """
    return jax.tree.map_with_path(lambda path, x: not _is_vector(path), params)


def _is_vector(path) -> bool:
    """Whether a parameter is the scale of a norm or a bias."""
    return path[-1].key.endswith(("norm", "bias"))


def _adamw(config, learning_rate):
    return optax.adamw(
        learning_rate,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )


def _muon_dimensions(params):
    """Which axes of a stacked matrix are rows and columns to Muon; None leaves it to AdamW.

    Raises:
      ValueError: there is no matrix for Muon.
    """

    def dimensions(path, _):
        name = path[-1].key
        if path[0].key != "layers" or _is_vector(path) or is_factor(name):
            return None
        if name in ("query", "key", "value"):  # [layers, D, heads, N]
            return optax.contrib.MuonDimensionNumbers(1, (2, 3))
        if name == "out":  # [layers, heads, N, D]
            return optax.contrib.MuonDimensionNumbers((1, 2), 3)
        return optax.contrib.MuonDimensionNumbers(1, 2)

    found = jax.tree.map_with_path(dimensions, params)
    if not jax.tree.leaves(found):
        raise ValueError(
            "train.optimizer='muon' finds no whole matrix of the blocks among what is trained; "
            "use train.optimizer=adamw (LoRA's factors are AdamW's under muon too)."
        )
    return found


def _muon(config, learning_rate):
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for the rest.

    Muon's steps are orthogonal matrices and want a rate of their own: `muon_learning_rate`, on the
    same schedule. LoRA's factors are AdamW's: Muon makes a step of the same size for a thin factor
    as for a whole matrix, and its product with the other factor moves W many times as far.
    """
    scale = config.muon_learning_rate / config.learning_rate
    return optax.contrib.muon(
        lambda step: scale * learning_rate(step),
        adam_learning_rate=learning_rate,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        adam_weight_decay=config.weight_decay,
        weight_decay=config.weight_decay,
        weight_decay_mask=_decayed,
        muon_weight_dimension_numbers=_muon_dimensions,
    )


OPTIMIZERS: dict[str, Callable] = {"adamw": _adamw, "muon": _muon}


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
