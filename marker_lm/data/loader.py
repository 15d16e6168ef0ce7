"""Batches by step: a pure function from an integer to arrays, and a Grain iterator around it."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import grain
import numpy as np

from marker_lm.data.assembly import Answers, Kind, Layout, assemble_rows
from marker_lm.data.cache import Cache
from marker_lm.data.mixture import Mixture, make_mixture
from marker_lm.data.plan import Pieces, Planner, PlanSummary, join_pieces, kept_markers
from marker_lm.data.spans import FlatSpans, Index, ranges
from marker_lm.markers.dropout import Dropout

Rows = slice | np.ndarray  # of a global batch; an array has their numbers, rising

_KEPT_PLANS = 64  # windows; older ones are planned again when they are asked for


@dataclasses.dataclass(frozen=True)
class Stream:
    """What a run trains on, apart from the rows themselves.

    Attributes:
      layout: how this arm writes a row.
      plan_layouts: the layouts that share one packing; holds `layout` among them.
      dropout: of the prompt-side markers.
      seed: of shuffle, packing and dropout.
      length: slots of a sequence (L).
      batch: sequences of a global batch (B).
      weights: Kind name -> loss weight of its tokens.
      too_long: what becomes of rows that do not fit, see plan.Planner.
      plan_dropout: what the packing reckons with instead, where arms differ in it: the least of all
        arms'. A marker that stays at a higher rate stays at a lower one, so it is enough.
      plan_others: layouts of arms that share the packing and read other caches of the same rows.
    """

    layout: Layout
    plan_layouts: tuple[Layout, ...]
    dropout: Dropout
    seed: int
    length: int
    batch: int
    weights: Mapping[str, float]
    too_long: str = "reject"
    plan_dropout: Dropout | None = None
    plan_others: tuple[tuple[Layout, Index], ...] = ()


class Batches:
    """`batches[step]` for every step of a training run.

    A batch is a dict of arrays_BxL: `tokens`, `targets`, `segment_ids` (1, 2, ... within a row; 0
    is padding), `positions` (from 0 in each segment), `kinds` (the Kind of the target), all int32,
    and `weights` float32. All turns of a conversation are one segment. With `rows`, only those
    of the global batch are built: a host reads only what its devices need.

    Attributes:
      cache, stream: as given.
      rows: int64, rising: which rows of the global batch are built.
      planner, plan: what plans, and `plan(epoch, window)`, which keeps the latest plans.
      ends: int64[epochs], how many steps there are up to the end of each epoch.
      summary: of all plans.
    """

    def __init__(
        self,
        cache: Cache,
        stream: Stream,
        epochs: int,
        mixture: Mixture | None = None,
        rows: Rows = slice(None),
    ):
        self.cache, self.stream = cache, stream
        self.rows = np.arange(stream.batch)[rows]
        self.planner = Planner(
            index=cache.index,
            mixture=mixture or make_mixture([len(cache.index.first_U)], [1.0]),
            layouts=stream.plan_layouts,
            others=stream.plan_others,
            dropout=stream.plan_dropout or stream.dropout,
            seed=stream.seed,
            epochs=epochs,
            length=stream.length,
            too_long=stream.too_long,
        )
        # (epoch, window) -> WindowPlan
        self.plan = functools.lru_cache(_KEPT_PLANS)(self.planner.plan)
        self.summary = PlanSummary(stream.length)
        self._sequences: list[np.ndarray] = []  # up to the end of each window, for each epoch
        for epoch in range(epochs):
            sequences = []
            for window in range(self.planner.windows(epoch)):
                plan = self.plan(epoch, window)
                self.summary.add(plan)
                sequences.append(plan.sequences)
            self._sequences.append(np.cumsum(sequences))
        # The last batch of an epoch may be partial: it is padded with weight 0, so that all hosts
        # always compute the same number of batches.
        self.ends = np.cumsum([-(-upto[-1] // stream.batch) for upto in self._sequences])
        self.weight_of_kind = np.zeros(len(Kind), np.float32)
        for name, weight in stream.weights.items():
            self.weight_of_kind[Kind[name.upper()]] = weight

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def pieces(self, step: int) -> tuple[Pieces, np.ndarray]:
        """What stands in the batch of a step, and at which of `self.rows`: Pieces and int64[P]."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is outside 0..{len(self) - 1}.")
        epoch = int(np.searchsorted(self.ends, step, side="right"))
        upto = self._sequences[epoch]
        first = (step - (self.ends[epoch - 1] if epoch else 0)) * self.stream.batch
        begin = first + int(self.rows[0])
        end = min(first + int(self.rows[-1]) + 1, int(upto[-1]))
        found, rows = [], []
        for window in range(int(np.searchsorted(upto, begin, side="right")), len(upto)):
            before = int(upto[window - 1]) if window else 0
            if before >= end:
                break
            plan = self.plan(epoch, window)
            sequences = slice(max(begin - before, 0), min(end - before, plan.sequences))
            starts = plan.starts[sequences.start : sequences.stop + 1]
            found.append(plan.pieces.take(slice(starts[0], starts[-1])))
            numbers = np.arange(sequences.start, sequences.stop) + before - first
            rows.append(np.repeat(numbers, np.diff(starts)))
        row_P = np.concatenate([np.zeros(0, np.int64), *rows])
        # The devices of a host may stand apart in the mesh; between their rows are others' rows.
        ours = np.flatnonzero(np.isin(row_P, self.rows))
        return join_pieces(found).take(ours), np.searchsorted(self.rows, row_P[ours])

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        stream, index = self.stream, self.cache.index
        pieces, row_P = self.pieces(step)
        kept_PxC = kept_markers(
            stream.layout,
            stream.dropout,
            stream.seed,
            pieces.visits_P,
            index.example_hash_N[pieces.rows_P],
            pieces.progress_P,
        )
        spans = self._read(pieces.rows_P)
        answers = Answers(pieces.start_P.astype(np.int64), pieces.size_P.astype(np.int64))
        ids_T, kinds_T, length_P = assemble_rows(stream.layout, spans, kept_PxC, answers)
        B = len(self.rows)
        first_S = np.flatnonzero(pieces.begins_P)  # the turns of a conversation are one segment
        upto_P = np.concatenate([[0], np.cumsum(length_P)])
        length_S = np.diff(upto_P[np.append(first_S, len(pieces))])
        batch = place(ids_T, kinds_T, length_S, row_P[first_S], B, stream.length)
        batch["weights"] = self.weight_of_kind[batch["kinds"]]
        return batch

    def _read(self, rows_P: np.ndarray) -> FlatSpans:
        if not self.stream.layout.shuffled:
            return self.cache.read_flat(rows_P)
        P = len(rows_P)
        both = self.cache.read_flat(np.concatenate([rows_P, self.planner.donor_N[rows_P]]))
        given = both.take(slice(P, None))
        return dataclasses.replace(
            both.take(slice(P)),
            marker_at_NxC=given.marker_at_NxC,
            marker_len_NxC=given.marker_len_NxC,
        )


