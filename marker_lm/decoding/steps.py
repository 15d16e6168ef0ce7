"""The compiled parts of decoding: reading prompts, putting them into slots, and writing on.

R rows of the cache hold G answers: R is G, or 2 G under guidance, where rows g and G + g read the
same text after markers of their own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.decoding.lengths import Length, Units, hold, longer, no_length
from marker_lm.decoding.sampling import Settings, penalize, sample
from marker_lm.model.cache import KVCache, init_cache, put_rows
from marker_lm.model.config import ModelConfig
from marker_lm.model.transformer import Transformer, head_logits, head_table


class State(NamedTuple):
    """What stays on the devices from one call to the next.

    cache: of R rows.
    logits_RxV: float32, after the last token of each row.
    seen_RxV: bool, which tokens the row's text has; under guidance the first G rows say it.
    length: of the row's text.
    """

    cache: KVCache
    logits_RxV: jax.Array
    seen_RxV: jax.Array
    length: Length


class Feed(NamedTuple):
    """Tokens that rows must read before anything is sampled: parts of their marker blocks.

    ids_RxT: int32.
    count_R: int32, how many of them count.
    asks_R: bool, whether a choice has to be made by the grammar after them.
    """

    ids_RxT: np.ndarray
    count_R: np.ndarray
    asks_R: np.ndarray


class Answers(NamedTuple):
    """The G answers of a call of `write`.

    goes_on_G: bool, whether text is to be sampled once the row has read its tokens.
    drawn_G: int32, tokens of its text so far.
    most_G: int32, how many there may be.
    weight_G: float32, of the guidance.
    settings: of sampling.
    """

    goes_on_G: np.ndarray
    drawn_G: np.ndarray
    most_G: np.ndarray
    weight_G: np.ndarray
    settings: Settings


class Written(NamedTuple):
    """What a call of `write` has sampled.

    ids_GxT: int32, the new tokens of each answer, one that ends it included.
    log_p_GxT: float32, log-probability of each at temperature 1.
    count_G: int32, how many of them count.
    steps: int32, how many tokens were read by the rows that were never idle.
    """

    ids_GxT: jax.Array
    log_p_GxT: jax.Array
    count_G: jax.Array
    steps: jax.Array


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def pad(rows: Sequence[Sequence[int]], width: int, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as int32 [B, width] and which of them are real, bool [B, width]; with empty rows
    where there are less than `count`."""
    rows = [*rows, *[[]] * (count - len(rows))]
    ids_BxL = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        ids_BxL[i, : len(row)] = row
    return ids_BxL, np.arange(width) < np.asarray([len(row) for row in rows])[:, None]


def read_hidden(config: ModelConfig, params, cache: KVCache, tokens_BxL, real_BxL):
    """Reads new tokens into the cache; hidden states [B, L, D] of all of them, and the cache."""
    positions_BxL = cache.length[:, None] + jnp.arange(tokens_BxL.shape[1])
    segments_BxL = real_BxL.astype(jnp.int32)
    return Transformer(config).apply(
        {"params": params}, tokens_BxL, positions_BxL, segments_BxL, cache, return_hidden=True
    )


def extend(config: ModelConfig, params, cache: KVCache, tokens_BxL, real_BxL):
    """Reads new tokens into the cache.

    Returns:
      float32 logits [B, V] after each row's last real token (meaningless where it has none), cache.
    """
    hidden_BxLxD, cache = read_hidden(config, params, cache, tokens_BxL, real_BxL)
    last_B = jnp.maximum(real_BxL.sum(1) - 1, 0)
    hidden_BxD = jnp.take_along_axis(hidden_BxLxD, last_B[:, None, None], axis=1)[:, 0]
    return head_logits(head_table(params, config), config, hidden_BxD), cache


def empty(config: ModelConfig, dtype, rows: int, size: int) -> State:
    """Slots without rows and a cache of `size` tokens a row; `dtype` None is the compute dtype."""
    cache = init_cache(config, rows, size, dtype)
    shape = rows, config.vocab
    return State(cache, jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool), no_length(rows))


def read(config: ModelConfig, dtype, params, tokens_PxL, real_PxL) -> State:
    """Rows with prompts of up to L tokens in a cache of that size."""
    cache = init_cache(config, *tokens_PxL.shape, dtype)
    logits_PxV, cache = extend(config, params, cache, tokens_PxL, real_PxL)
    length = no_length(len(logits_PxV))
    return State(cache, logits_PxV, jnp.zeros(logits_PxV.shape, bool), length)


