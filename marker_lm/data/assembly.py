"""Spans into one sequence of tokens: the only place where prompt, markers and answer meet.

Training, decoding, scoring and evaluation all call these functions, so that a marker can never be
written one way in training and another at inference. A full sequence is

    [bos] prompt separator | [open kept-markers close] | open all-markers close | completion eos
          PROMPT           | PROMPT_MARKERS            | COMPLETION_MARKERS     | COMPLETION

The prompt-side block is left out when no marker is kept; the completion-side block is always
written when the layout has a completion side, even if the row has no marker, so that its absence
never has to be guessed at decoding. Without a completion side (the baseline arm) there is no block
at all.

A conversation of several turns is several such sequences one after the other in one segment. Then
bos and separator are empty, as the chat template writes all that stands around the answers, and eos
is the token by which the template ends an answer.

`parts` is this description as code. Lengths for a plan, batches for training and single sequences
for decoding are all made from it.
"""

import dataclasses
import enum
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from marker_lm.data.spans import FlatSpans, Index, Spans, flatten_spans, ranges


class Kind(enum.IntEnum):
    """What a token belongs to. Loss weights are given per kind."""

    PADDING = 0
    PROMPT = 1
    PROMPT_MARKERS = 2
    COMPLETION_MARKERS = 3
    COMPLETION = 4


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which categories stand on which side, in which order, between which tokens.

    With `shuffled`, training writes the markers of another row instead of the row's own. `filler`
    is an id that is written for every token of a marker, or -1.
    """

    prompt_side: tuple[str, ...]
    completion_side: tuple[str, ...]
    open: tuple[int, ...]
    close: tuple[int, ...]
    separator: tuple[int, ...]
    bos: tuple[int, ...]
    eos: int
    shuffled: bool = False
    filler: int = -1

    @property
    def levers(self) -> tuple[str, ...]:
        """Categories that a user can pin: those of the list before the answer, if there is one."""
        return self.completion_side or self.prompt_side


ORDERS = ("alphabetical", "lengths_last")


def order_categories(taxonomy, names: Collection[str], order: str) -> tuple[str, ...]:
    """Sorts category names alphabetically (as the paper does), or so with the computed ones last.

    Computed categories are the lengths: when they stand last, forcing or summing over them costs
    one short continuation instead of a whole list.
    """
    if order not in ORDERS:
        raise ValueError(f"marker order {order!r} is not one of {', '.join(ORDERS)}.")
    last = order == "lengths_last"
    return tuple(
        sorted(names, key=lambda c: (last and taxonomy.categories[c].origin == "computed", c))
    )


@dataclasses.dataclass(frozen=True)
class Answers:
    """Which tokens of each row's answer stand in a sequence; the answer is completion and eos.

    start_N: integers, the first token of the answer that is written.
    size_N: integers, 1 or more, how many are.
    """

    start_N: np.ndarray
    size_N: np.ndarray

    @classmethod
    def whole(cls, rows: Index | FlatSpans) -> "Answers":
        return cls(np.zeros(len(rows), np.int64), rows.completion_len_N + 1)


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the sequences of N rows.

    kind: of its tokens.
    source: the ids themselves, of which each row takes as many as its length says, or the span that
      they are taken from: 'prompt', 'completion' or a category.
    length_N: integers, the tokens of each row, 0 where it has none.
    skip_N: integers, tokens of the span before the first one that is taken.
    """

    kind: Kind
    source: tuple[int, ...] | str
    length_N: np.ndarray
    skip_N: np.ndarray | int = 0


def parts(
    layout: Layout, rows: Index | FlatSpans, kept_NxC: np.ndarray, answers: Answers
) -> Iterator[Part]:
    """All parts of a sequence, from its first to its last.

    Args:
      layout: the Layout.
      rows: lengths of their spans.
      kept_NxC: bool, the prompt-side markers that stay, C in the order of `layout.prompt_side`.
      answers: what is written of each answer.
    """
    every_N = np.ones(len(rows), np.int64)
    yield _fixed(Kind.PROMPT, layout.bos, every_N)
    yield Part(Kind.PROMPT, "prompt", rows.prompt_len_N)
    yield _fixed(Kind.PROMPT, layout.separator, every_N)
    if layout.prompt_side:
        listed_NxC = marker_lengths(rows, layout.prompt_side) * kept_NxC
        shown_N = listed_NxC.any(axis=1)
        yield from _block(layout, Kind.PROMPT_MARKERS, layout.prompt_side, listed_NxC, shown_N)
    if layout.completion_side:
        listed_NxC = marker_lengths(rows, layout.completion_side)
        side = Kind.COMPLETION_MARKERS, layout.completion_side
        yield from _block(layout, *side, listed_NxC, every_N)
    has_eos_N = answers.start_N + answers.size_N > rows.completion_len_N
    yield Part(Kind.COMPLETION, "completion", answers.size_N - has_eos_N, answers.start_N)
    yield _fixed(Kind.COMPLETION, (layout.eos,), has_eos_N)


