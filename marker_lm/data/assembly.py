"""Spans into one sequence of tokens: the only place where prompt, markers and answer meet.

Training, decoding, scoring and evaluation all call these functions, so that a marker can never be
written one way in training and another at inference. A full sequence is

    [bos] prompt separator | [open kept-markers close] | open all-markers close | completion eos
          PROMPT           | PROMPT_MARKERS            | COMPLETION_MARKERS     | COMPLETION

The prompt-side block is left out when no marker is kept; the completion-side block is always
written when the layout has a completion side, even if the row has no marker, so that its absence
never has to be guessed at decoding. Without a completion side (the baseline arm) there is no block
at all.
"""

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence

import numpy as np


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

    With `shuffled`, training writes the markers of another row instead of the row's own.
    """

    prompt_side: tuple[str, ...]
    completion_side: tuple[str, ...]
    open: tuple[int, ...]
    close: tuple[int, ...]
    separator: tuple[int, ...]
    bos: tuple[int, ...]
    eos: int
    shuffled: bool = False


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


def block(layout: Layout, categories: Sequence[str], markers: Mapping[str, np.ndarray]):
    """The ids of one marker block with those of `categories` that the row has, in that order."""
    parts = [markers[c] for c in categories if c in markers]
    return np.concatenate([layout.open, *parts, layout.close]).astype(np.int32)


def prompt_part(layout, prompt: np.ndarray, markers: Mapping[str, np.ndarray], kept):
    """Everything before the completion side. Returns ids and kinds, both int32[n].

    Args:
      layout: the Layout.
      prompt: int32 ids of the prompt's text.
      markers: category -> int32 ids of its span.
      kept: the categories whose prompt-side marker stays.
    """
    head = np.concatenate([layout.bos, prompt, layout.separator]).astype(np.int32)
    shown = [c for c in layout.prompt_side if c in kept and c in markers]
    tail = block(layout, shown, markers) if shown else np.zeros(0, np.int32)
    kinds = np.repeat([Kind.PROMPT, Kind.PROMPT_MARKERS], [len(head), len(tail)])
    return np.concatenate([head, tail]), kinds.astype(np.int32)


def assemble(layout: Layout, spans, kept: Collection[str]):
    """One whole training or scoring sequence. Returns ids and kinds, both int32[n]."""
    ids, kinds = prompt_part(layout, spans.prompt, spans.markers, kept)
    list_ids = np.zeros(0, np.int32)
    if layout.completion_side:
        list_ids = block(layout, layout.completion_side, spans.markers)
    answer = np.append(spans.completion, layout.eos).astype(np.int32)
    tail = np.repeat([Kind.COMPLETION_MARKERS, Kind.COMPLETION], [len(list_ids), len(answer)])
    return np.concatenate([ids, list_ids, answer]), np.concatenate([kinds, tail]).astype(np.int32)


def sequence_lengths(layout: Layout, index, kept_NxC: np.ndarray) -> np.ndarray:
    """Slots that each row takes, from the length index alone: int64[N].

    A sequence of n tokens takes n - 1 slots: its last token is only ever a target.

    Args:
      layout: the Layout.
      index: a cache Index (`categories`, `prompt_len_N`, `completion_len_N`, `marker_len_NxC`).
      kept_NxC: bool, the prompt-side markers that stay, C in the order of `layout.prompt_side`.
    """
    column = {c: i for i, c in enumerate(index.categories)}
    ends = len(layout.open) + len(layout.close)
    n = len(layout.bos) + index.prompt_len_N.astype(np.int64) + len(layout.separator)
    if layout.prompt_side:
        shown = index.marker_len_NxC[:, [column[c] for c in layout.prompt_side]] * kept_NxC
        n += shown.sum(1) + ends * (shown.sum(1) > 0)
    if layout.completion_side:
        n += index.marker_len_NxC[:, [column[c] for c in layout.completion_side]].sum(1) + ends
    return n + index.completion_len_N
