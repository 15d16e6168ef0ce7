"""The plan of an epoch: which rows stand in which sequence, decided without reading a token.

A plan is a pure function of (length index, mixture, layouts, dropout, seed, epoch). Because dropout
is a hash and lengths come from the cache's index, the packing of an epoch is known before it
starts; batch(step) is then a look-up, resuming needs one integer, and the number of hosts changes
nothing. An epoch is planned in windows of draws, so that the memory for it has a bound.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from marker_lm.data.assembly import Layout, sequence_lengths
from marker_lm.data.mixture import Mixture, draw, epoch_draws
from marker_lm.data.packing import pack
from marker_lm.data.spans import Index, ranges
from marker_lm.data.too_long import TOO_LONG, cut_too_long
from marker_lm.markers.dropout import Dropout, keep_mask

WINDOW = 262_144  # draws packed together: bounds memory, and a schedule of dropout goes by windows
_BLOCK = 32_768  # rows whose lengths are found together: what NumPy does then stays in the cache


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Rows, or parts of them, in the order in which they stand in sequences.

    The turns of a conversation stand one after the other and share a segment.

    rows_P: int64, cache rows.
    visits_P: int64, how often the row had been drawn before (feeds the dropout hash).
    progress_P: float64 in [0, 1), how far training is at that draw (feeds the dropout schedule).
    start_P, size_P: int32, which tokens of the answer (completion and eos) are written.
    begins_P: bool, whether a segment begins; else the piece goes on with the one before it.
    """

    rows_P: np.ndarray
    visits_P: np.ndarray
    progress_P: np.ndarray
    start_P: np.ndarray
    size_P: np.ndarray
    begins_P: np.ndarray

    def __len__(self) -> int:
        return len(self.rows_P)

    def take(self, which) -> "Pieces":
        """The chosen pieces only: by a slice or by indices."""
        return Pieces(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))


def join_pieces(several: Sequence[Pieces]) -> Pieces:
    """All of them, one after the other."""
    columns = [[getattr(one, f.name) for one in several] for f in dataclasses.fields(Pieces)]
    return Pieces(*(np.concatenate([np.zeros(0, np.int64), *column]) for column in columns))


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """A window of an epoch; its sequence s holds `pieces.take(slice(starts[s], starts[s + 1]))`.

    Attributes:
      pieces: what is placed.
      starts: int64[S + 1].
      used_slots: tokens placed; `used_slots / (sequences * length)` is the fill.
      rejected: int64, rows too long that are left out: by policy, or because prompt and markers
        leave the answer hardly any room. A conversation is named by its first row.
      truncated, split: int64, rows too long of which a part stands in a sequence, or all of it in
        several.
      cut_tokens: tokens of answers that `truncated` rows lose.
    """

    pieces: Pieces
    starts: np.ndarray
    used_slots: int
    rejected: np.ndarray
    truncated: np.ndarray
    split: np.ndarray
    cut_tokens: int

    @property
    def sequences(self) -> int:
        return len(self.starts) - 1


