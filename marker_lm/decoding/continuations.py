"""Log-likelihoods of several continuations of one head: the head is read once, into a cache."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.decoding.sampling import likeliest
from marker_lm.decoding.shapes import bucket, rows_for
from marker_lm.decoding.steps import extend, pad, read_hidden
from marker_lm.model.cache import init_cache
from marker_lm.model.config import ModelConfig
from marker_lm.model.transformer import head_logits, head_table
from marker_lm.sharding.rules import use_mesh

Ids = Sequence[int]


class Continuations:
    """Scores tails after heads.

    Args:
      params, config, mesh: the model.
      rows: most heads that are read together, and most tails after them.
      size: ids from here on are reserved for markers, and are never written as text.
    """

    def __init__(self, params, config: ModelConfig, mesh, rows: int, size: int):
        self.params, self.config, self.mesh, self.rows = params, config, mesh, rows
        self._read = jax.jit(functools.partial(_read, config), static_argnums=3)
        self._go_on = jax.jit(functools.partial(_go_on, config, size))
        self._likeliest = jax.jit(functools.partial(_likeliest, size))

    def token_nats(
        self, heads: Sequence[Ids], tails: Sequence[Sequence[Ids]]
    ) -> list[list[np.ndarray]]:
        """Negative log-likelihood of each token of each tail.

        Args:
          heads: ids, at least one each.
          tails: of each head; at least one id each. The last one is only predicted, never read.

        Returns:
          float32 [n] for each tail of n ids.
        """
        return [[nats for nats, _ in own] for own in self.follow(heads, tails)]

    def follow(
        self, heads: Sequence[Ids], tails: Sequence[Sequence[Ids]]
    ) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """As `token_nats`, with bool [n]: whether the token is the likeliest of text there."""
        out: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in heads]
        order = sorted(range(len(heads)), key=lambda i: len(heads[i]))
        for start in range(0, len(order), self.rows):
            chosen = order[start : start + self.rows]
            pairs = [(b, tail) for b, i in enumerate(chosen) for tail in tails[i]]
            found = self._together([heads[i] for i in chosen], pairs)
            for (b, _), one in zip(pairs, found, strict=True):
                out[chosen[b]].append(one)
        return out

    def _together(
        self, heads: list[Ids], pairs: list[tuple[int, Ids]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`follow` of tails, each given with the number of its head."""
        B = rows_for(len(heads), self.rows, self.mesh)
        longest = max(len(tail) for _, tail in pairs)
        T = bucket(longest - 1, 8) if longest > 1 else 0
        with use_mesh(self.mesh):
            read = pad(heads, bucket(max(map(len, heads))), B)
            log_p_BxV, cache = self._read(self.params, *read, T)
            for start in range(0, len(pairs), B):
                chosen = pairs[start : start + B]
                filled = chosen + chosen[:1] * (B - len(chosen))
                head_B = np.asarray([head for head, _ in filled])
                first_B = np.asarray([tail[0] for _, tail in filled])
                found = [x[:, None] for x in self._likeliest(log_p_BxV[head_B], first_B)]
                if T:
                    tokens_BxT, real_BxT = pad([tail[:-1] for _, tail in filled], T)
                    targets_BxT, _ = pad([tail[1:] for _, tail in filled], T)
                    rest = self._go_on(
                        self.params, cache, head_B, tokens_BxT, targets_BxT, real_BxT
                    )
                    found = [
                        jnp.concatenate(both, axis=1) for both in zip(found, rest, strict=True)
                    ]
                nats_BxT, likeliest_BxT = map(np.asarray, found)
                for row, (_, tail) in enumerate(chosen):
                    yield nats_BxT[row, : len(tail)], likeliest_BxT[row, : len(tail)]


def _read(config: ModelConfig, params, tokens_BxL, real_BxL, room: int):
    """Reads heads.

    Returns:
      float32 log-probabilities [B, V] of what comes after each, and a cache with room for more.
    """
    B, L = tokens_BxL.shape
    logits_BxV, cache = extend(
        config, params, init_cache(config, B, L + room), tokens_BxL, real_BxL
    )
    return jax.nn.log_softmax(logits_BxV), cache


def _go_on(config: ModelConfig, size, params, cache, head_B, tokens_BxT, targets_BxT, real_BxT):
    """`_likeliest` [B, T] of the targets after the head of each row and its tokens up to there."""
    hidden_BxTxD, _ = read_hidden(config, params, cache.take(head_B), tokens_BxT, real_BxT)
    table = head_table(params, config)

    def step(both):  # one position at a time, so that all logits never exist at once
        hidden_BxD, target_B = both
        return _likeliest(size, head_logits(table, config, hidden_BxD), target_B)

    found = jax.lax.map(step, (hidden_BxTxD.swapaxes(0, 1), targets_BxT.T))
    return [x_TxB.T for x_TxB in found]


def _likeliest(size: int, logits_BxV, target_B):
    """Nats of the targets, float32 [B], and whether each is the likeliest id below `size`."""
    log_p_BxV = jax.nn.log_softmax(logits_BxV)
    nats_B = -jnp.take_along_axis(log_p_BxV, target_B[:, None], axis=1)[:, 0]
    text_V = jnp.arange(logits_BxV.shape[-1]) < size
    return nats_B, likeliest(jnp.where(text_V, logits_BxV, -jnp.inf)) == target_B
