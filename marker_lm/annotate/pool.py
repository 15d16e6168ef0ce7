"""Blocks through the annotators, in this process or in several."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from marker_lm.annotate.registry import AnnotateError
from marker_lm.annotate.work import Job, Worker
from marker_lm.data.processes import map_in_processes


def _method(job: Job, name: str) -> Callable[..., Any]:
    return getattr(Worker(job), name)


def map_blocks(
    job: Job, method: str, calls: Iterable[tuple], workers: int
) -> Iterator[tuple[tuple, Any]]:
    """(arguments, result) of `Worker.method(*arguments)` for each of `calls`, in their order.

    One worker works in this process. Of more, each has at most two blocks waiting, so that memory
    does not depend on the number of blocks. Raises what a worker raises, and AnnotateError when one
    is killed.
    """
    if workers == 1:
        worker = Worker(job)
        try:
            for args in calls:
                yield args, getattr(worker, method)(*args)
        finally:
            worker.close()
        return
    lost = AnnotateError(
        "a worker process has ended (killed, or out of memory?); the same command goes on from the "
        "last whole shard, with fewer --config.workers if memory is short"
    )
    make = functools.partial(_method, job, method)
    yield from map_in_processes(make, calls, workers, ahead=2, lost=lost)
