"""Examples to the shards of a cache, through SeqIO, in one process or in several."""

import collections
import dataclasses
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from marker_lm.data.cache import CacheError
from marker_lm.data.cache_writer import ROWS_PER_SHARD, CacheWriter
from marker_lm.data.chat import Chat, mark_conversations
from marker_lm.data.example import Example
from marker_lm.data.spans import Spans
from marker_lm.data.tokenizer import Tokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import Taxonomy

_SECONDS = 10.0  # between two lines of progress
_being_written: dict[str, Sequence[Example]] = {}  # task -> its rows
_registry = threading.Lock()  # a process has one registry of tasks; a Beam worker has many threads


@dataclasses.dataclass(frozen=True)
class ShardRows:
    """The rows of one shard: consecutive rows of one task."""

    number: int
    task: str
    examples: Sequence[Example]


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What is done to every block, as plain values that any process can be sent."""

    writer: CacheWriter
    taxonomy: Taxonomy
    template: str
    tokenizer: Tokenizer
    chat: Chat | None = None

    def register(self, task: str) -> None:
        """Registers the SeqIO task of this name, which gives the rows that are being written."""
        from marker_lm.data.tasks import build_task

        codec = MarkerCodec(self.taxonomy, self.template, self.tokenizer)
        build_task(task, lambda split: _being_written.get(task, ()), codec, self.tokenizer)

    def write(self, block: ShardRows) -> None:
        """Tokenizes a block with its SeqIO task and writes its shard."""
        from marker_lm.data.tasks import spans

        with _registry:
            # TensorFlow never lets go of a function that it was given, so no function holds rows.
            _being_written[block.task] = block.examples
            try:
                self.register(block.task)
                rows = list(spans(block.task))
            finally:
                del _being_written[block.task]
        if self.chat is not None:
            turns = [example.turns for example in block.examples]
            mark_conversations(self.chat, self.tokenizer, turns, rows)
        changed = changed_rows(self.tokenizer, block.examples, rows)
        self.writer.write_shard(block.number, rows, changed)


def changed_rows(
    tokenizer: Tokenizer, examples: Sequence[Example], rows: Sequence[Spans]
) -> list[str]:
    """Ids of the examples whose texts the tokenizer does not give back from these rows, in order.

    That is so of texts that hold the tokenizer's eos, and with tokenizers that normalize texts or
    lack a character. To decode takes a fraction of the time that it takes to encode.
    """
    if tokenizer.lossless:
        return []
    return [
        example.id
        for example, row in zip(examples, rows, strict=True)
        if tokenizer.decode(row.prompt.tolist()) != example.prompt
        or tokenizer.decode(row.completion.tolist()) != example.completion
    ]


def blocks(task: str, examples: Iterable[Example], first: int, rows: int = ROWS_PER_SHARD):
    """Blocks of a task, numbered from `first`; the last one may be shorter. Yields ShardRows."""
    found = iter(examples)
    for number in itertools.count(first):
        block = list(itertools.islice(found, rows))
        if not block:
            return
        yield ShardRows(number, task, block)


def write_shards(
    job: ShardJob, found: Iterable[ShardRows], workers: int, log: Callable[[str], None], title: str
) -> int:
    """Writes the shard of every block that has none yet; returns how many blocks there are.

    Blocks are read here and written by `workers` processes (0: one a core), or here where there is
    only one to be written. At most two blocks a worker are in memory.

    Raises:
      CacheError: a shard could not be written, or a process was killed. Whole shards stay.
    """
    count = kept = rows = 0
    began = shown = time.monotonic()

    def missing() -> Iterator[ShardRows]:
        nonlocal count, kept, rows, shown
        for block in found:
            count += 1
            rows += len(block.examples)
            if job.writer.has_shard(block.number):
                kept += 1
                continue
            if time.monotonic() - shown > _SECONDS:
                shown = time.monotonic()
                log(f"{title}: {rows} rows, {rows / (shown - began):.0f} rows/s")
            yield block

    to_write = missing()
    first = list(itertools.islice(to_write, 2))
    workers = workers or len(os.sched_getaffinity(0))
    if len(first) < 2 or workers == 1:  # a process takes seconds to start
        for block in itertools.chain(first, to_write):
            job.write(block)
    else:
        _write_in_processes(job, itertools.chain(first, to_write), workers)
    if kept:
        log(f"{title}: {kept} of {count} shards were there already")
    return count


def _write_in_processes(job: ShardJob, to_write: Iterable[ShardRows], workers: int) -> None:
    # A fork would copy the locks of threads that TensorFlow has started.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context)
    running: collections.deque[Future] = collections.deque()
    try:
        for block in to_write:
            running.append(pool.submit(job.write, block))
            while len(running) > workers:
                running.popleft().result()
        while running:
            running.popleft().result()
    except BrokenProcessPool:
        raise CacheError(
            "a process that wrote a shard has ended (killed, or out of memory?); the same command "
            "goes on from there, with fewer --config.data.workers if memory is short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
