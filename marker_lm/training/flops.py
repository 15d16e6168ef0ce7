"""Model FLOPs of a step: what the arithmetic of its tokens needs, whatever the devices do.

Counted are the matrix products of tokens that are not padding, a multiplication and an addition
each, and of attention only the pairs that are seen: causal, within a segment and its layer's
window. Backward twice the forward pass, without the gradients of matrices that are not trained.
What is computed again (remat) does not count. This over peak is the useful-token MFU.
"""

import math
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from marker_lm.data.assembly import Kind
from marker_lm.model.config import ModelConfig
from marker_lm.model.lora import is_factor
from marker_lm.model.params import abstract_params


def token_flops(config: ModelConfig, trained: frozenset[str]) -> float:
    """FLOPs of one token's products with matrices, forward and backward; attention is apart.

    Args:
      config: of the model.
      trained: paths of the trained parameters.
    """
    flops = 0.0
    for path, info in flatten_dict(abstract_params(config), sep="/").items():
        head = path == ("embedding" if config.tied_head else "head")
        if info.inputs or is_factor(path) or head:
            flops += math.prod(info.shape) * (6 if path in trained else 4)
    return flops


def make_step_flops(config: ModelConfig, trained: frozenset[str]) -> Callable:
    """Returns jitted (kinds_BxL, positions_BxL) of a batch -> its model FLOPs, a float32 scalar."""
    per_token = token_flops(config, trained)
    # Products of a query with a key and of a weight with a value, and twice that backward.
    per_pair = 12 * config.heads * config.head_size
    windows = Counter(config.layer_windows)

    @jax.jit
    def step_flops(kinds_BxL: jax.Array, positions_BxL: jax.Array) -> jax.Array:
        used_BxL = kinds_BxL != Kind.PADDING
        seen_BxL = jnp.where(used_BxL, positions_BxL + 1, 0).astype(jnp.float32)
        pairs = sum(
            layers * jnp.sum(jnp.minimum(seen_BxL, window) if window else seen_BxL)
            for window, layers in windows.items()
        )
        return per_token * jnp.sum(used_BxL, dtype=jnp.float32) + per_pair * pairs

    return step_flops