def put(state: State, rows: State, at_P) -> State:
    """Puts rows into slots; see `put_rows`."""
    old, new = state._replace(cache=None), rows._replace(cache=None)
    held = jax.tree.map(lambda x, y: x.at[at_P].set(y, mode="drop"), old, new)
    return held._replace(cache=put_rows(state.cache, rows.cache, at_P))


def write(
    config: ModelConfig,
    ends: tuple[int, ...],
    size: int,
    params,
    units: Units,
    state: State,
    feed: Feed,
    answers: Answers,
    steps,
    hasty,
) -> tuple[State, Written]:
    """Writes on, a token a row and step, until something has to be done elsewhere.

    That is so after `steps`, when no row has anything left to do, when the grammar has to choose
    for a row, and, if `hasty`, when an answer has ended.

    Args:
      config: of the model.
      ends: ids that end an answer.
      size: ids from here on are reserved for markers and are never sampled.
      params: of the model.
      units: of its vocabulary, by which answers are held to a length.
      state: can't be used afterwards.
      feed, answers: what to do.
      steps: int32, at most T of `feed`.
      hasty: bool.
    """
    G, (R, T) = answers.drawn_G.shape[0], feed.ids_RxT.shape
    text_V = jnp.arange(config.vocab) < size

    def guided(logits_RxV):
        if R == G:
            return logits_RxV
        c_GxV, u_GxV = logits_RxV[:G], logits_RxV[G:]
        return u_GxV + answers.weight_G[:, None] * (c_GxV - u_GxV)

    def rows(x_G):
        return jnp.tile(x_G, R // G)

    def going_on(carry):
        t, drawn_G, done_G, _, _ = carry
        busy = jnp.any(t < feed.count_R) | jnp.any(~done_G)
        asked = jnp.any(feed.asks_R & (t >= feed.count_R))
        ended = hasty & jnp.any(done_G & answers.goes_on_G)
        return (t < steps) & busy & ~asked & ~ended

    def step(carry):
        t, drawn_G, done_G, written, state = carry
        feeding_R = t < feed.count_R
        ready_G = ~done_G & ~feeding_R.reshape(R // G, G).any(0)
        logits_GxV = guided(state.logits_RxV)
        allowed_GxV = jnp.where(text_V, logits_GxV, -jnp.inf)
        allowed_GxV = hold(allowed_GxV, ends, state.length.count_B[:G], answers.settings.length_B)
        allowed_GxV = penalize(allowed_GxV, state.seen_RxV[:G], answers.settings.penalty_B)
        token_G = sample(allowed_GxV, drawn_G, answers.settings)
        chosen_G = jnp.take_along_axis(logits_GxV, token_G[:, None], axis=1)[:, 0]
        log_p_G = chosen_G - jax.nn.logsumexp(logits_GxV, axis=1)
        place_G = jnp.where(ready_G, drawn_G - answers.drawn_G, T)  # T is past the end: dropped
        written = Written(
            written.ids_GxT.at[jnp.arange(G), place_G].set(token_G, mode="drop"),
            written.log_p_GxT.at[jnp.arange(G), place_G].set(log_p_G, mode="drop"),
            written.count_G + ready_G,
            t + 1,
        )
        new_G = jnp.where(ready_G, token_G, config.vocab)
        seen_RxV = state.seen_RxV.at[jnp.arange(G), new_G].set(True, mode="drop")
        grown, ready_R = longer(state.length, units, rows(token_G)), rows(ready_G)
        length = jax.tree.map(lambda new, old: jnp.where(ready_R, new, old), grown, state.length)
        drawn_G = drawn_G + ready_G
        ended_G = jnp.isin(token_G, jnp.asarray(ends)) | (drawn_G >= answers.most_G)
        done_G = done_G | (ready_G & ended_G)
        token_R = jnp.where(feeding_R, feed.ids_RxT[:, t], rows(token_G))
        real_R = feeding_R | rows(ready_G & ~ended_G)
        logits_RxV, cache = extend(config, params, state.cache, token_R[:, None], real_R[:, None])
        logits_RxV = jnp.where(real_R[:, None], logits_RxV, state.logits_RxV)
        return t + 1, drawn_G, done_G, written, State(cache, logits_RxV, seen_RxV, length)

    written = Written(
        jnp.zeros((G, T), jnp.int32), jnp.zeros((G, T)), jnp.zeros(G, jnp.int32), jnp.int32(0)
    )
    start = (jnp.int32(0), answers.drawn_G, ~answers.goes_on_G, written, state)
    *_, written, state = jax.lax.while_loop(going_on, step, start)
    return state, written


def pick(logits_RxV, ids_RxA):
    """Logits of some tokens of each row, [R, A]: all that the grammar needs of them."""
    return jnp.take_along_axis(logits_RxV, ids_RxA, axis=1)
