"""What is done to one block of rows: the same in this process, in others, and on a Beam runner."""

import dataclasses
import datetime
import decimal
import json
import pickle
import uuid
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.annotate.annotator import Learner
from marker_lm.annotate.apply import annotate, annotated_row, learn, split_at_learners
from marker_lm.annotate.origin_counts import OriginCounts
from marker_lm.annotate.registry import make_steps
from marker_lm.data.blocks import Block
from marker_lm.data.example import Example, MarkerInfo, RowError, RowFormat
from marker_lm.data.sources import excerpt, parse_block
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy

_KNOWN = 10_000  # values of rows that are remembered as unknown to the taxonomy


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do, as plain values that any process can be sent.

    names: category -> annotators, from registry.choose
    sections: annotator -> its section of the config
    learned: annotator -> pickled annotator that its learner has become
    output: 'jsonl', 'jsonl.gz' or 'parquet'
    schema: of Parquet output, the serialized Arrow schema; b"" while it is not known
    """

    taxonomy: Taxonomy
    row_format: RowFormat
    names: Mapping[str, tuple[str, ...]]
    sections: Mapping[str, Mapping[str, Any]]
    output: str = "jsonl"
    max_line_bytes: int = 1_000_000
    learned: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    schema: bytes = b""


@dataclasses.dataclass(frozen=True)
class Reject:
    """A row that is not annotated."""

    number: int
    reason: str
    kind: str
    excerpt: str


@dataclasses.dataclass
class Annotated:
    """One block, annotated.

    numbers, id_hash_N: of the rows that are good in themselves
    is_written_N: bool, which of these have a row here; the markers of the others contradict
    rows: lines of bytes, or for Parquet one Arrow IPC stream in a list
    rejects, left_out, untrusted: what was wrong with others, see data.rejects.Rejects
    """

    numbers: list[int]
    id_hash_N: np.ndarray
    is_written_N: np.ndarray
    rows: list[bytes]
    tally: OriginCounts
    rejects: list[Reject]
    left_out: Counter[str]
    untrusted: Counter[str]


# Of each row that is good in itself: category -> its marker and where that comes from.
FoundBefore = list[dict[str, tuple[Any, MarkerInfo]]]


@dataclasses.dataclass
class Seen:
    """What the learners' pass gives of one block.

    places: number of the row of each hash in id_hash_N
    learners: annotator -> Learner that has seen the block's rows
    schema: the serialized Arrow schema of the block's rows; b"" unless one is asked for
    found: markers that the learners needed to see, for `Worker.annotate`; [] where they need none
    """

    places: list[int]
    id_hash_N: np.ndarray
    learners: dict[str, Learner]
    schema: bytes
    found: FoundBefore


class Worker:
    """Does a job block by block. Its annotators are made once."""

    def __init__(self, job: Job):
        self.job = job
        self.steps = make_steps(job.names, job.sections, job.taxonomy)
        self.before, self.learners = split_at_learners(self.steps, job.taxonomy)
        # A learner is made with what it needs; a block starts from a copy without rows.
        self._blank = {step.name: pickle.dumps(step.annotator) for step in self.learners}
        for step in self.steps:
            if step.name in job.learned:
                step.annotator = pickle.loads(job.learned[step.name])
        self._unknown: set[str] = set()

    def learn(self, block: Block, skip: Container[int] = (), schema: bool = False) -> Seen:
        """Shows the rows of a block to learners, without those whose number is in `skip`."""
        parsed, _, _ = self._parse(block)
        good = [(number, row, e) for number, row, e in parsed if isinstance(e, Example)]
        new = [one for one in good if one[0] not in skip]
        learners = {name: pickle.loads(blank) for name, blank in self._blank.items()}
        if learners:
            examples = [example for _, _, example in new]
            errors = annotate(examples, self.before, self.job.taxonomy)
            fine = [e for e, error in zip(examples, errors, strict=True) if error is None]
            learn(fine, learners.values())
        hashes = hash_ids([example.id for _, _, example in good])
        columns = b""
        if schema:
            from marker_lm.annotate.columns import infer_schema

            columns = infer_schema([row for _, row, _ in new])
        before = [self._found(example) for _, _, example in good] if self.before else []
        return Seen([number for number, _, _ in good], hashes, learners, columns, before)

    def _found(self, example: Example) -> dict[str, tuple[Any, MarkerInfo]]:
        """The markers that the steps before the learners gave to an example."""
        wanted = ((s.name, c) for s in self.before for c in s.categories)
        given = example.marker_info
        return {
            c: (example.markers[c], given[c])
            for name, c in wanted
            if c in given and given[c].origin == name
        }

    def annotate(self, block: Block, before: FoundBefore | tuple = ()) -> Annotated:
        """Annotates the rows of a block; repeated ids are left to who has seen the other blocks.

        before: what `learn` found in this block, so that it is not looked for again.
        """
        parsed, left_out, untrusted = self._parse(block)
        examples = [e for _, _, e in parsed if isinstance(e, Example)]
        for example, found in zip(examples, before or [{}] * len(examples), strict=True):
            for category, (value, info) in found.items():
                example.markers.setdefault(category, value)
                example.marker_info.setdefault(category, info)
        errors = iter(annotate(examples, self.steps, self.job.taxonomy))
        rows, rejects, numbers, is_written, tally = [], [], [], [], OriginCounts()
        for number, row, example in parsed:
            error = example if isinstance(example, RowError) else next(errors)
            if isinstance(example, Example):
                numbers.append(number)
                try:
                    if error is None:
                        rows.append(self._encode(row, example))
                        tally.add(example.marker_info)
                except RowError as cannot_write:
                    error = cannot_write
                is_written.append(error is None)
            if error is not None:
                text = error.excerpt or excerpt(row)
                rejects.append(Reject(number, str(error), error.kind, text))
        return Annotated(
            numbers,
            hash_ids([example.id for example in examples]),
            np.asarray(is_written, bool),
            rows if self.job.output != "parquet" else [self._table(rows)],
            tally,
            rejects,
            left_out,
            untrusted,
        )

    def close(self) -> None:
        """Closes what annotators have open, such as connections."""
        for step in self.steps:
            if hasattr(step.annotator, "close"):
                step.annotator.close()

    def _parse(self, block: Block) -> tuple[list, Counter[str], Counter[str]]:
        # Why a value is unknown takes long to say; what is in the counter is not asked again.
        left_out = Counter(dict.fromkeys(self._unknown, 0))
        untrusted: Counter[str] = Counter()
        job = self.job
        parsed = parse_block(
            block, job.taxonomy, job.row_format, job.max_line_bytes, left_out, untrusted
        )
        left_out = +left_out
        if len(self._unknown) < _KNOWN:
            self._unknown.update(left_out)
        return [(number, row, _of_one_answer(e)) for number, row, e in parsed], left_out, untrusted

    def _encode(self, row: dict[str, Any], example: Example) -> Any:
        whole = annotated_row(row, example, self.job.row_format)
        return whole if self.job.output == "parquet" else encode_line(whole)

    def _table(self, rows: Sequence[dict[str, Any]]) -> bytes:
        from marker_lm.annotate.columns import encode_table

        return encode_table(rows, self.job.schema)


def _of_one_answer(example: Example | RowError) -> Example | RowError:
    """Refuses a conversation of several answers: what is found in one would be said of all."""
    if isinstance(example, RowError):
        return example
    answers = sum(message["role"] == "assistant" for message in example.messages)
    if answers < 2:
        return example
    return RowError(
        f"the row has {answers} answers, and markers are found for one; annotate each answer as a "
        "row of its own, then write its markers into its message",
        "several answers",
    )


def encode_line(row: Mapping[str, Any]) -> bytes:
    """A row as one line of JSON in UTF-8.

    Dates and times of Parquet are written by ISO 8601, decimals and UUIDs as text. Raises RowError
    for what JSON has no form for, such as bytes.
    """
    try:
        text = json.dumps(row, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise RowError(
            f"the row cannot be written as JSON ({error}); write Parquet or leave the field out",
            "no JSON",
        ) from None
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # a lone surrogate came as an escape and leaves as one
        return json.dumps(row, default=_plain).encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    raise TypeError(f"a field holds {type(value).__name__}")
