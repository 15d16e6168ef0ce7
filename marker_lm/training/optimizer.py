"""Optimizers by name, all from Optax; the learning rate warms up and then follows a cosine."""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from marker_lm.model.layout import parts, split_over
from marker_lm.model.lora import is_factor
from marker_lm.training.trainable import check_pattern


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
    return jax.tree.map_with_path(lambda path, x: not is_vector(path), params)


def is_vector(path) -> bool:
    """Whether a parameter is the scale of a norm or a bias."""
    return path[-1].key.endswith(("norm", "bias"))


def _two_betas(make, config, learning_rate):
    """AdamW or Lion, which Optax makes of the same settings.

    Lion (Chen et al. 2023, arXiv:2302.06675) moves every element by the learning rate. It wants a
    third to a tenth of AdamW's rate and as many times its weight decay.
    """
    return make(
        learning_rate,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )


_adamw = functools.partial(_two_betas, optax.adamw)
_lion = functools.partial(_two_betas, optax.lion)


def _adafactor(config, learning_rate):
    """Adafactor (Shazeer and Stern 2018) as in Zhai et al. 2021, arXiv:2106.04560.

    The second moment of a matrix is a row and a column. `beta1` averages the steps, which needs an
    array of the parameter's size; 0 does without. `beta2` is not used: the second moment averages
    over ever more steps. The rate is AdamW's, without the scale of the parameter.
    """
    momentum = optax.ema(config.beta1) if config.beta1 else optax.identity()
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=64),
        optax.clip_by_block_rms(1.0),
        momentum,
        optax.add_decayed_weights(config.weight_decay, mask=_decayed),
        optax.scale_by_learning_rate(learning_rate),
    )


def _muon_dimensions(params):
    """Which axes of a stacked matrix are rows and columns to Muon; None leaves it to AdamW.

    Raises:
      ValueError: there is no matrix for Muon.
    """

    def dimensions(path, _):
        name = path[-1].key
        if path[0].key != "layers" or is_vector(path) or is_factor(name):
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


def _layers_apart(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on stacks of matrices [layers, ...], each device with whole matrices of some layers.

    Muon multiplies a matrix with itself: were it split, all devices would gather all matrices. So
    the layers are dealt out over fsdp and context, and come back after. (What tensor splits too,
    XLA gathers on the way.)
    """

    def update(updates, state, params=None):
        axes, ways = split_over("embed"), parts("embed")
        if ways == 1:
            return inner.update(updates, state, params)

        def filled(x):  # to as many layers as can be dealt out evenly
            if x.ndim < 3:
                return x
            return jnp.pad(x, [(0, -len(x) % ways), *((0, 0) for _ in x.shape[1:])])

        given = updates, state
        specs = jax.tree.map(
            lambda x: PartitionSpec(axes) if x.ndim > 2 else PartitionSpec(), given
        )
        found = jax.shard_map(
            # Optax asks for parameters, and without decay only for their nesting.
            lambda updates, state: inner.update(updates, state, updates),
            in_specs=specs,
            out_specs=specs,
            check_vma=False,
        )(*jax.tree.map(filled, given))
        return jax.tree.map(lambda x, y: y[: len(x)] if x.ndim > 2 else y, given, found)

    return optax.GradientTransformation(inner.init, update)


def _muon(config, learning_rate):
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for the rest.

    Muon's steps are orthogonal matrices and want a rate of their own: `muon_learning_rate`, on the
    same schedule. LoRA's factors are AdamW's: Muon makes a step of the same size for a thin factor
    as for a whole matrix, and its product with the other factor moves W many times as far.
    """
    scale = config.muon_learning_rate / config.learning_rate
    muon = optax.chain(
        _layers_apart(optax.contrib.muon(1.0, muon_weight_dimension_numbers=_muon_dimensions)),
        optax.scale(-1.0),  # it goes downhill already
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(lambda step: scale * learning_rate(step)),
    )

    def labels(params):
        return jax.tree.map(
            lambda _, axes: "adamw" if axes is None else "muon", params, _muon_dimensions(params)
        )

    return optax.partition({"muon": muon, "adamw": _adamw(config, learning_rate)}, labels)


OPTIMIZERS: dict[str, Callable] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
}


