"""Holds an answer to a length: its end is kept off before, and made likelier from there on.

Models count badly, small ones hardly at all, while a program can count as they write. The answer
still ends where the model itself might end it: nothing is cut off.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.decoding.text import BROKEN

LEAST = 0.8  # of a length: before that, an answer does not end
PULL = 6.0  # nats by which its end is likelier once it has its length; from 0 at LEAST, and so on

LETTER = "a"


class Units(NamedTuple):
    """What each token adds to the length of a text, in some unit such as words.

    count_V: int32, units in the token's own text.
    joins_V: bool, whether the first of them goes on with one that is open before it.
    opens_V: bool, whether the last of them may go on in the next token.
    keeps_V: bool, whether one that is open before the token is so behind it, too.
    """

    count_V: np.ndarray
    joins_V: np.ndarray
    opens_V: np.ndarray
    keeps_V: np.ndarray


def no_units(vocab: int) -> Units:
    """Those of a vocabulary whose tokens are not measured."""
    return Units(np.zeros(vocab, np.int32), *np.zeros((3, vocab), bool))


def token_units(tokenizer: Tokenizer, count: Callable[[str], int], vocab: int) -> Units:
    """The Units of a vocabulary of `vocab` ids; those that the tokenizer lacks add nothing.

    A token is looked at between letters, so words between spaces are counted exactly, and those of
    UAX 29 nearly. Bytes that are no whole character count as letters of a word, which is too little
    for scripts without spaces.

    Args:
      tokenizer: of the model.
      count: the length of a text.
      vocab: V, at least the tokenizer's size.
    """
    texts = [tokenizer.decode([id]).replace(BROKEN, LETTER) for id in range(tokenizer.size)]
    own, before, behind, around = (
        np.asarray([count(a + text + b) for text in texts], np.int32)
        for a, b in (("", ""), (LETTER, ""), ("", LETTER), (LETTER, LETTER))
    )
    joins, opens, keeps = before == own, behind == own, around == 1
    units = own, joins & (own > 0), opens & (own > 0), keeps & (own == 0)
    return Units(*(np.pad(x, (0, vocab - tokenizer.size)) for x in units))


class Length(NamedTuple):
    """The length of B texts so far.

    count_B: int32, units.
    open_B: bool, whether the last one may go on.
    """

    count_B: jax.Array
    open_B: jax.Array


def no_length(rows: int) -> Length:
    """That of empty texts."""
    return Length(jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool))


def longer(length: Length, units: Units, token_B: jax.Array) -> Length:
    """The lengths with one more token each, int32 [B]."""
    joined_B = length.open_B & units.joins_V[token_B]
    open_B = units.opens_V[token_B] | length.open_B & units.keeps_V[token_B]
    return Length(length.count_B + units.count_V[token_B] - joined_B, open_B)


def hold(
    logits_BxV: jax.Array, ends: Sequence[int], count_B: jax.Array, asked_B: jax.Array
) -> jax.Array:
    """Logits under which a text has about the length that is asked for.

    With s the length so far as a share of that: ends are impossible for s < LEAST, and their logits
    are raised by PULL (s - LEAST) / (1 - LEAST) from there on.

    Args:
      logits_BxV: float32.
      ends: ids that end a text.
      count_B: int32, its length so far.
      asked_B: int32, 0 where none is asked for.
    """
    share_B = count_B / jnp.maximum(asked_B, 1)
    pull_B = jnp.where(share_B < LEAST, -jnp.inf, PULL * (share_B - LEAST) / (1 - LEAST))
    pull_Bx1 = jnp.where(asked_B > 0, pull_B, 0.0)[:, None]
    is_end_V = jnp.isin(jnp.arange(logits_BxV.shape[1]), jnp.asarray(ends))
    return jnp.where(is_end_V, logits_BxV + pull_Bx1, logits_BxV)
