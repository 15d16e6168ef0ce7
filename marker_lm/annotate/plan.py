"""What a config of annotation asks for, checked as far as that goes without reading rows."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from marker_lm.annotate.output import FORMATS, shard_name, sizes
from marker_lm.annotate.registry import MODULES, ONE_PROCESS, AnnotateError, choose
from marker_lm.annotate.work import Job, Worker
from marker_lm.data.blocks import Block, is_parquet, read_blocks
from marker_lm.data.example import RowFormat
from marker_lm.data.processes import count_workers
from marker_lm.data.sources import find_files
from marker_lm.markers.category import mend
from marker_lm.markers.taxonomy import load_taxonomy

BLOCK_ROWS = 512  # that a worker gets at once
_NOT_IN_KEY = ("workers",)  # settings that change nothing in what is written


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do.

    files: short name -> path, in order
    shard_rows: input rows of a shard of the output
    workers: processes
    learns: whether all rows must be seen once before one is annotated
    infers_schema: whether the columns of the output are not known before that
    key: hash of all that the rows written depend on
    notes: what the annotators say that a user should know, a sentence each
    """

    job: Job
    files: Mapping[str, str]
    shard_rows: int
    max_reject_share: float
    workers: int
    learns: bool
    infers_schema: bool
    key: str
    notes: tuple[str, ...]

    def read(self, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """All rows, in input order, in blocks that lie within one shard."""
        for name, path in self.files.items():
            yield from self.read_file(name, path, block_rows)

    def read_file(self, name: str, path: str, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """The rows of one file."""
        return read_blocks(name, path, self.job.max_line_bytes, block_rows, self.shard_rows)

    def shard_of(self, block: Block) -> str:
        """Name of the shard of the output that a block belongs to."""
        return shard_name(list(self.files).index(block.name), block.first // self.shard_rows)


def make_plan(config: ConfigDict) -> Plan:
    """Checks a config (see configs/annotate.py) as far as that goes without reading rows.

    Raises ValueErrors of one sentence: SourceError for the files, MarkerError for the taxonomy and
    categories, AnnotateError for annotators and settings.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    row_format = RowFormat.from_config(config.rows)
    row_format.check(taxonomy)
    files = {name: os.fspath(path) for name, path in find_files(config.files).items()}
    if config.output not in FORMATS:
        raise AnnotateError(f"output is {config.output!r}; {mend(config.output, FORMATS)}")
    if config.shard_rows < 1:
        raise AnnotateError(f"shard_rows is {config.shard_rows}; give the rows of a shard")
    plain = config.to_dict()
    names = choose(taxonomy, plain["annotators"])
    sections = {name: plain.get(name, {}) for name in MODULES}
    job = Job(taxonomy, row_format, names, sections, config.output, config.max_line_bytes)
    worker = Worker(job)  # makes the annotators, which check their sections
    infers = config.output == "parquet" and not all(map(is_parquet, files.values()))
    used = {step.name for step in worker.steps}
    workers = 1 if used & set(ONE_PROCESS) else count_workers(config.workers)
    about = {key: value for key, value in plain.items() if key not in _NOT_IN_KEY}
    parts = [about, taxonomy.hash, sizes(files.values())]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    made = {step.name: step.annotator for step in worker.steps}
    notes = [note for one in made.values() for note in getattr(one, "notes", ())]
    return Plan(
        job,
        files,
        config.shard_rows,
        config.max_reject_share,
        workers,
        bool(worker.learners) or infers,
        infers,
        key,
        tuple(notes),
    )
