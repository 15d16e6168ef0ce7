"""From logits to the next token, under the settings of each row."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the text of a row is sampled. Markers have a temperature of their own: 0 takes the
    likeliest list.

    Attributes:
      temperature: 0 is greedy.
      top_k: keep this many of the likeliest tokens; 0 keeps all.
      top_p: keep the smallest set of likeliest tokens that holds this probability; 1 keeps all.
      repetition_penalty: makes tokens less likely that the answer has already, see `penalize`; 1 is
        none. The prompt does not count: what it says may be said again.
      length: holds the answer to so many units of what its Engine measures, see `lengths.hold`; 0
        does not.
      marker_temperature: of the marker block.
      max_tokens: of the answer, marker block not counted.
      seed: of every random choice of the row, which depends on nothing else of the job.
      stop: texts that end an answer where they begin; they are not in it.
      stop_ids: tokens that do so, besides the model's own end.

    Raises:
      ValueError: a value that can't be; the message names it and the mend.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    length: int = 0
    marker_temperature: float = 0.0
    max_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self):
        for name in ("temperature", "marker_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be over 0 and at most 1.")
        if not 1 <= self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be 1 (none) or more."
            )
        for name, least in (("top_k", 0), ("length", 0), ("max_tokens", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more.")
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise ValueError(f"stop is {self.stop!r}; give a list of texts that are not empty.")
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))

    @classmethod
    def from_config(cls, section: Mapping[str, Any], **given) -> "Sampling":
        """As a config's section `decode` says, but for what is given."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: section[name] for name in names if name in section} | given)


def row_seed(seed: int, number: int) -> int:
    """The seed of a row where one seed is given for many, by the row's number; 64 bits."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def one_a_row(sampling: Sampling, count: int) -> list[Sampling]:
    """The Sampling of each of `count` rows where one is given for all: seeds of their own."""
    seeds = (row_seed(sampling.seed, number) for number in range(count))
    return [dataclasses.replace(sampling, seed=seed) for seed in seeds]


def key_words(seed: int) -> np.ndarray:
    """The words of a random key for any seed, uint32 [2]."""
    return np.random.SeedSequence(seed).generate_state(2, np.uint32)


class Settings(NamedTuple):
    """The `Sampling` of B rows as arrays.

    key_Bx2: uint32, `key_words`.
    temperature_B, top_p_B, penalty_B: float32.
    top_k_B, length_B: int32.
    """

    key_Bx2: jax.Array
    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    penalty_B: jax.Array
    length_B: jax.Array


def sample(logits_BxV: jax.Array, number_B: jax.Array, settings: Settings) -> jax.Array:
    """The next token of each row, int32 [B].

    Only what some row asks for is computed: greedy rows need no random numbers, and the vocabulary
    is sorted for top_k and top_p alone.

    Args:
      logits_BxV: float32.
      number_B: int32, how many tokens were sampled of the row before: with its key that is all that
        its random numbers depend on.
      settings: of the rows.
    """
    greedy_B = likeliest(logits_BxV)
    temperature_B, top_k_B, top_p_B = settings[1:4]

    def drawn():
        keys_B = jax.random.wrap_key_data(settings.key_Bx2, impl="threefry2x32")
        keys_B = jax.vmap(jax.random.fold_in)(keys_B, number_B)
        # The likeliest is moved to 0 first: a tiny temperature must not make all logits infinite.
        logits = logits_BxV - jnp.max(logits_BxV, axis=-1, keepdims=True)
        logits /= jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None]
        logits = jax.lax.cond(
            jnp.any((top_k_B > 0) | (top_p_B < 1)),
            lambda: filter_logits(logits, top_k_B, top_p_B),
            lambda: logits,
        )
        token_B = jax.vmap(jax.random.categorical)(keys_B, logits).astype(jnp.int32)
        return jnp.where(temperature_B > 0, token_B, greedy_B)

    return jax.lax.cond(jnp.any(temperature_B > 0), drawn, lambda: greedy_B)


def penalize(logits_BxV: jax.Array, seen_BxV: jax.Array, penalty_B: jax.Array) -> jax.Array:
    """Logits where those of tokens that were seen are divided by the penalty if they are above 0,
    else multiplied by it (Keskar et al. 2019, section 4.1, as it is commonly implemented)."""
    penalty_Bx1 = penalty_B[:, None]
    lower_BxV = jnp.where(logits_BxV > 0, logits_BxV / penalty_Bx1, logits_BxV * penalty_Bx1)
    return jnp.where(seen_BxV, lower_BxV, logits_BxV)


def likeliest(logits_BxV: jax.Array) -> jax.Array:
    """The first of the largest logits of each row, or its first NaN, int32 [B].

    It is argmax in two passes: XLA's own takes four times as long on CPUs.
    """
    V = logits_BxV.shape[-1]
    most_Bx1 = jnp.max(logits_BxV, axis=-1, keepdims=True)
    found_BxV = (logits_BxV == most_Bx1) | jnp.isnan(logits_BxV)
    return jnp.min(jnp.where(found_BxV, jnp.arange(V, dtype=jnp.int32), V), axis=-1)


def filter_logits(logits_BxV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Logits with -inf outside the top k and outside the nucleus (Holtzman et al. 2020)."""
    sorted_BxV = -jnp.sort(-logits_BxV, axis=-1)
    V = logits_BxV.shape[-1]
    last_B = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, V), V) - 1
    kth_B = jnp.take_along_axis(sorted_BxV, last_B[:, None], axis=-1)
    sorted_BxV = jnp.where(sorted_BxV < kth_B, -jnp.inf, sorted_BxV)
    p_BxV = jax.nn.softmax(sorted_BxV, axis=-1)
    # A token stays when the likelier ones together hold less than top_p.
    kept_BxV = jnp.cumsum(p_BxV, axis=-1) - p_BxV < top_p_B[:, None]
    kept_BxV |= top_p_B[:, None] == 1
    least_B = jnp.min(jnp.where(kept_BxV, sorted_BxV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_BxV < jnp.maximum(least_B, kth_B), -jnp.inf, logits_BxV)
