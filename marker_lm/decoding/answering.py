"""Answers the rows of a job, in whatever order they end."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from marker_lm.decoding.job import Job
from marker_lm.decoding.request import Request
from marker_lm.decoding.requests import Asked
from marker_lm.progress import Progress

TOGETHER = 64  # rows that are tagged at once: an endpoint is asked about many side by side

# From requests to the same with more markers pinned, and what the line of each says of that.
Tag = Callable[[Sequence[Request]], Sequence[tuple[Request, Mapping[str, Any]]]]


def answer_rows(engine, rows: Sequence[Asked], job: Job, tag: Tag | None = None) -> None:
    """Gives the job the results of all rows that it has none of.

    A row that can't be used, and one that the engine refuses, gets an "error". Rows are read by the
    engine as its slots become free, so no more than `TOGETHER` are tagged ahead.

    Args:
      engine: an Engine.
      rows: all rows of the job, the first one is number 1.
      job: open.
      tag: finds further markers.
    """
    sent: list[tuple[int, Mapping[str, Any]]] = []  # row and what its line says, of each request

    def requests() -> Iterator[Request]:
        left = job.left()
        for start in range(0, len(left), TOGETHER):
            numbers = []
            for number in left[start : start + TOGETHER]:
                row = rows[number - 1]
                if row.request is None:
                    job.add(number, {**row.about, "error": row.error})
                else:
                    numbers.append(number)
            own = [rows[number - 1].request for number in numbers]
            tagged = tag(own) if tag else [(request, {}) for request in own]
            for number, (request, found) in zip(numbers, tagged, strict=True):
                sent.append((number, {**rows[number - 1].about, **found}))
                yield request

    before, tokens, began = job.done, 0, time.monotonic()
    with Progress("decode", len(rows), before) as progress:
        for place, result in engine.run(requests()):
            number, about = sent[place]
            if isinstance(result, str):
                job.add(number, {**about, "error": result})
            else:
                job.add(number, {**about, **result.to_dict()})
                tokens += len(result.tokens)
            spent = max(time.monotonic() - began, 1e-9)
            note = f"{(job.done - before) / spent:.1f} rows/s, {tokens / spent:.0f} tokens/s"
            progress.update(job.done, note)
        progress.update(job.done, progress.note)
