"""A packed batch as people can read it: spans of one kind and weight, dropped markers, borders.

Everything is read off the arrays of the batch, so that what is shown is what a model is trained on,
and not what the plan meant.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.data.assembly import Kind, Layout
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import MarkerError
from marker_lm.markers.template import reserved_tokens


@dataclasses.dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one kind that have the same loss weight.

    Attributes:
      kind: of the tokens.
      weight: of each in the loss; the first token of a segment is never predicted and has none: 0.
      pieces: each token as text.
      text: all of them as text; a character of several bytes is whole here.
    """

    kind: Kind
    weight: float
    pieces: tuple[str, ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Turn:
    """One answer and what stands before it.

    Attributes:
      spans: all of its tokens.
      shown: markers of the prompt side.
      dropped: markers that the completion side has and dropout took from the prompt side.
    """

    spans: tuple[Span, ...]
    shown: Mapping[str, Any]
    dropped: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Segment:
    """One example in a sequence.

    Attributes:
      first, end: its slots are first <= slot < end.
      turns: one, or those of a conversation; together one token more than it has slots.
      faults: what is wrong with it, in words.
    """

    first: int
    end: int
    turns: tuple[Turn, ...]
    faults: tuple[str, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        """Those of all turns."""
        return tuple(span for turn in self.turns for span in turn.spans)


@dataclasses.dataclass(frozen=True)
class Packed:
    """One row of a batch: its segments, and the slots of padding after them."""

    segments: tuple[Segment, ...]
    length: int

    @property
    def used(self) -> int:
        """Slots that hold a segment."""
        return sum(segment.end - segment.first for segment in self.segments)


class Reader:
    """Reads the batches of one layout."""

    def __init__(self, layout: Layout, codec: MarkerCodec, tokenizer: Tokenizer):
        self.layout, self.codec, self.tokenizer = layout, codec, tokenizer
        self._reserved = reserved_tokens(codec.taxonomy) if codec.n_reserved else []

    def sequence(self, batch: Mapping[str, np.ndarray], row: int) -> Packed:
        """One row of a batch, see `loader.Batches` for its arrays."""
        arrays = {name: array[row] for name, array in batch.items()}
        ids_L = arrays["segment_ids"]
        edges = np.flatnonzero(np.diff(ids_L, prepend=-1, append=-1))
        runs = zip(edges[:-1], edges[1:], strict=True)
        segments = [self._segment(arrays, int(a), int(b)) for a, b in runs if ids_L[a] > 0]
        return Packed(tuple(segments), len(ids_L))

    def _segment(self, arrays: Mapping[str, np.ndarray], first: int, end: int) -> Segment:
        tokens, targets = arrays["tokens"][first:end], arrays["targets"][first:end]
        faults = []
        wrong = np.flatnonzero(tokens[1:] != targets[:-1])
        if len(wrong):
            faults.append(f"the input of slot {first + wrong[0] + 1} is not the target before it")
        if not np.array_equal(arrays["positions"][first:end], np.arange(end - first)):
            faults.append("its positions do not count from 0")
        # The first token is only ever an input.
        ids = np.concatenate([tokens[:1], targets])
        kinds = np.concatenate([[Kind.PROMPT], arrays["kinds"][first:end]])
        weights = np.concatenate([[0.0], arrays["weights"][first:end]])
        # Kinds rise within a turn: where they fall, the next one begins.
        edges = [0, *(np.flatnonzero(np.diff(kinds) < 0) + 1), len(ids)]
        turns = [
            self._turn(ids[a:b], kinds[a:b], weights[a:b], faults)
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
        return Segment(first, end, tuple(turns), tuple(faults))

    def _turn(
        self, ids: np.ndarray, kinds: np.ndarray, weights: np.ndarray, faults: list[str]
    ) -> Turn:
        change = (np.diff(kinds) != 0) | (np.diff(weights) != 0)
        edges = [0, *(np.flatnonzero(change) + 1), len(ids)]
        spans = [
            Span(Kind(int(kinds[a])), float(weights[a]), self.pieces(ids[a:b]), self.text(ids[a:b]))
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
        shown, whole = (
            self._markers(ids[kinds == kind], kind, faults)
            for kind in (Kind.PROMPT_MARKERS, Kind.COMPLETION_MARKERS)
        )
        side = [c for c in self.layout.prompt_side if c in whole]
        dropped = {c: whole[c] for c in side if c not in shown}
        if any(whole.get(c, value) != value for c, value in shown.items()):
            faults.append("the two sides have different values of a marker")
        return Turn(tuple(spans), shown, dropped)

    def _markers(self, ids: np.ndarray, kind: Kind, faults: list[str]) -> Mapping[str, Any]:
        if not len(ids):
            return {}
        try:
            markers, used = self.codec.parse(ids)
        except MarkerError as error:
            faults.append(f"the list of {kind.name.lower()} can't be read: {error}")
            return {}
        if used < len(ids):
            faults.append(f"{len(ids) - used} tokens follow the list of {kind.name.lower()}")
        return markers

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each id as text, reserved ones by their names."""
        size = self.tokenizer.size
        return tuple(
            self.tokenizer.piece(int(i)) if i < size else self._reserved_name(int(i) - size)
            for i in ids
        )

    def _reserved_name(self, number: int) -> str:
        names = self._reserved
        return (
            names[number] if number < len(names) else f"<no token {number + self.tokenizer.size}>"
        )

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text; bytes that are no whole character, and ids that are no text, by names."""
        parts, run = [], []
        for id, piece in zip(ids, self.pieces(ids), strict=True):
            if id < self.tokenizer.size and id not in self._control:
                run.append((int(id), piece))
            else:
                parts += [*self._decode(run), piece]
                run = []
        return "".join([*parts, *self._decode(run)])

    @property
    def _control(self) -> set[int | None]:
        known = self.tokenizer
        return {known.pad_id, known.eos_id, known.bos_id, self.layout.eos}

    def _decode(self, run: list[tuple[int, str]]) -> Iterator[str]:
        whole = self.tokenizer.decode([id for id, _ in run])
        if "\ufffd" not in whole:
            yield whole
            return
        at = 0
        while at < len(run):
            for size in range(1, 5):  # UTF-8 writes a character in at most four bytes
                text = self.tokenizer.decode([id for id, _ in run[at : at + size]])
                if "\ufffd" not in text:
                    break
            else:
                size, text = 1, run[at][1]
            yield text
            at += size


def summary(batch: Mapping[str, np.ndarray], sequences: Sequence[Packed]) -> dict[str, Any]:
    """Counts over a whole batch.

    Returns:
      slots, used; segments; targets: kind in lower case -> slots of that kind;
      weight: kind -> sum of its loss weights; shown, dropped: prompt-side markers;
      bare: turns that have markers and show none on the prompt side; turns; faults.
    """
    kinds, weights = batch["kinds"], batch["weights"]
    segments = [segment for sequence in sequences for segment in sequence.segments]
    turns = [turn for segment in segments for turn in segment.turns]
    return {
        "slots": kinds.size,
        "used": sum(sequence.used for sequence in sequences),
        "segments": len(segments),
        "turns": len(turns),
        "targets": {kind.name.lower(): int((kinds == kind).sum()) for kind in Kind},
        "weight": {kind.name.lower(): float(weights[kinds == kind].sum()) for kind in Kind},
        "shown": sum(len(turn.shown) for turn in turns),
        "dropped": sum(len(turn.dropped) for turn in turns),
        "bare": sum(bool(turn.dropped) and not turn.shown for turn in turns),
        "faults": sum(len(segment.faults) for segment in segments),
    }