def make_optimizer(config, steps: int) -> optax.GradientTransformation:
    """The optimizer of a training config.

    Gradients are clipped by their global norm, `config.optimizer` makes the step, and
    `learning_rate_factors` scale it. All of it computes in float32, whatever the dtypes of
    parameters, gradients and stored moments are.

    Args:
      config: the `train` section of a config.
      steps: length of the schedule.

    Raises:
      ValueError: an unknown optimizer, or values that do not go together. Its `init` raises it for
        a pattern of `learning_rate_factors` that is found in no path.
    """
    if config.optimizer not in OPTIMIZERS:
        known = ", ".join(sorted(OPTIMIZERS))
        raise ValueError(f"train.optimizer={config.optimizer!r} is not one of {known}.")
    return _in_float32(
        optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            OPTIMIZERS[config.optimizer](config, schedule(config, steps)),
            scale_by_path(config.learning_rate_factors),
        ),
        _moment_dtype(config),
    )


def scale_by_path(factors) -> optax.GradientTransformation:
    """Scales the steps of parameters by the factor of the first pattern found in their path.

    The whole step is scaled, that of weight decay too: a factor of 0 leaves parameters as they are.
    Without a pattern it is 1.

    Args:
      factors: pairs of a regular expression, which is searched for in paths such as
        'layers/attention/query', and a factor.
    """

    def factor_of(path) -> float:
        return next((f for pattern, f in factors if re.search(pattern, _name(path))), 1.0)

    def init(params):
        names = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        for pattern, _ in factors:
            check_pattern("train.learning_rate_factors", pattern, names)
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        return jax.tree.map_with_path(lambda path, x: factor_of(path) * x, updates), state

    return optax.GradientTransformation(init, update)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


# Where the states of Optax keep averages over steps. Adafactor's rows and columns are small, and
# their averages grow longer than bfloat16 can follow.
MOMENTS = frozenset({"mu", "nu", "ema"})


def _moment_dtype(config) -> jnp.dtype:
    """The dtype of the moments.

    Raises:
      ValueError: it is not known, or bfloat16 can not hold them.
    """
    if config.moment_dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"train.moment_dtype={config.moment_dtype!r} is not one of bfloat16, float32."
        )
    # Rounded to bfloat16, x * beta is x again from beta = 1 - 2 ** -8 on: nothing is forgotten. At
    # 0.99 a moment that has settled is within 40 % of the true one, at 0.95 within 8 %.
    used = ("beta1",) if config.optimizer == "adafactor" else ("beta1", "beta2")
    for name in used:
        if config.moment_dtype == "bfloat16" and config[name] > 0.99:
            raise ValueError(
                f"train.moment_dtype=bfloat16 rounds away what train.{name}={config[name]} "
                "would change in a step; use 0.99 or less, or train.moment_dtype=float32."
            )
    return jnp.dtype(config.moment_dtype)


def _in_float32(inner: optax.GradientTransformation, moment_dtype) -> optax.GradientTransformation:
    """`inner` on float32 arrays; between steps its moments are stored in `moment_dtype`."""

    def in_float32(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def moments_in(dtype, state):
        def cast(path, x):
            is_moment = not MOMENTS.isdisjoint(getattr(key, "name", None) for key in path)
            return x.astype(dtype) if is_moment else x

        return jax.tree.map_with_path(cast, state)

    def init(params):
        return moments_in(moment_dtype, inner.init(in_float32(params)))

    def update(grads, state, params):
        state = moments_in(jnp.float32, state)
        updates, state = inner.update(in_float32(grads), state, in_float32(params))
        return updates, moments_in(moment_dtype, state)

    return optax.GradientTransformation(init, update)
