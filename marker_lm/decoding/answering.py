"""Answers the rows of a job, in whatever order they end."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from marker_lm.decoding.job import Job
from marker_lm.decoding.levers import LIKELIHOOD, Ranking, check_pins, rank
from marker_lm.decoding.request import Request
from marker_lm.decoding.requests import Asked
from marker_lm.decoding.result import Result
from marker_lm.decoding.sampling import one_a_row
from marker_lm.progress import Progress

TOGETHER = 64  # rows that are tagged at once: an endpoint is asked about many side by side

# From requests to the same with more markers pinned, and what the line of each says of that.
Tag = Callable[[Sequence[Request]], Sequence[tuple[Request, Mapping[str, Any]]]]


@dataclasses.dataclass(frozen=True)
class Best:
    """How many answers a row gets; the best by `by` (checked, see `levers.best_of`) is kept."""

    n: int = 1
    by: Ranking = LIKELIHOOD


def answer_rows(
    engine, rows: Sequence[Asked], job: Job, tag: Tag | None = None, best: Best | None = None
) -> None:
    """Gives the job the results of all rows that it has none of.

    A row that can't be used, and one that the engine refuses, gets an "error". Rows are read by the
    engine as its slots become free, so no more than `TOGETHER` are tagged ahead.

    Args:
      engine: an Engine.
      rows: all rows of the job, the first one is number 1.
      job: open.
      tag: finds further markers.
      best: answers a row several times; its line then has the best answer and its "score".
    """
    n = best.n if best else 1
    sent: list[tuple[int, Mapping[str, Any], Request]] = []  # row, what its line says, request

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
                about = {**rows[number - 1].about, **found}
                try:
                    if best:
                        check_pins(engine, request, best.by)
                except ValueError as error:
                    job.add(number, {**about, "error": str(error)})
                    continue
                sent.append((number, about, request))
                yield from _samples(request, n) if best else (request,)

    before, tokens, began = job.done, 0, time.monotonic()
    ended: dict[int, list[Result | str]] = {}  # of each row of `sent`
    with Progress("decode", len(rows), before) as progress:
        for place, result in engine.run(requests()):
            tokens += 0 if isinstance(result, str) else len(result.tokens)
            results = ended.setdefault(place // n, [])
            results.append(result)
            if len(results) < n:
                continue
            number, about, request = sent[place // n]
            job.add(number, {**about, **_line(engine, request, ended.pop(place // n), best)})
            spent = max(time.monotonic() - began, 1e-9)
            note = f"{(job.done - before) / spent:.1f} rows/s, {tokens / spent:.0f} tokens/s"
            progress.update(job.done, note)
        progress.update(job.done, progress.note)


def _samples(request: Request, n: int) -> Iterator[Request]:
    for sampling in one_a_row(request.sampling, n):
        yield dataclasses.replace(request, sampling=sampling)


def _line(
    engine, request: Request, results: Sequence[Result | str], best: Best | None
) -> dict[str, Any]:
    """What the line of a row says of its answers."""
    refused = next((result for result in results if isinstance(result, str)), None)
    if refused is not None:
        return {"error": refused}
    if best is None:
        return results[0].to_dict()
    try:
        first = rank(engine, request, results, best.by)[0]
    except ValueError as error:  # no room to score an answer
        return {"error": str(error)}
    return first.result.to_dict() | {"score": first.score, "best_of": best.n}
