"""The grammar of the completion-side marker block, walked one token at a time.

The block is `open (prefix value suffix)* close` with categories in the layout's order. At each
point a row may go on with any category that is free, up to and including the first one that must be
written; a pinned category has one value, an asked one any. Of a category that allows several values
one or more are written, each at most once, in the order of the taxonomy; pinned ones come without
any other. Whatever is sampled under `allowed` parses, and is what the codec writes for the same
markers.
"""

import itertools
import math
from collections.abc import Generator, Iterable, Mapping

import numpy as np

from marker_lm.data.assembly import Layout
from marker_lm.decoding.controls import Controls

# Most digits before and after the point of a number that the model writes. The shortest text of a
# float64 with 15 digits is those digits, so what is written reads back as itself.
MAX_WHOLE, MAX_FRACTION = 9, 6

# A part of the grammar: yields the ids that may come next, is sent the id that came and the
# log-probability of each id that might have.
Walk = Generator[set[int], tuple[int, Mapping[int, float]], tuple]
Ids = tuple[int, ...]


class Grammar:
    """What all rows share: the categories in order and the codec. See `Block`.

    Attributes:
      order: categories of the completion side.
      open, close: ids around the block.
      values: closed category -> value -> ids of the value and what ends it.
      several: the categories that allow several values.
    """

    def __init__(self, taxonomy, codec, layout: Layout):
        self.taxonomy, self.codec = taxonomy, codec
        self.order = layout.completion_side
        self.open, self.close = tuple(codec.open), tuple(codec.close)
        self.values = {
            c: {v: self.ids(c, v) for v in category.values}
            for c, category in taxonomy.categories.items()
            if c in self.order and category.is_closed
        }
        self.several = frozenset(c for c in self.values if taxonomy.categories[c].several)

    def ids(self, category: str, value) -> Ids:
        """Ids of a value, or of several, and the suffix."""
        return (*self.codec.value(category, value), *self.codec.suffix(category))

    def room(self, pinned: Mapping) -> int:
        """The most tokens that a block with these pinned markers takes."""
        room = len(self.open) + len(self.close)
        for category in self.order:
            number = len("-.") + MAX_WHOLE + MAX_FRACTION + len(self.codec.suffix(category))
            longest = max(map(len, self.values.get(category, {}).values()), default=number)
            if category in self.several:
                longest = len(self.ids(category, tuple(self.values[category])))
            value = self.ids(category, pinned[category]) if category in pinned else ()
            room += len(self.codec.prefix(category)) + max(longest, len(value))
        return room


class Block:
    """The marker block of one row while it is being written.

    `allowed()` gives the token ids that may come next, `push` takes one.

    Attributes:
      tokens: ids so far.
      markers: what was written so far, in order.
      log_probability: category -> log-probability of its value under the grammar, given that the
        category is written; 0 where it was pinned. Of several values it is that of the whole set:
        of each value after those before it, and of no further one after the last. In text it is a
        lower bound where what may follow parts from this category's tag at different ids: the part
        of the end's probability that lies behind the ids that were not taken is not known.
    """

    def __init__(self, grammar: Grammar, controls: Controls):
        self.grammar, self.controls = grammar, controls
        self.tokens: list[int] = []
        self.markers: dict = {}
        self.log_probability: dict[str, float] = {}
        self._walk = self._write()
        self._allowed = next(self._walk)

    @property
    def done(self) -> bool:
        """Whether the block has ended."""
        return not self._allowed

    def allowed(self) -> list[int]:
        """Ids that may come next, sorted; one id means that it is forced."""
        return sorted(self._allowed)

    def push(self, token: int, log_p: Mapping[int, float]) -> None:
        """Takes `token`, with the log-probability of every id that is allowed."""
        if token not in self._allowed:
            raise ValueError(f"token {token} is not among the allowed {self.allowed()}.")
        self.tokens.append(token)
        self._allowed = self._walk.send((token, log_p))

    def forced(self) -> list[int]:
        """Pushes tokens as long as there is no choice; returns them."""
        start = len(self.tokens)
        while len(self._allowed) == 1:
            (token,) = self._allowed
            self.push(token, {token: 0.0})
        return self.tokens[start:]

    def _write(self) -> Walk:
        """The whole block."""
        grammar = self.grammar
        yield from _one_of({"open": grammar.open})
        after, came = 0, ()
        while True:
            category, _ = yield from _one_of(self._choices(after), came)
            if category is None:
                break
            after, came = grammar.order.index(category) + 1, ()
            if category in self.controls.pinned:
                value = self.controls.pinned[category]
                value, log_p = yield from _one_of({value: grammar.ids(category, value)})
            elif category in grammar.several:
                value, log_p, came = yield from self._several(category, after)
            elif category in grammar.values:
                value, log_p = yield from _one_of(grammar.values[category])
            else:
                value, log_p, came = yield from self._number(category, after)
            self.markers[category], self.log_probability[category] = value, log_p
        yield set()  # nothing may follow

    def _choices(self, after: int) -> dict[str | None, Ids]:
        """Prefixes of the categories that may come next, and the end (None) if nothing is owed."""
        paths: dict = {}
        for category in self.grammar.order[after:]:
            if category in self.controls.banned:
                continue
            paths[category] = tuple(self.grammar.codec.prefix(category))
            if category in self.controls.pinned or category in self.controls.asked:
                return paths
        return paths | {None: self.grammar.close}

    def _several(self, category: str, after: int) -> Walk:
        """One or more values of free choice.

        Returns:
          Values, log-probability, and the ids after them that were read to see that they end.
        """
        again = tuple(self.grammar.codec.again(category))
        ends = self._choices(after).values()
        left: Mapping[str, Ids] = self.grammar.values[category]
        order, values, came, total = list(left), (), (), 0.0
        while True:
            value, log_p = yield from _one_of(left, came)
            values, total = (*values, value), total + log_p
            later = order[order.index(value) + 1 :]
            left = {v: again + self.grammar.values[category][v] for v in later}
            goes_on, log_p, came = yield from _either(left.values(), ends)
            total += log_p
            if not goes_on:
                return values, total, came

    def _number(self, category: str, after: int) -> Walk:
        """A number of free choice.

        Returns:
          Value, log-probability, and the id after the number where that is not its suffix: without
          a suffix (compact) a number ends as the next marker or the end of the block begins.
        """
        codec, taxonomy = self.grammar.codec, self.grammar.taxonomy
        integer = taxonomy.categories[category].type == "integer"
        suffix = tuple(codec.suffix(category))
        ends = {path[0] for path in ([suffix] if suffix else self._choices(after).values())}
        text, total = "", 0.0
        while True:
            characters, complete = number_steps(text, integer)
            digits = {codec.number_ids[c]: c for c in characters}
            token, log_p = yield set(digits) | (ends if complete else set())
            if token in ends:
                break
            text += digits[token]
            total += log_p[token]
        total += float(np.logaddexp.reduce([log_p[end] for end in ends]))
        if suffix:
            yield from _one_of({"suffix": suffix}, (token,))
        return taxonomy.check(category, text), total, () if suffix else (token,)


