"""The first pass: all rows are shown to the learners, and the columns of Parquet output found."""

import dataclasses
import pickle
from collections.abc import Mapping

from marker_lm.annotate.annotator import Learner
from marker_lm.annotate.output import FileProgress, OutputFolder
from marker_lm.annotate.plan import Plan
from marker_lm.annotate.pool import map_blocks
from marker_lm.annotate.registry import AnnotateError
from marker_lm.annotate.work import Job
from marker_lm.data.seen import SeenIds
from marker_lm.data.whole_files import write_whole

# In the working folder: the job after this pass, and what it found of each block on its way.
LEARNED = "learned.pickle"
FOUND = "found.pickle"


def learned_job(plan: Plan, output: OutputFolder) -> Job:
    """The job with what its learners have become and the schema of its output."""
    path = output.work / LEARNED
    if path.exists():
        try:
            return pickle.loads(path.read_bytes())
        except (pickle.UnpicklingError, EOFError, AttributeError, ValueError) as error:
            raise AnnotateError(f"{path} is damaged ({error}); remove it") from None
    learners, schema = {}, b""
    if plan.learns:
        learners, schema = _learn(plan, output)
    job = with_schema(plan, finish_learning(plan.job, learners), schema)
    write_whole(path, pickle.dumps(job))
    return job


def finish_learning(job: Job, learners: Mapping[str, Learner]) -> Job:
    """The job with what the learners have become after all rows."""
    learned = {name: pickle.dumps(learner.finish()) for name, learner in learners.items()}
    return dataclasses.replace(job, learned=learned)


def with_schema(plan: Plan, job: Job, inferred: bytes) -> Job:
    """The job with the columns of its output, where it is Parquet.

    inferred: serialized Arrow schema of the input rows; not looked at where the files have one.
    """
    if job.output != "parquet":
        return job
    from marker_lm.annotate.columns import merge_schemas, output_schema, parquet_schema

    if not plan.infers_schema:
        inferred = merge_schemas(map(parquet_schema, plan.files.values()))
    return dataclasses.replace(job, schema=output_schema(inferred, job.taxonomy))


def merge_learners(learners: dict[str, Learner], more: Mapping[str, Learner]) -> None:
    """Merges what others have seen into `learners`, in place."""
    for name, learner in more.items():
        if name in learners:
            learners[name].merge(learner)
        else:
            learners[name] = learner


def merge_schema(schema: bytes, more: bytes) -> bytes:
    """The schema of rows of either; b"" is that of no rows."""
    if not more or more == schema:
        return schema
    from marker_lm.annotate.columns import merge_schemas

    return merge_schemas([schema, more] if schema else [more])


def _learn(plan: Plan, output: OutputFolder) -> tuple[dict[str, Learner], bytes]:
    """The learners after all rows but those with repeated ids, and the rows' Arrow schema."""
    skip: dict[str, set[int]] = {}
    while True:
        learners: dict[str, Learner] = {}
        schema, found_repeated = b"", False
        seen_ids = SeenIds()
        calls = ((b, skip.get(b.name, ()), plan.infers_schema) for b in plan.read())
        with (
            (output.work / FOUND).open("wb") as found,
            FileProgress("learning from all rows", plan.files.values()) as progress,
        ):
            for (block, *_), seen in map_blocks(plan.job, "learn", calls, plan.workers):
                is_first = seen_ids.add(seen.id_hash_N)
                repeated = {n for n, first in zip(seen.places, is_first, strict=True) if not first}
                found_repeated |= not repeated <= set(skip.get(block.name, ()))
                if repeated:
                    skip.setdefault(block.name, set()).update(repeated)
                merge_learners(learners, seen.learners)
                schema = merge_schema(schema, seen.schema)
                pickle.dump(seen.found, found)
                progress.update(block, len(seen_ids))
        # A block cannot know that an id came in another: it is seen again without its repeated
        # rows. Data without repeated ids, the rule, is read once.
        if not found_repeated:
            return learners, schema
