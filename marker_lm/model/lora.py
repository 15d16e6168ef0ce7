"""LoRA (Hu et al. 2021, arXiv:2106.09685) as a transform of parameters.

Beside a matrix W of the blocks, [inputs..., outputs...], stand its factors A [inputs..., rank] and
B [rank, outputs...]; W acts as W + scale A B. A begins random and B as zeros, so a new LoRA changes
nothing. The factors are float32 whatever the dtype of W: small steps on them must not be rounded
away, and they are few. The tables are no targets: train them whole (train.trainable).
"""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.nn import initializers

from marker_lm.model.config import ModelConfig

A = "{}_lora_a"
B = "{}_lora_b"


def is_factor(path: str) -> bool:
    """Whether a parameter's name or path is that of a factor."""
    return path.endswith((A.format(""), B.format("")))


def with_factors(config: ModelConfig, folder: str, infos: dict) -> dict:
    """The `ArrayInfo`s of a block's matrices, and those of the factors of each target.

    Args:
      config: its `lora` names the targets.
      folder: path of the matrices, such as 'layers/attention'.
      infos: name -> ArrayInfo, of one layer.
    """
    lora = config.lora
    if lora is None:
        return infos
    factors = {}
    for name, info in infos.items():
        if re.search(lora.targets, f"{folder}/{name}"):
            factor = functools.partial(dataclasses.replace, info, dtype=jnp.dtype("float32"))
            inputs, outputs = info.shape[: info.inputs], info.shape[info.inputs :]
            factors[A.format(name)] = factor(
                shape=(*inputs, lora.rank),
                axes=(*info.axes[: info.inputs], "rank"),
                init=initializers.normal(math.prod(inputs) ** -0.5),
                inputs=0,
            )
            factors[B.format(name)] = factor(
                shape=(lora.rank, *outputs),
                axes=("rank", *info.axes[info.inputs :]),
                init=initializers.zeros,
                inputs=0,
            )
    return infos | factors


def check_targets(config: ModelConfig, tree) -> None:
    """Raises ValueError when the config's LoRA has no target in a tree of `ArrayInfo`."""
    infos = flatten_dict(tree, sep="/")
    if config.lora and not any(map(is_factor, infos)):
        matrices = ", ".join(path for path, info in infos.items() if info.inputs)
        raise ValueError(
            f"lora.targets={config.lora.targets!r} is found in no matrix of the blocks; they are "
            f"{matrices} (the tables can be trained whole: train.trainable)."
        )


def merge(params, config: ModelConfig) -> tuple[dict, ModelConfig]:
    """The same model without factors: W + scale A B, and the config without LoRA.

    The sum is made in float32, layer by layer, and rounded to W's dtype. Arrays stay laid out as
    they are; those without factors are not copied.
    """
    if config.lora is None:
        return params, config
    flat = flatten_dict(params, sep="/")
    merged = {path: x for path, x in flat.items() if not is_factor(path)}
    for path, w in merged.items():
        if A.format(path) in flat:
            add = jax.jit(_add, static_argnums=0, out_shardings=jnp.asarray(w).sharding)
            merged[path] = add(config.lora.scale, w, *(flat[f.format(path)] for f in (A, B)))
    return unflatten_dict(merged, sep="/"), dataclasses.replace(config, lora=None)


def _add(scale: float, w, a, b):
    """W + scale A B of all layers; never more than one layer of it in float32."""

    def layer(wab):
        w, a, b = wab
        product = jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
        return (w.astype(jnp.float32) + scale * product).astype(w.dtype)

    return jax.lax.map(layer, (w, a, b))
