"""The shards of a cache as an Apache Beam job, for what one machine cannot do.

Blocks of rows are the elements, and a shard is written by the very code of a local run:

    files -> blocks -> (hash of the id, row) -> rows whose id came before
                    -> examples of each block, and how many there are before it
                    -> grouped by shard -> tokenized and written

What is written is equal, byte by byte, to what a local run writes. Rows, cache and this package
must be there for the runner's workers. A worker holds one shard in memory.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from marker_lm.data.blocks import Block, read_blocks
from marker_lm.data.example import Example, RowError, RowFormat
from marker_lm.data.inputs import in_share
from marker_lm.data.rejects import Rejects
from marker_lm.data.setup import SetupError
from marker_lm.data.shards import ShardJob, ShardRows
from marker_lm.data.sources import find_files, parse_block, repeated_id
from marker_lm.markers.dropout import hash_ids

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.pvalue import AsList, AsSingleton
except ImportError:
    raise SetupError(
        "--beam needs Apache Beam; pip install 'marker-lm[beam]', or leave --beam out"
    ) from None

Place = tuple[int, int, int]  # number of the task, of its file, rows of the file before the block


@dataclasses.dataclass(frozen=True)
class BeamJob:
    """What the workers need, as plain values.

    files: of each task, (short name, path) of each file
    rows: of a shard
    """

    shards: ShardJob
    tasks: tuple[str, ...]
    files: tuple[tuple[tuple[str, str], ...], ...]
    row_format: RowFormat
    max_line_bytes: int
    share: float
    rows: int

    def read(self, task: int, file: int) -> Iterator[tuple[Place, Block]]:
        """The blocks of one file."""
        for block in read_blocks(*self.files[task][file], self.max_line_bytes):
            yield (task, file, block.first), block

    def parse(self, block: Block, *counters: Counter) -> list[tuple[int, Any, Example | RowError]]:
        """The rows of one block, as `parse_block` gives them."""
        taxonomy = self.shards.taxonomy
        counters = counters or (None, None)
        chat = self.shards.chat
        return parse_block(block, taxonomy, self.row_format, self.max_line_bytes, *counters, chat)


def write_shards_with_beam(
    job: ShardJob,
    config: ConfigDict,
    split: str,
    rejects: Rejects,
    rows: int,
    options: Sequence[str],
) -> tuple[int, dict[str, int]]:
    """Writes all shards of a split; what `shards.write_shards` does, by a Beam runner.

    Args:
      rejects: is told of the rows that are left out, when the job has ended.
      rows: of a shard.
      options: Beam's own, such as '--runner=DataflowRunner'; the embedded DirectRunner without.

    Returns:
      How many shards there are, and the rows of each task.
    """
    names = [name for name, task in config.data.tasks.items() if task[split]]
    for name in names:
        if config.data.tasks[name].get("tfds"):
            raise SetupError(
                f"data.tasks.{name} is of TFDS; --beam reads files, leave it out here."
            )
    files = [find_files(config.data.tasks[name][split]) for name in names]
    row_format = RowFormat.from_config(config.data.rows)
    row_format.check(job.taxonomy)
    beam_job = BeamJob(
        job,
        tuple(names),
        tuple(tuple((n, os.fspath(path)) for n, path in found.items()) for found in files),
        row_format,
        config.data.max_line_bytes,
        config.data.share,
        rows,
    )
    work = job.writer.work
    work.mkdir(parents=True, exist_ok=True)
    for path in work.glob("facts*"):  # of a job that did not end
        path.unlink()
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        build(pipeline, beam_job)
    facts = [json.loads(line) for p in work.glob("facts*") for line in p.read_text().splitlines()]
    facts.sort(key=lambda fact: fact["place"])
    replay(facts, beam_job, rejects)
    counts = dict.fromkeys(names, 0)
    for fact in facts:
        counts[names[fact["place"][0]]] += fact["kept"]
    return sum(-(-count // rows) for count in counts.values()), counts


def build(pipeline: beam.Pipeline, job: BeamJob) -> None:
    """Adds the job to a pipeline."""
    files = [(task, file) for task, found in enumerate(job.files) for file in range(len(found))]
    blocks = (
        pipeline
        | "files" >> beam.Create(files)
        | "to any worker" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(lambda file: job.read(*file))
        | "blocks to any worker" >> beam.Reshuffle()
    )
    repeated = AsList(
        blocks
        | "ids" >> beam.FlatMap(_ids, job)
        | "by id" >> beam.GroupByKey()
        | "came before" >> beam.FlatMap(lambda rows: sorted(rows[1])[1:])
    )
    parsed = blocks | "parse" >> beam.FlatMap(_parse, job, repeated).with_outputs(
        "facts", main="examples"
    )
    where = (
        parsed.examples
        | "count" >> beam.Map(lambda block: (block[0], len(block[1])))
        | "all counts" >> beam.combiners.ToList()
        | "number" >> beam.Map(number_rows, job.rows)
    )
    _ = (
        parsed.examples
        | "cut" >> beam.FlatMap(_cut, AsSingleton(where), job.rows)
        | "by shard" >> beam.GroupByKey()
        | "write" >> beam.Map(_write, job)
    )
    _ = parsed.facts | "keep facts" >> beam.io.WriteToText(
        os.fspath(job.shards.writer.work / "facts"), file_name_suffix=".jsonl"
    )


def _ids(placed: tuple[Place, Block], job: BeamJob):
    """Block -> ((task, hash of an id), (place of the block, number of the row))."""
    place, block = placed
    good = [(number, e.id) for number, _, e in job.parse(block) if isinstance(e, Example)]
    hashes = hash_ids([name for _, name in good])
    for (number, _), id_hash in zip(good, hashes.tolist(), strict=True):
        yield (place[0], id_hash), (place, number)


def _parse(placed: tuple[Place, Block], job: BeamJob, repeated: list[tuple[Place, int]]):
    """Block -> (place, its examples); and, tagged, a line of JSON on what was left out."""
    place, block = placed
    again = {number for where, number in repeated if where == place}
    left_out: Counter[str] = Counter()
    untrusted: Counter[str] = Counter()
    kept, accepted, rejected = [], 0, []
    for number, row, example in job.parse(block, left_out, untrusted):
        error = example if isinstance(example, RowError) else None
        if error is None and number in again:
            error = repeated_id(example.id, row)
        if error is not None:
            rejected.append([number, str(error), error.kind, error.excerpt])
            continue
        accepted += 1
        if in_share(example.id, job.share):
            kept.append(example)
    yield place, kept
    facts = {
        "place": place,
        "kept": len(kept),
        "accepted": accepted,
        "rejected": rejected,
        "left_out": left_out,
        "untrusted": untrusted,
    }
    yield beam.pvalue.TaggedOutput("facts", json.dumps(facts))


def number_rows(counts: Iterable[tuple[Place, int]], rows: int) -> dict[Place, tuple[int, int]]:
    """Block -> (number of its task's first shard, examples of the task before the block)."""
    found: dict[Place, tuple[int, int]] = {}
    first, task, before = 0, 0, 0
    for place, count in sorted(counts):
        if place[0] != task:
            first, task, before = first + -(-before // rows), place[0], 0
        found[tuple(place)] = (first, before)
        before += count
    return found


def _cut(
    placed: tuple[Place, list[Example]], where: Mapping[Place, tuple[int, int]], rows: int
) -> Iterator[tuple[tuple[int, int], tuple[int, list[Example]]]]:
    """Examples of a block -> ((task, shard), (examples of the task before these, these))."""
    place, examples = placed
    first, before = where[tuple(place)]
    shard_E = (before + np.arange(len(examples))) // rows
    for shard in np.unique(shard_E).tolist():
        at = np.flatnonzero(shard_E == shard)
        yield (place[0], first + shard), (before + int(at[0]), examples[at[0] : at[-1] + 1])


def _write(
    shard: tuple[tuple[int, int], Iterable[tuple[int, list[Example]]]], job: BeamJob
) -> None:
    (task, number), pieces = shard
    if not job.shards.writer.has_shard(number):
        examples = [e for _, some in sorted(pieces, key=lambda one: one[0]) for e in some]
        job.shards.write(ShardRows(number, job.tasks[task], examples))


def replay(facts: Sequence[Mapping[str, Any]], job: BeamJob, rejects: Rejects) -> None:
    """Tells `rejects` what the workers found, in the order of the rows."""
    for fact in facts:
        task, file, _ = fact["place"]
        rejects.accept(fact["accepted"])
        rejects.left_out.update(fact["left_out"])
        rejects.untrusted.update(fact["untrusted"])
        for number, reason, kind, excerpt in fact["rejected"]:
            rejects.reject(job.files[task][file][1], number, reason, kind, excerpt)
