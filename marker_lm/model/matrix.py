"""Weights in the form that decoding reads them in: each matrix on its own, a row for each output.

Writing a token reads every weight once, so the time of a step is that of reading them. The layers'
matrices stand apart, since a part of a stacked array would be copied before it is multiplied, and
rows are outputs, since XLA's product on CPUs reads such a matrix at the speed of memory where it
stands on the left. int8 takes a quarter of float32.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from marker_lm.model.config import ModelConfig
from marker_lm.model.params import ArrayInfo, abstract_params

WEIGHTS = ("", "int8")
_LARGEST = 127  # of int8, on both sides


@flax.struct.dataclass
class Matrix:
    """A matrix [*outputs, *inputs].

    Attributes:
      values: a float dtype, or int8.
      scale: float32 [*outputs], what a row of int8 values is multiplied by; None for floats.
      inputs: how many axes, from the last, are summed over.
    """

    values: jax.Array
    scale: jax.Array | None
    inputs: int = flax.struct.field(pytree_node=False, default=1)

    def times(self, x: jax.Array, dtype=None) -> jax.Array:
        """[..., *outputs] of x [..., *inputs]; in `dtype`, x's own by default."""
        dtype = x.dtype if dtype is None else dtype
        axes = tuple(range(-self.inputs, 0))
        summed = tuple(tuple(axis % a.ndim for axis in axes) for a in (self.values, x))
        values = self.values
        if self.scale is not None:  # one is widened when it is needed, not all at the start
            values, x = jax.lax.optimization_barrier((values, x))
        y = jax.lax.dot_general(
            values.astype(x.dtype),
            x,
            (summed, ((), ())),
            preferred_element_type=dtype if self.scale is None else jnp.float32,
        )
        outputs = self.values.ndim - self.inputs
        y = jax.lax.optimization_barrier(y)  # else XLA may turn the product round again
        y = y.transpose(*range(outputs, y.ndim), *range(outputs))
        return y if self.scale is None else (y * self.scale).astype(dtype)

    def rows(self, ids: jax.Array) -> jax.Array:
        """Rows of a table, [*ids, *inputs], float32 where the values are int8."""
        values = self.values[ids]
        if self.scale is None:
            return values
        return values.astype(jnp.float32) * self.scale[ids][..., None]

    def dense(self, dtype) -> jax.Array:
        """[*outputs, *inputs] as one array."""
        if self.scale is None:
            return self.values.astype(dtype)
        scale = jnp.expand_dims(self.scale, tuple(range(-self.inputs, 0)))
        return (self.values.astype(jnp.float32) * scale).astype(dtype)


def quantize(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """int8 values and float32 scales such that values * scale is nearest to x, symmetric around 0.

    Args:
      x: of a float dtype.
      axes: that share a scale; in the scales they are of size 1.

    Returns:
      The values, at most half a scale off x, and the scales: the largest magnitude over 127.
    """
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / _LARGEST
    return jnp.round(x / jnp.where(scale > 0, scale, 1)).astype(jnp.int8), scale


def decoding_config(config: ModelConfig) -> ModelConfig:
    """The config that goes with `decoding_params`: without what saves memory in training."""
    return dataclasses.replace(config, ff_blocks=1, remat="none")


def decoding_infos(config: ModelConfig, weights: str = "") -> Any:
    """The tree of `ArrayInfo` of `decoding_params`.

    Raises:
      ValueError: `weights` is not in WEIGHTS, or the model has a LoRA that is not merged.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; choose '' (the compute dtype) or 'int8'.")
    if config.lora:
        raise ValueError("the model has a LoRA; merge it (model/lora.py) before decoding.")
    infos = abstract_params(config)
    layers = infos.pop("layers")
    infos = {name: _prepared_info(config, info, weights, name) for name, info in infos.items()}
    one = jax.tree.map(lambda info: _prepared_info(config, _unstacked(info), weights), layers)
    return infos | {"layers": (one,) * config.layers}


def decoding_params(params, config: ModelConfig, weights: str = "") -> tuple[Any, ModelConfig]:
    """The same model as decoding reads it, and the config that goes with it.

    Matrices are `Matrix`, in the compute dtype or in int8; 'layers' is a tuple of one tree a layer.
    `Transformer` and `head_logits` take such parameters like those of training, which are not
    changed. Under `use_mesh` all is split as there. One array is made after another.

    Args:
      params: parameters of training, LoRA merged.
      config: the model's.
      weights: '' or 'int8', which rounds every row to 127 steps on either side of 0; scales of
        norms and biases stay as they are.

    Raises:
      ValueError: as `decoding_infos`.
    """
    wanted = decoding_infos(config, weights)
    stacked = params["layers"]
    made = {name: _prepare(wanted[name])(params[name]) for name in params if name != "layers"}
    flat, shape = jax.tree.flatten(stacked)
    one = shape.flatten_up_to(wanted["layers"][0])
    by_array = [
        [prepare(x[layer]) for layer in range(config.layers)]
        for x, prepare in zip(flat, map(_prepare, one), strict=True)
    ]
    made["layers"] = tuple(shape.unflatten(arrays) for arrays in zip(*by_array, strict=True))
    return made, decoding_config(config)


def _unstacked(info: ArrayInfo) -> ArrayInfo:
    return dataclasses.replace(info, shape=info.shape[1:], axes=info.axes[1:])


def _prepared_info(config: ModelConfig, info: ArrayInfo, weights: str, name: str = ""):
    """An array's `ArrayInfo`, or the Matrix of two of them."""
    moved, inputs = info.inputs, info.inputs
    if name in ("embedding", "head"):  # the rows of a table are its outputs already
        moved, inputs = 0, 1
    if not inputs:
        return info
    shape, axes = info.shape[moved:] + info.shape[:moved], info.axes[moved:] + info.axes[:moved]
    dtype = jnp.dtype(weights or config.dtype)
    values = dataclasses.replace(info, shape=shape, axes=axes, dtype=dtype, inputs=moved)
    if not weights:
        return Matrix(values, None, inputs)
    scale = dataclasses.replace(
        info, shape=shape[:-inputs], axes=axes[:-inputs], dtype=jnp.dtype("float32"), inputs=0
    )
    return Matrix(values, scale, inputs)


def _prepare(wanted: ArrayInfo | Matrix):
    """The function that makes of an array of training what is wanted of it."""
    if not isinstance(wanted, Matrix):
        return lambda x: x
    moved, values = wanted.values.inputs, wanted.values

    def prepare(x):
        x = x.transpose(*range(moved, x.ndim), *range(moved))
        x = nn.with_logical_constraint(x, values.axes)
        if wanted.scale is None:
            return wanted.replace(values=x.astype(values.dtype))
        integers, scale = quantize(x, tuple(range(-wanted.inputs, 0)))
        scale = nn.with_logical_constraint(scale.reshape(wanted.scale.shape), wanted.scale.axes)
        return wanted.replace(values=integers, scale=scale)

    return jax.jit(prepare)
