"""Work in several processes: one reader, results in the order of what was read."""

import collections
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_work: Callable[..., Any] | None = None  # of this process


def count_workers(asked: int) -> int:
    """Processes to use: what was asked for, or for 0 one a core that this process may run on."""
    return asked if asked > 0 else len(os.sched_getaffinity(0))


def map_in_processes(
    make: Callable[[], Callable[..., Any]],
    calls: Iterable[tuple],
    workers: int,
    ahead: int,
    lost: Exception,
) -> Iterator[tuple[tuple, Any]]:
    """(call, make()(*call)) for each of `calls`, in their order.

    Args:
      make: called once in each process, so that what is large or slow to make is made there once.
      workers: processes.
      ahead: calls to a process that may wait or have results that wait: memory does not depend on
        how many calls there are.
      lost: raised when a process was killed, for want of memory or by a person.

    Raises what a call raises.
    """
    # A fork would copy the locks of threads that other libraries have started.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(make,))
    waiting: collections.deque = collections.deque()
    try:
        for call in calls:
            waiting.append((call, pool.submit(_do, call)))
            if len(waiting) > ahead * workers:
                call, future = waiting.popleft()
                yield call, future.result()
        while waiting:
            call, future = waiting.popleft()
            yield call, future.result()
    except BrokenProcessPool:
        raise lost from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(make: Callable[[], Callable[..., Any]]) -> None:
    global _work
    _work = make()


def _do(call: tuple) -> Any:
    return _work(*call)
