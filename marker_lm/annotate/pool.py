"""Blocks through processes: one reader, results in the order of the blocks."""

import collections
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from marker_lm.annotate.registry import AnnotateError
from marker_lm.annotate.work import Job, Worker

_worker: Worker | None = None  # of this process


def _begin(job: Job) -> None:
    global _worker
    _worker = Worker(job)


def _do(method: str, args: tuple) -> Any:
    return getattr(_worker, method)(*args)


def count_workers(asked: int) -> int:
    """Processes to use: what was asked for, or one a core that this process may run on."""
    return asked if asked > 0 else len(os.sched_getaffinity(0))


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
    # A fork would copy the locks of threads that other libraries have started.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(job,))
    waiting: collections.deque = collections.deque()
    try:
        for args in calls:
            waiting.append((args, pool.submit(_do, method, args)))
            if len(waiting) > 2 * workers:
                args, future = waiting.popleft()
                yield args, future.result()
        while waiting:
            args, future = waiting.popleft()
            yield args, future.result()
    except BrokenProcessPool:
        raise AnnotateError(
            "a worker process has ended (killed, or out of memory?); the same command goes on "
            "from the last whole shard, with fewer --config.workers if memory is short"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