def place(
    ids_T: np.ndarray, kinds_T: np.ndarray, length_P: np.ndarray, row_P: np.ndarray, B: int, L: int
) -> dict[str, np.ndarray]:
    """A batch of assembled sequences, but for its weights; each takes a slot less than its tokens.

    Args:
      ids_T, kinds_T: int32, all sequences one after the other.
      length_P: tokens of each.
      row_P: the row of the batch where each stands, not decreasing; 0 <= row < B.
      B, L: rows and slots of the batch.

    Raises:
      ValueError: more sequences in a row than it has slots.
    """
    slots_P = length_P - 1
    upto_P = np.cumsum(slots_P)
    first_P = np.searchsorted(row_P, row_P)  # the first sequence of the same row
    at_P = upto_P - slots_P - (upto_P - slots_P)[first_P]
    if (at_P + slots_P > L).any():
        p = int(np.argmax(at_P + slots_P > L))
        raise ValueError(
            f"a sequence of {slots_P[p]} slots does not fit at slot {at_P[p]} of {L}: the plan and "
            "the layout disagree."
        )
    from_S = ranges(np.cumsum(length_P) - length_P, slots_P)
    to_S = ranges(row_P * L + at_P, slots_P)
    columns = {
        "tokens": ids_T[from_S],
        "targets": ids_T[from_S + 1],
        "segment_ids": np.repeat(np.arange(len(row_P)) - first_P + 1, slots_P),
        "positions": ranges(np.zeros_like(slots_P), slots_P),
        "kinds": kinds_T[from_S + 1],
    }
    batch = {}
    for name, column_S in columns.items():
        batch[name] = np.zeros((B, L), np.int32)
        batch[name].reshape(-1)[to_S] = column_S
    return batch


def iterate(batches: Batches, start: int, stop: int, threads: int) -> Iterator[dict]:
    """Batches `start` to `stop`, read ahead by Grain threads; carries no state but the step."""
    dataset = grain.MapDataset.source(batches)[start:stop]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, 1))
    return iter(dataset.to_iter_dataset(options))