@dataclasses.dataclass(frozen=True)
class Planner:
    """Plans any window of any epoch.

    Attributes:
      index: the cache's length Index over all tasks.
      mixture: how often its rows are drawn.
      layouts: every layout that must fit into the same packing. Arms of one experiment pass all of
        theirs and so train on the same rows in the same order and steps.
      dropout: of the prompt-side markers.
      others: further such layouts, each with an index of the same rows in which markers have other
        lengths, as another template gives them.
      seed: of shuffle and dropout.
      epochs: how many epochs the whole training takes; sets the progress of a dropout schedule.
      length: slots of a sequence.
      too_long: what becomes of a row that does not fit, one of TOO_LONG, see data.too_long.
    """

    index: Index
    mixture: Mixture
    layouts: tuple[Layout, ...]
    dropout: Dropout
    seed: int
    epochs: int
    length: int
    too_long: str = "reject"
    others: tuple[tuple[Layout, Index], ...] = ()

    def __post_init__(self):
        if self.too_long not in TOO_LONG:
            raise ValueError(
                f"train.too_long={self.too_long!r} is not one of {', '.join(TOO_LONG)}."
            )

    @functools.cached_property
    def donor_N(self) -> np.ndarray:
        """int64[N]: for each row the other row whose markers it gets where they are shuffled."""
        return donors(len(self.index), self.seed)

    @property
    def _written(self) -> list[tuple[Layout, Index]]:
        return [*((layout, self.index) for layout in self.layouts), *self.others]

    def windows(self, epoch: int) -> int:
        """How many windows an epoch has."""
        return -(-epoch_draws(self.mixture, epoch) // WINDOW)

    def plan(self, epoch: int, window: int) -> WindowPlan:
        """The plan of one window of an epoch."""
        which = slice(window * WINDOW, (window + 1) * WINDOW)
        drawn_D, visits_D = draw(self.mixture, self.seed, epoch, which)
        draws = epoch_draws(self.mixture, epoch)
        progress_D = (epoch + (which.start + np.arange(len(drawn_D))) / draws) / max(self.epochs, 1)
        rows_E, turns_D = self.index.conversations(drawn_D)
        draw_E = np.repeat(np.arange(len(drawn_D)), turns_D)
        visits_E, progress_E = visits_D[draw_E], progress_D[draw_E]
        head_E, answer_E = self._lengths(rows_E, visits_E, progress_E)
        cut = cut_too_long(head_E, answer_E, turns_D, self.length, self.too_long)

        entry_P = np.repeat(np.arange(len(rows_E)), cut.pieces_E)
        number_P = np.arange(len(entry_P)) - np.repeat(
            np.cumsum(cut.pieces_E) - cut.pieces_E, cut.pieces_E
        )
        start_P = number_P * cut.room_E[entry_P]
        size_P = np.minimum(cut.room_E[entry_P], answer_E[entry_P] - start_P)
        begins_P = cut.is_first_E[entry_P]
        # What is packed is a segment: the pieces of one conversation, or one piece.
        first_S = np.flatnonzero(begins_P)
        pieces_S = np.diff(first_S, append=len(entry_P))
        upto_P = np.concatenate([[0], np.cumsum(head_E[entry_P] + size_P)])
        slots_S = np.diff(upto_P[np.append(first_S, len(entry_P))]) - 1

        order_S, starts = pack(slots_S, self.length)
        order_S, starts = _shuffle(order_S, starts, [self.seed, 3, epoch, window])
        order_P = ranges(first_S[order_S], pieces_S[order_S])
        placed_P = entry_P[order_P]
        first_rows_D = rows_E[cut.is_first_E]
        return WindowPlan(
            pieces=Pieces(
                rows_E[placed_P],
                visits_E[placed_P],
                progress_E[placed_P],
                start_P[order_P].astype(np.int32),
                size_P[order_P].astype(np.int32),
                begins_P[order_P],
            ),
            starts=np.concatenate([[0], np.cumsum(pieces_S[order_S])])[starts],
            used_slots=int(slots_S.sum()),
            rejected=first_rows_D[cut.rejected_D],
            truncated=first_rows_D[cut.truncated_D],
            split=first_rows_D[cut.split_D],
            cut_tokens=int(
                answer_E[cut.truncated_D[draw_E]].sum()
                - size_P[cut.truncated_D[draw_E[entry_P]]].sum()
            ),
        )

    def _lengths(self, rows_N, visits_N, progress_N) -> tuple[np.ndarray, np.ndarray]:
        """Tokens before the answer, in the layout where they are most, and of the answer."""
        head_N = np.zeros(len(rows_N), np.int64)
        answer_N = self.index.completion_len_N[rows_N].astype(np.int64) + 1
        for at in range(0, len(rows_N), _BLOCK):
            block = slice(at, at + _BLOCK)
            rows_B = rows_N[block]
            for layout, index in self._written:
                drawn = given = index.take(rows_B)
                if layout.shuffled:
                    given_BxC = index.marker_len_NxC[self.donor_N[rows_B]]
                    given = dataclasses.replace(drawn, marker_len_NxC=given_BxC)
                kept_BxC = kept_markers(
                    layout,
                    self.dropout,
                    self.seed,
                    visits_N[block],
                    drawn.example_hash_N,
                    progress_N[block],
                )
                slots_B = sequence_lengths(layout, given, kept_BxC)
                head_N[block] = np.maximum(head_N[block], slots_B + 1 - answer_N[block])
        return head_N, answer_N


def donors(rows: int, seed: int) -> np.ndarray:
    """One random cycle through all rows: each row gives once, and none to itself (but a lone one).

    Returns int64[N].
    """
    order_N = np.random.default_rng([seed, 4]).permutation(rows)
    donor_N = np.empty(rows, np.int64)
    donor_N[order_N] = np.roll(order_N, 1)
    return donor_N


def _shuffle(order_P: np.ndarray, starts: np.ndarray, seed: list[int]):
    """The same sequences in a random order."""
    size_S = np.diff(starts)
    shuffle_S = np.random.default_rng(seed).permutation(len(size_S))
    begin_S, size_S = starts[:-1][shuffle_S], size_S[shuffle_S]
    return order_P[ranges(begin_S, size_S)], np.concatenate([[0], np.cumsum(size_S)])


def kept_markers(layout: Layout, dropout: Dropout, seed: int, visits_P, example_hash_P, progress_P):
    """bool_PxC: which prompt-side markers of each draw stay, C in the order of `prompt_side`."""
    if not layout.prompt_side:
        # Nothing to drop: rates that the config gives for single categories say nothing here.
        return np.zeros((len(example_hash_P), 0), bool)
    return keep_mask(dropout, seed, visits_P, example_hash_P, layout.prompt_side, progress_P)


class PlanSummary:
    """What the plans of a run say together.

    Attributes:
      windows, sequences, used_slots, pieces: sums over all plans.
      fill: used share of all slots.
    """

    def __init__(self, length: int):
        self.length = length
        self.windows = self.sequences = self.used_slots = self.pieces = self.cut_tokens = 0
        self._rows: dict[str, list[np.ndarray]] = {"rejected": [], "truncated": [], "split": []}

    def add(self, plan: WindowPlan) -> None:
        self.windows += 1
        self.sequences += plan.sequences
        self.used_slots += plan.used_slots
        self.pieces += len(plan.pieces)
        self.cut_tokens += plan.cut_tokens
        for kind, rows in self._rows.items():
            rows.append(np.unique(getattr(plan, kind)))

    @property
    def fill(self) -> float:
        return self.used_slots / max(self.sequences * self.length, 1)

    def rows(self, kind: str) -> np.ndarray:
        """int64: the rows that were 'rejected', 'truncated' or 'split' in some epoch, once each."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self._rows[kind]]))

    def lines(self) -> list[str]:
        """The same for people: how full the sequences are, and what became of rows too long."""
        rejected, truncated, split = (len(self.rows(kind)) for kind in self._rows)
        said = [
            f"packed {self.pieces} pieces in {self.windows} window(s) into {self.sequences} "
            f"sequences, {100 * self.fill:.2f} % full"
        ]
        longer = f"longer than train.length={self.length}"
        if rejected:
            said.append(f"{rejected} rows are {longer} and are left out")
        if truncated:
            said.append(
                f"{truncated} rows are {longer} and lose the end of their completion, "
                f"{self.cut_tokens} tokens in all epochs"
            )
        if split:
            said.append(f"{split} rows are {longer} and are split into several sequences")
        return said
