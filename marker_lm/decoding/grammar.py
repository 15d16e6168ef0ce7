"""The grammar of the completion-side marker block, walked one token at a time.

The block is `open (prefix value suffix)* close` with categories in the layout's order. At each point a
row may go on with any category that is free, up to and including the first one that must be written; a
pinned category has one value, an asked one any. Whatever is sampled under `allowed` parses.
"""

import math
from collections.abc import Sequence

import numpy as np

from marker_lm.data.assembly import Layout
from marker_lm.decoding.controls import Controls

MAX_DIGITS = 9


class Grammar:
    """What all rows share: the categories in order and the codec. See `Block`."""

    def __init__(self, taxonomy, codec, layout: Layout):
        self.taxonomy, self.codec = taxonomy, codec
        self.order = layout.completion_side
        self.open, self.close = tuple(codec.open), tuple(codec.close)
        self.values = {
            c: {v: tuple(codec.value(c, v)) + tuple(codec.suffix(c)) for v in category.values}
            for c, category in taxonomy.categories.items()
            if c in self.order and category.is_closed
        }


class Block:
    """The marker block of one row while it is being written.

    `allowed()` gives the token ids that may come next, `push(token, log_probability)` takes one. Once
    `done`, `markers` holds what was written and `log_probability` maps each category to that of its
    value under the grammar (0 where the value was forced).
    """

    def __init__(self, grammar: Grammar, controls: Controls):
        self.grammar, self.controls = grammar, controls
        self.done = False
        self.tokens: list[int] = []
        self.markers: dict = {}
        self.log_probability: dict[str, float] = {}
        self._next = 0  # the first category of the order that may still come
        self._category = None  # the one whose value is being written
        self._number = ""
        # What may be read now: each outcome and the tokens of it that are still to come.
        self._paths: dict = {("open", None): grammar.open}

    def allowed(self) -> list[int]:
        """Ids that may come next, sorted; one id means that it is forced."""
        heads = {path[0] for path in self._paths.values()}
        if self._number_open():
            heads |= self._digits()
        return sorted(heads)

    def push(self, token: int, log_probability: float = 0.0) -> None:
        """Takes `token`, one of `allowed()`, with its log-probability among them."""
        self.tokens.append(token)
        if self._category is not None:
            self.log_probability[self._category] += log_probability
        if self._number_open() and token in self._digits():
            self._number += self._characters()[token]
            self._paths = self._after_digit()
            return
        paths = {k: path[1:] for k, path in self._paths.items() if path[0] == token}
        if not paths:
            raise ValueError(f"token {token} is not among the allowed {self.allowed()}.")
        finished = [k for k, path in paths.items() if not path]
        self._paths = paths
        if finished:
            self._finish(*finished[0])

    def forced(self) -> list[int]:
        """Pushes tokens as long as there is no choice; returns them."""
        start = len(self.tokens)
        while not self.done and len(allowed := self.allowed()) == 1:
            self.push(allowed[0])
        return self.tokens[start:]

    def _finish(self, what: str, value) -> None:
        """A path was read to its end."""
        if self._number and what != "suffix":  # a number without a suffix ends at what follows it
            self._close_number()
        if what == "open":
            self._paths = self._choices()
        elif what == "close":
            self.done = True
        elif what == "category":
            self._begin_value(value)
        elif what == "suffix":
            self._close_number()
            self._paths = self._choices()
        else:
            self.markers[self._category] = value
            self._category = None
            self._paths = self._choices()

    def _begin_value(self, category: str) -> None:
        grammar = self.grammar
        self._category, self._next = category, grammar.order.index(category) + 1
        self.log_probability[category] = 0.0
        pinned = self.controls.pinned.get(category)
        if category in grammar.values:
            values = grammar.values[category]
            chosen = values if pinned is None else {pinned: values[pinned]}
            self._paths = {("value", v): path for v, path in chosen.items()}
        elif pinned is not None:
            path = (*grammar.codec.value(category, pinned), *grammar.codec.suffix(category))
            self._paths = {("value", pinned): path}
        else:
            self._number = ""
            self._paths = {}

    def _choices(self) -> dict:
        """Prefixes of the categories that may come next, and the end where nothing is owed."""
        paths = {}
        for category in self.grammar.order[self._next :]:
            if category in self.controls.banned:
                continue
            paths[("category", category)] = tuple(self.grammar.codec.prefix(category))
            if category in self.controls.pinned or category in self.controls.asked:
                return paths
        return paths | {("close", None): self.grammar.close}

    def _number_open(self) -> bool:
        """Whether a free number is being written and may take another character."""
        category = self._category
        return (
            category is not None
            and category not in self.grammar.values
            and category not in self.controls.pinned
            and not any(
                k[0] == "suffix" and len(p) < len(self.grammar.codec.suffix(category))
                for k, p in self._paths.items()
            )
        )

    def _characters(self) -> dict[int, str]:
        return {i: c for c, i in self.grammar.codec.number_ids.items()}

    def _digits(self) -> set[int]:
        """Characters that keep the number one that parses back to itself."""
        ids, text = self.grammar.codec.number_ids, self._number
        integer = self.grammar.taxonomy.categories[self._category].type == "integer"
        digits = {ids[c] for c in "0123456789"}
        if len(text) >= MAX_DIGITS:
            return set() if text[-1].isdigit() else digits
        if text in ("0", "-0"):
            digits = set()  # no leading zeros
        if not text:
            return digits | {ids["-"]}
        if text == "-" and integer:
            return digits - {ids["0"]}
        if not integer and "." not in text and text[-1].isdigit():
            digits = digits | {ids["."]}
        return digits

    def _after_digit(self) -> dict:
        """What may follow the number as it stands; nothing while it ends in '-' or '.'."""
        if not self._number[-1].isdigit():
            return {}
        suffix = tuple(self.grammar.codec.suffix(self._category))
        return {("suffix", None): suffix} if suffix else self._choices()

    def _close_number(self) -> None:
        self.markers[self._category] = self.grammar.taxonomy.check(self._category, self._number)
        self._category, self._number = None, ""


def choose(
    logits_V: np.ndarray, block: Block, temperature: float, rng: np.random.Generator
) -> tuple[int, float]:
    """Picks one allowed token; greedy at temperature 0.

    Returns:
      The id and its log-probability among the allowed ones, at temperature 1.
    """
    allowed = block.allowed()
    logits = np.asarray(logits_V, np.float64)[allowed]
    log_p = logits - np.logaddexp.reduce(logits)
    if temperature == 0:
        pick = int(np.argmax(log_p))
    else:
        p = np.exp((log_p - log_p.max()) / temperature)
        pick = int(rng.choice(len(allowed), p=p / p.sum()))
    return allowed[pick], float(log_p[pick])


def probabilities(block: Block) -> dict[str, float]:
    """Probability of each written marker's value under the grammar, 1 where it was pinned."""
    return {
        c: 1.0 if c in block.controls.pinned else math.exp(block.log_probability[c])
        for c in block.markers
    }


def forced_prefix(blocks: Sequence[Block]) -> list[list[int]]:
    """The tokens with which each row's block is bound to begin: they belong into the prefill."""
    return [block.forced() for block in blocks]
