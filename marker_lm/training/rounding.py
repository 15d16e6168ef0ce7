"""Stochastic rounding to bfloat16: small steps are not lost, but taken now and then."""

import zlib

import jax
import jax.numpy as jnp
import optax


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """The key of a step's rounding: the same on every mesh and after a restart.

    Its generator makes every number from its index alone, so that each device makes its own.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    """A float32 array as bfloat16, rounded up or down such that the mean is x.

    The chance of each neighbour is how near x is to it; what bfloat16 can hold stays as it is.
    Infinities and NaN stay what they are.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # bfloat16 is the upper half of a float32. Adding noise to the lower half carries into the upper
    # one as often as the lower half is large.
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def apply_updates(params, updates, key: jax.Array):
    """`optax.apply_updates`, with stochastic rounding of the parameters that are bfloat16.

    Args:
      params: arrays of any dtype.
      updates: float32 arrays of the same nesting.
      key: of the step; each parameter's own comes from its path.
    """

    def apply(path, param, update):
        if param.dtype != jnp.bfloat16:
            return optax.apply_updates(param, update)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return stochastic_round(param.astype(jnp.float32) + update, own)

    return jax.tree.map_with_path(apply, params, updates)


def check(params) -> None:
    """Raises ValueError where no parameter is bfloat16."""
    if all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(params)):
        raise ValueError(
            "train.stochastic_rounding rounds parameters that are bfloat16, and none that is "
            "trained is; use model.param_dtype=bfloat16, or leave it off."
        )
