"""What a decoding job needs of memory, before it starts."""

import dataclasses
from collections.abc import Sequence

import jax

from marker_lm.decoding.slots import Answer, cache_size


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes, on all devices together; what a step computes on its way comes on top.

    Attributes:
      params: the parameters.
      cache: keys, values and logits of all slots, when they are as long as they may get.
      rows, tokens: of the cache: how many rows, and the room of each.
    """

    params: int
    cache: int
    rows: int
    tokens: int

    def __str__(self) -> str:
        return (
            f"{_mega(self.params + self.cache)} at most, what a step computes left out: "
            f"{_mega(self.params)} of parameters, {_mega(self.cache)} of cache for {self.rows} "
            f"rows of up to {self.tokens} tokens"
        )


def job_memory(engine, answers: Sequence[Answer]) -> Memory:
    """The memory of a job.

    Args:
      engine: an Engine.
      answers: all of the job, as `Engine.answer` gives them: nothing of them has been read yet.
    """
    params = sum(leaf.nbytes for leaf in jax.tree.leaves(engine.params))
    most, rows, tokens, cache = engine.config.max_len, 0, 0, 0
    for ways in sorted({len(answer.lanes) for answer in answers}):
        longest = max(_tokens(engine, one) for one in answers if len(one.lanes) == ways)
        size = cache_size(min(longest, most), most)
        slots = max(engine.batch // ways, 1) * ways
        cache += engine.programs.state_bytes(slots, size)
        rows, tokens = rows + slots, max(tokens, size)
    return Memory(params, cache, rows, tokens)


def _tokens(engine, answer: Answer) -> int:
    """The most tokens that a row of the cache holds for an answer."""
    lists = [
        engine.grammar.room(lane.block.controls.pinned) if lane.block else 0
        for lane in answer.lanes
    ]
    heads = [len(lane.ids) for lane in answer.lanes]
    return max(map(sum, zip(heads, lists, strict=True))) + answer.sampling.max_tokens


def _mega(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
