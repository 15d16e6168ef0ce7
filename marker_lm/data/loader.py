"""Batches by step: a pure function from an integer to arrays, and a Grain iterator around it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from marker_lm.data.assembly import Kind, Layout, assemble
from marker_lm.data.cache import Cache
from marker_lm.data.plan import EpochPlan, donors, kept_markers, plan_epoch
from marker_lm.markers.dropout import Dropout


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
    """

    layout: Layout
    plan_layouts: tuple[Layout, ...]
    dropout: Dropout
    seed: int
    length: int
    batch: int
    weights: Mapping[str, float]


class Batches:
    """`batches[step]` for every step of a training run.

    A batch is a dict of arrays_BxL: `tokens`, `targets`, `segment_ids` (1, 2, ... within a row; 0
    is padding), `positions` (from 0 in each segment), `kinds` (the Kind of the target), all int32,
    and `weights` float32. With `rows`, only that slice of the global batch is built: a host reads
    only what its devices need.
    """

    def __init__(
        self,
        cache: Cache,
        stream: Stream,
        epochs: int,
        sizes: Sequence[int] | None = None,
        rates: Sequence[float] = (1.0,),
        rows: slice = slice(None),
    ):
        self.cache, self.stream, self.rows = cache, stream, rows
        self.plans: list[EpochPlan] = [
            plan_epoch(
                cache.index,
                sizes or [len(cache)],
                rates,
                stream.plan_layouts,
                stream.dropout,
                stream.seed,
                epoch,
                epochs,
                stream.length,
            )
            for epoch in range(epochs)
        ]
        # The last batch of an epoch may be partial: it is padded with weight 0, so that all hosts
        # always compute the same number of batches.
        per_epoch = [-(-plan.sequences // stream.batch) for plan in self.plans]
        self.ends = np.cumsum(per_epoch)
        self.weight_of_kind = np.zeros(len(Kind), np.float32)
        for name, weight in stream.weights.items():
            self.weight_of_kind[Kind[name.upper()]] = weight
        self.donors = donors(len(cache), stream.seed)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch = int(np.searchsorted(self.ends, step, side="right"))
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is outside 0..{len(self) - 1}.")
        plan = self.plans[epoch]
        first = (step - (self.ends[epoch - 1] if epoch else 0)) * self.stream.batch
        sequences = range(first, first + self.stream.batch)[self.rows]
        batch = empty_batch(len(sequences), self.stream.length)
        for row, sequence in enumerate(sequences):
            if sequence < plan.sequences:
                self._fill(batch, row, plan, slice(*plan.starts[sequence : sequence + 2]))
        batch["weights"][:] = self.weight_of_kind[batch["kinds"]]
        return batch

    def _fill(self, batch, row: int, plan: EpochPlan, draws: slice) -> None:
        """Writes the examples of one planned sequence into one row of the batch."""
        stream, ids = self.stream, plan.rows_P[draws]
        kept_NxC = kept_markers(
            stream.layout,
            stream.dropout,
            stream.seed,
            plan.visits_P[draws],
            self.cache.index.example_hash_N[ids],
            plan.progress_P[draws],
        )
        spans = self.cache.read_many(ids)
        if stream.layout.shuffled:
            others = self.cache.read_many(self.donors[ids])
            spans = [
                dataclasses.replace(own, markers=other.markers)
                for own, other in zip(spans, others, strict=True)
            ]
        at = 0
        for segment, (example, kept) in enumerate(zip(spans, kept_NxC, strict=True), 1):
            shown = {c for c, k in zip(stream.layout.prompt_side, kept, strict=True) if k}
            sequence, kinds = assemble(stream.layout, example, shown)
            at = place(batch, row, at, segment, sequence, kinds)


def empty_batch(B: int, L: int) -> dict[str, np.ndarray]:
    """A batch of padding only."""
    batch = {
        name: np.zeros((B, L), np.int32)
        for name in ("tokens", "targets", "segment_ids", "positions", "kinds")
    }
    return batch | {"weights": np.zeros((B, L), np.float32)}


def place(batch, row: int, at: int, segment: int, sequence, kinds) -> int:
    """Writes one sequence of n tokens into n - 1 slots from `at` on; returns the next free slot."""
    end = at + len(sequence) - 1
    if end > batch["tokens"].shape[1]:
        raise ValueError(
            f"a sequence of {len(sequence) - 1} slots does not fit at slot {at} of "
            f"{batch['tokens'].shape[1]}: the plan and the layout disagree."
        )
    batch["tokens"][row, at:end] = sequence[:-1]
    batch["targets"][row, at:end] = sequence[1:]
    batch["kinds"][row, at:end] = kinds[1:]
    batch["segment_ids"][row, at:end] = segment
    batch["positions"][row, at:end] = np.arange(len(sequence) - 1)
    return end


def iterate(batches: Batches, start: int, stop: int, threads: int) -> Iterator[dict]:
    """Batches `start` to `stop`, read ahead by Grain threads; carries no state but the step."""
    dataset = grain.MapDataset.source(batches)[start:stop]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, 1))
    return iter(dataset.to_iter_dataset(options))