def _one_of(paths: Mapping, came: Ids = ()) -> Walk:
    """Reads one of several sequences of ids, none of which begins another.

    Args:
      paths: outcome -> ids.
      came: the first ids, where they have come already.

    Returns:
      The outcome and its log-probability.
    """
    total = 0.0
    for at in itertools.count():
        if at < len(came):
            token = came[at]
        else:
            token, log_p = yield {path[at] for path in paths.values()}
            total += log_p[token]
        paths = {outcome: path for outcome, path in paths.items() if path[at] == token}
        outcome, path = next(iter(paths.items()))
        if len(path) == at + 1:
            return outcome, total


def _either(more: Iterable[Ids], ends: Iterable[Ids]) -> Walk:
    """Reads ids up to the one that tells whether a sequence of `more` or one of `ends` has begun.

    Returns:
      Whether it is one of `more`; the log-probability of that, where all ids that lead away from
      `more` at the last step count as one; and the ids read.
    """
    more, ends, came, total = list(more), list(ends), (), 0.0
    while more and ends:
        on, off = ({path[len(came)] for path in paths} for paths in (more, ends))
        token, log_p = yield on | off
        same = [token] if token in on else list(off - on)
        total += float(np.logaddexp.reduce([log_p[id] for id in same]))
        came += (token,)
        more, ends = ([p for p in paths if p[: len(came)] == came] for paths in (more, ends))
    return bool(more), total, came


def number_steps(text: str, integer: bool) -> tuple[str, bool]:
    """How a number goes on so that it is written as `markers.template.number_text` writes it.

    Args:
      text: its characters so far.
      integer: else a number with a point: '2.0', '-0.5'.

    Returns:
      The characters that may come next, and whether the number may end here.
    """
    digits = "0123456789"
    whole, point, fraction = text.removeprefix("-").partition(".")
    if not whole:
        return ("-" + digits if not text else digits[1:] if integer else digits), False
    if not point:
        more = digits if whole != "0" and len(whole) < MAX_WHOLE else ""
        return (more, True) if integer else (more + ".", False)
    # No zero at the end, but for one after the point; and none of the two zeros is negative.
    complete = fraction[-1:] not in ("", "0") or (fraction == "0" and text != "-0.0")
    last = len(fraction) == MAX_FRACTION - 1
    return (digits[1:] if last else digits if len(fraction) < MAX_FRACTION else ""), complete


def choose(
    logits_A: np.ndarray, block: Block, temperature: float, rng: np.random.Generator
) -> tuple[int, dict[int, float]]:
    """Picks one allowed token; greedy at temperature 0.

    Args:
      logits_A: of the tokens that `block.allowed()` gives, in that order.

    Returns:
      The id, and the log-probability of each allowed one among them, at temperature 1.
    """
    allowed = block.allowed()
    logits = np.asarray(logits_A, np.float64)
    log_p = logits - np.logaddexp.reduce(logits)
    if temperature == 0:
        pick = int(np.argmax(log_p))
    else:
        p = np.exp((log_p - log_p.max()) / temperature)
        pick = int(rng.choice(len(allowed), p=p / p.sum()))
    return allowed[pick], dict(zip(allowed, log_p.tolist(), strict=True))


def probabilities(block: Block) -> dict[str, float]:
    """Probability of each written marker's value under the grammar, 1 where it was pinned."""
    return {category: math.exp(log_p) for category, log_p in block.log_probability.items()}