def _fixed(kind: Kind, ids: tuple[int, ...], where_N: np.ndarray) -> Part:
    return Part(kind, ids, len(ids) * where_N)


def _block(layout: Layout, kind: Kind, categories, listed_NxC, where_N) -> Iterator[Part]:
    """A marker block: where it stands at all, and with how many tokens of each category."""
    yield _fixed(kind, layout.open, where_N)
    for category, length_N in zip(categories, listed_NxC.T, strict=True):
        filler = (layout.filler,) * int(length_N.max(initial=0))
        yield Part(kind, category if layout.filler < 0 else filler, length_N)
    yield _fixed(kind, layout.close, where_N)


def marker_lengths(rows: Index | FlatSpans, categories: Sequence[str]) -> np.ndarray:
    """int64[N, C]: tokens of the markers of these categories, 0 where a row has none."""
    columns = [rows.categories.index(category) for category in categories]
    return rows.marker_len_NxC[:, columns].astype(np.int64)


def sequence_lengths(layout: Layout, rows: Index | FlatSpans, kept_NxC: np.ndarray) -> np.ndarray:
    """Slots that each row with its whole answer takes, from lengths alone: int64[N].

    A sequence of n tokens takes n - 1 slots: its last token is only ever a target.
    """
    n = np.full(len(rows), -1, np.int64)
    for part in parts(layout, rows, kept_NxC, Answers.whole(rows)):
        n += part.length_N
    return n


def assemble_rows(
    layout: Layout, rows: FlatSpans, kept_NxC: np.ndarray, answers: Answers
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sequences of many rows, one after the other: ids and kinds, int32[T], and lengths_N."""
    return _gather(rows, list(parts(layout, rows, kept_NxC, answers)))


def _gather(rows: FlatSpans, found: Sequence[Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    begin_of = {"prompt": rows.prompt_at_N, "completion": rows.completion_at_N}
    begin_of |= dict(zip(rows.categories, rows.marker_at_NxC.T, strict=True))
    fixed = [part.source for part in found if not isinstance(part.source, str)]
    words = np.concatenate([rows.words, *fixed]).astype(np.int32, copy=False)
    # Ids of the layout itself stand behind the words of the rows.
    begin_NxP = np.empty((len(rows), len(found)), np.int64)
    behind = len(rows.words)
    for p, part in enumerate(found):
        if isinstance(part.source, str):
            begin_NxP[:, p] = begin_of[part.source] + part.skip_N
        else:
            begin_NxP[:, p] = behind
            behind += len(part.source)
    length_NxP = np.stack([part.length_N for part in found], axis=1)
    length_R, begin_R = length_NxP.ravel(), begin_NxP.ravel()
    kinds_R = np.tile(np.array([part.kind for part in found], np.int32), len(rows))
    ids_T = words[ranges(begin_R, length_R)]
    return ids_T, np.repeat(kinds_R, length_R), length_NxP.sum(1)


def assemble(layout: Layout, spans: Spans, kept: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    """One whole training or scoring sequence. Returns ids and kinds, both int32[n].

    Args:
      layout: the Layout.
      spans: of the row.
      kept: the categories whose prompt-side marker stays.
    """
    categories = tuple(dict.fromkeys(layout.prompt_side + layout.completion_side))
    rows = flatten_spans([spans], categories)
    kept_1xC = np.array([[c in kept for c in layout.prompt_side]], bool)
    ids, kinds, _ = assemble_rows(layout, rows, kept_1xC, Answers.whole(rows))
    return ids, kinds


def prompt_part(
    layout: Layout, prompt: np.ndarray, markers: Mapping[str, np.ndarray], kept: Collection[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Everything before the completion side. Returns ids and kinds, both int32[n]."""
    bare = dataclasses.replace(layout, completion_side=())
    ids, kinds = assemble(bare, Spans("", prompt, np.zeros(0, np.int32), dict(markers)), kept)
    return ids[:-1], kinds[:-1]  # without the eos of an empty completion


def block(
    layout: Layout, categories: Sequence[str], markers: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The ids of one marker block with those of `categories` that the row has, in that order."""
    empty = np.zeros(0, np.int32)
    rows = flatten_spans([Spans("", empty, empty, dict(markers))], categories)
    listed_1xC = marker_lengths(rows, categories)
    every_1 = np.ones(1, np.int64)
    kind = Kind.COMPLETION_MARKERS
    return _gather(rows, list(_block(layout, kind, categories, listed_1xC, every_1)))[0]
