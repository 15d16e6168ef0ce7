"""Examples to the shards of a cache, through SeqIO, in one process or in several."""

import dataclasses
import functools
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from marker_lm.data.cache import CacheError
from marker_lm.data.cache_writer import ROWS_PER_SHARD, CacheWriter
from marker_lm.data.chat import Chat, mark_conversations
from marker_lm.data.example import Example
from marker_lm.data.marker_counts import count_markers
from marker_lm.data.processes import count_workers, map_in_processes
from marker_lm.data.spans import Spans
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import Taxonomy

_SECONDS = 10.0  # between two lines of progress
_being_written: dict[str, Sequence[Example]] = {}  # task -> its rows
_opened: dict[str, tuple[Any, Iterable[Spans]]] = {}  # task -> what it was made with, its spans
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
        with _registry:
            _being_written[block.task] = block.examples
            try:
                rows = list(self._spans(block.task))
            finally:
                del _being_written[block.task]
        if self.chat is not None:
            turns = [example.turns for example in block.examples]
            mark_conversations(self.chat, self.tokenizer, turns, rows)
        changed = changed_rows(self.tokenizer, self.chat, block.examples, rows)
        answers = [turn for example in block.examples for turn in example.turns or [example]]
        seen = count_markers((answer.markers for answer in answers), self.taxonomy)
        self.writer.write_shard(block.number, rows, changed, seen)

    def _spans(self, task: str) -> Iterable[Spans]:
        """The spans of the rows that are being written, at every pass.

        TensorFlow never lets go of a function that it was given: none of them holds rows, and a
        process makes those of a task once and not for each block.
        """
        from marker_lm.data.tasks import spans

        made_with = self.taxonomy.hash, self.template, self.tokenizer.hash
        if task not in _opened or _opened[task][0] != made_with:
            self.register(task)
            _opened[task] = made_with, spans(task)
        return _opened[task][1]


def changed_rows(
    tokenizer: Tokenizer, chat: Chat | None, examples: Sequence[Example], rows: Sequence[Spans]
) -> list[str]:
    """Ids of the rows whose texts the tokenizer does not give back, in order.

    That is so of texts that hold the tokenizer's eos, and with tokenizers that normalize texts or
    lack a character. To decode takes a fraction of the time that it takes to encode. Of a chat's
    prompt only what is not a special token is compared: decoding leaves some of those out.
    """
    if tokenizer.lossless:
        return []
    if chat is None:
        texts = [(example.prompt, example.completion) for example in examples]
    else:
        texts = [(turn.prompt, turn.completion) for one in examples for turn in one.turns]
    special = re.compile("|".join(map(re.escape, chat.special.values())) if chat else "(?!)")
    return [
        row.id
        for (prompt, completion), row in zip(texts, rows, strict=True)
        if special.sub("", tokenizer.decode(row.prompt.tolist())) != special.sub("", prompt)
        or tokenizer.decode(row.completion.tolist()) != completion
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
    workers = count_workers(workers)
    if len(first) < 2 or workers == 1:  # a process takes seconds to start
        for block in itertools.chain(first, to_write):
            job.write(block)
    else:
        _write_in_processes(job, itertools.chain(first, to_write), workers)
    if kept:
        log(f"{title}: {kept} of {count} shards were there already")
    return count


def _write_in_processes(job: ShardJob, to_write: Iterable[ShardRows], workers: int) -> None:
    lost = CacheError(
        "a process that wrote a shard has ended (killed, or out of memory?); the same command "
        "goes on from there, with fewer --config.data.workers if memory is short"
    )
    make = functools.partial(getattr, job, "write")
    calls = ((block,) for block in to_write)
    for _ in map_in_processes(make, calls, workers, ahead=1, lost=lost):
        pass
