"""From logits to the next token."""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How text is sampled. Markers have a temperature of their own: 0 takes the likeliest list.

    Attributes:
      temperature: 0 is greedy.
      top_k: keep this many of the likeliest tokens; 0 keeps all.
      top_p: keep the smallest set of likeliest tokens that holds this probability; 1 keeps all.
      marker_temperature: of the marker block.
      max_tokens: of the answer, marker block not counted.
      seed: of every random choice; a row's choices depend on it and on the row's number alone.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    marker_temperature: float = 0.0
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self):
        for name in ("temperature", "marker_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be over 0 and at most 1.")
        for name, least in (("top_k", 0), ("max_tokens", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more.")


def sample(logits_BxV, keys_B, sampling: Sampling):
    """The next token of each row, int32 [B].

    Args:
      logits_BxV: float32.
      keys_B: one random key a row, so that a row's tokens don't depend on its neighbours.
      sampling: static.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    # The likeliest token is moved to 0 first: a tiny temperature must not make all logits infinite.
    logits = logits_BxV - jnp.max(logits_BxV, axis=-1, keepdims=True)
    logits = filter_logits(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits).astype(jnp.int32)


def filter_logits(logits_BxV, top_k: int, top_p: float):
    """Logits with -inf outside the top k and outside the nucleus (Holtzman et al. 2020)."""
    if top_k:
        kth_B = jax.lax.top_k(logits_BxV, min(top_k, logits_BxV.shape[-1]))[0][:, -1:]
        logits_BxV = jnp.where(logits_BxV < kth_B, -jnp.inf, logits_BxV)
    if top_p < 1:
        sorted_BxV = -jnp.sort(-logits_BxV, axis=-1)
        p_BxV = jax.nn.softmax(sorted_BxV, axis=-1)
        # A token stays when the likelier ones together hold less than top_p.
        kept_BxV = jnp.cumsum(p_BxV, axis=-1) - p_BxV < top_p
        least_B = jnp.min(jnp.where(kept_BxV, sorted_BxV, jnp.inf), axis=-1, keepdims=True)
        logits_BxV = jnp.where(logits_BxV < least_B, -jnp.inf, logits_BxV)
    return logits_BxV
