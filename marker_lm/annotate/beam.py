"""The same annotation as an Apache Beam job, for what one machine cannot do.

Blocks of rows are the elements, and each is worked on by the very code of a local run:

    files -> blocks -> (hash of the id, row) -> rows whose id came before
                    -> learners of each block -> merged and finished     (where there are learners)
                    -> annotated -> grouped by shard -> written

What is written is equal, byte by byte, to what a local run writes. The input, the output and this
package must be there for the runner's workers. A worker holds one shard in memory.
"""

import dataclasses
import pickle
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from marker_lm.annotate.learning import (
    LEARNED,
    finish_learning,
    learned_job,
    merge_learners,
    merge_schema,
    with_schema,
)
from marker_lm.annotate.output import OutputFolder, ShardWriter
from marker_lm.annotate.pipeline import finish
from marker_lm.annotate.plan import Plan
from marker_lm.annotate.registry import AnnotateError
from marker_lm.annotate.work import Annotated, Job, Worker
from marker_lm.data.blocks import Block
from marker_lm.data.whole_files import write_whole

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.pvalue import AsList, AsSingleton
except ImportError:
    raise AnnotateError(
        "--beam needs Apache Beam; pip install 'marker-lm[beam]', or leave --beam out"
    ) from None

Place = tuple[str, int]  # short name of a file, number of the row


def annotate_with_beam(plan: Plan, folder: epath.PathLike, options: Sequence[str]) -> dict:
    """Runs the job, waits for it, and returns the manifest, as `annotate_files` does.

    options: Beam's own, such as '--runner=DataflowRunner'; the embedded DirectRunner without.
    Called again after a run that did not end, it does all again.
    """
    output = OutputFolder(folder, plan.key)
    if (manifest := output.manifest()) is not None:
        return manifest
    output.begin()
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        build(pipeline, plan, output)
    return finish(plan, learned_job(plan, output), output)


def build(pipeline: beam.Pipeline, plan: Plan, output: OutputFolder) -> None:
    """Adds the job to a pipeline."""
    blocks = (
        pipeline
        | "files" >> beam.Create(list(plan.files.items()))
        | "to any worker" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(lambda file: plan.read_file(*file))
        | "blocks to any worker" >> beam.Reshuffle()
    )
    repeated = AsList(
        blocks
        | "ids" >> beam.ParDo(_Ids(plan.job))
        | "by id" >> beam.GroupByKey()
        | "came before" >> beam.FlatMap(_all_but_first, list(plan.files))
    )
    if plan.learns:
        learned = blocks | "learn" >> beam.ParDo(_Learn(plan), repeated)
    else:
        learned = pipeline | "nothing to learn" >> beam.Create([])
    job = learned | "merge" >> beam.CombineGlobally(_Merge(plan))
    _ = job | "keep" >> beam.Map(lambda job: write_whole(output.work / LEARNED, job))
    _ = (
        blocks
        | "annotate" >> beam.ParDo(_Annotate(plan), AsSingleton(job))
        | "by shard" >> beam.GroupByKey()
        | "write" >> beam.ParDo(_Write(output), AsSingleton(job), repeated)
    )


def _all_but_first(places: tuple[bytes, Iterable[Place]], files: list[str]) -> list[Place]:
    """The rows that have an id which a row before them has."""
    return sorted(places[1], key=lambda place: (files.index(place[0]), place[1]))[1:]


class _Ids(beam.DoFn):
    """Block -> (hash of an id, where the row stands)."""

    def __init__(self, job: Job):
        self._job = job

    def setup(self):
        self._worker = Worker(dataclasses.replace(self._job, names={}))

    def process(self, block: Block) -> Iterator[tuple[bytes, Place]]:
        seen = self._worker.learn(block)
        for number, id_hash in zip(seen.places, seen.id_hash_N, strict=True):
            yield id_hash.tobytes(), (block.name, number)


class _Learn(beam.DoFn):
    """Block -> (place of the block, learners that have seen it, its rows' schema)."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def setup(self):
        self._worker = Worker(self._plan.job)

    def process(self, block: Block, repeated: list[Place]):
        skip = _by_file(repeated).get(block.name, set())
        seen = self._worker.learn(block, skip, self._plan.infers_schema)
        place = (list(self._plan.files).index(block.name), block.first)
        yield place, seen.learners, seen.schema


class _Merge(beam.CombineFn):
    """What `_Learn` gives of all blocks -> the pickled job that has learned from them."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def create_accumulator(self):
        return {}, {}

    def add_input(self, accumulator, one):
        learners, schemas = accumulator
        place, more, schema = one
        merge_learners(learners, more)
        schemas[schema] = min(place, schemas.get(schema, place))
        return accumulator

    def merge_accumulators(self, accumulators):
        learners, schemas = self.create_accumulator()
        for more, others in accumulators:
            merge_learners(learners, more)
            for schema, place in others.items():
                schemas[schema] = min(place, schemas.get(schema, place))
        return learners, schemas

    def extract_output(self, accumulator) -> bytes:
        learners, schemas = accumulator
        schema = b""
        for more in sorted(schemas, key=schemas.__getitem__):  # as a local run meets them
            schema = merge_schema(schema, more)
        job = finish_learning(self._plan.job, learners)
        return pickle.dumps(with_schema(self._plan, job, schema))


class _Annotate(beam.DoFn):
    """Block -> (shard, (rows before the block, its rows, what came of them))."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._worker: Worker | None = None

    def process(self, block: Block, job: bytes) -> Iterator[tuple[str, tuple]]:
        if self._worker is None:
            self._worker = Worker(pickle.loads(job))
        done = self._worker.annotate(block)
        yield self._plan.shard_of(block), (block.first, block.name, len(block), done)


class _Write(beam.DoFn):
    """(shard, its blocks) -> a file, written by the writer of local runs."""

    def __init__(self, output: OutputFolder):
        self._output = output

    def process(
        self, shard: tuple[str, Iterable[tuple]], job: bytes, repeated: list[Place]
    ) -> None:
        name, blocks = shard
        skip = _by_file(repeated)
        with ShardWriter(self._output, name, pickle.loads(job)) as writer:
            for _, file, rows, done in sorted(blocks, key=lambda one: one[0]):
                writer.add(rows, done, _is_first(done, skip.get(file, set())))


def _is_first(done: Annotated, skip: set[int]) -> np.ndarray:
    return np.asarray([number not in skip for number in done.numbers], bool)


def _by_file(places: Iterable[Place]) -> dict[str, set[int]]:
    numbers: dict[str, set[int]] = defaultdict(set)
    for name, number in places:
        numbers[name].add(number)
    return numbers
