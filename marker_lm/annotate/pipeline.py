"""Annotation of files: all rows are shown to the learners, then annotated shard by shard."""

import collections
import contextlib
import dataclasses
import itertools
import pickle
from collections.abc import Container, Iterator
from typing import Any

from etils import epath

from marker_lm.annotate.learning import FOUND, finish_learning, learned_job, merge_learners
from marker_lm.annotate.origin_counts import OriginCounts, asked_categories
from marker_lm.annotate.output import (
    FileProgress,
    OutputFolder,
    ShardState,
    ShardWriter,
)
from marker_lm.annotate.plan import Plan
from marker_lm.annotate.pool import map_blocks
from marker_lm.annotate.registry import METADATA
from marker_lm.annotate.work import FoundBefore, Job, Reject, Worker
from marker_lm.data.blocks import Block
from marker_lm.data.rejects import Rejects
from marker_lm.data.seen import SeenIds


def annotate_files(plan: Plan, folder: epath.PathLike) -> dict[str, Any]:
    """Annotates all rows into `folder` (see output.py) and returns the manifest.

    Killed at any time, the same call goes on with the first shard that is not whole, and writes the
    same bytes. Called again when all is done, it returns the manifest that is there.
    Raises SourceError for a damaged file, RejectShareError for too many bad rows, AnnotateError.
    """
    output = OutputFolder(folder, plan.key)
    if (manifest := output.manifest()) is not None:
        return manifest
    output.begin()
    job = learned_job(plan, output)
    _write_shards(plan, job, output)
    return finish(plan, job, output)


def _write_shards(plan: Plan, job: Job, output: OutputFolder) -> None:
    """Annotates the shards that are not there yet."""
    old = collections.deque(output.finished(job.output))
    done = set(old)
    seen = SeenIds()
    results = map_blocks(job, "annotate", _calls(plan, output, done), plan.workers)
    with (
        # Stops as soon as too many rows are bad.
        Rejects(output.path / "rejects.jsonl", plan.max_reject_share) as rejects,
        FileProgress("annotating", plan.files.values()) as progress,
    ):
        for shard, blocks in itertools.groupby(results, lambda one: plan.shard_of(one[0][0])):
            while old and old[0] < shard:
                state = output.state(old.popleft())
                seen.add(state.id_hash_N)
                count_rows(state, plan, rejects)
            with ShardWriter(output, shard, job) as writer:
                for (block, _), annotated in blocks:
                    writer.add(len(block), annotated, seen.add(annotated.id_hash_N))
                    progress.update(block, rejects.rows + writer.state.rows)
            count_rows(writer.state, plan, rejects)


def _calls(
    plan: Plan, output: OutputFolder, done: Container[str]
) -> Iterator[tuple[Block, FoundBefore]]:
    """The blocks of the shards that are not done, each with what was found in it on the way."""
    path = output.work / FOUND
    with path.open("rb") if path.exists() else contextlib.nullcontext() as found:
        for block in plan.read():
            before = pickle.load(found) if found else []
            if plan.shard_of(block) not in done:
                yield block, before


def finish(plan: Plan, job: Job, output: OutputFolder) -> dict[str, Any]:
    """Writes the rejects and the manifest from the states of all shards, which are whole.

    Raises RejectShareError: then there is no manifest.
    """
    tally, shards = OriginCounts(), []
    with Rejects(output.path / "rejects.jsonl", plan.max_reject_share) as rejects:
        for name in output.finished(job.output):
            state = output.state(name)
            count_rows(state, plan, rejects)
            tally.merge(state.tally)
            if state.bytes:
                file = f"{name}.{job.output}"
                shards.append({"file": file, "rows": state.tally.rows, "bytes": state.bytes})
    return output.finish(
        {
            "taxonomy": job.taxonomy.to_dict(),
            "taxonomy_hash": job.taxonomy.hash,
            "annotators": {c: [METADATA, *names] for c, names in job.names.items()},
            "inputs": list(plan.files.values()),
            "shards": shards,
            "rows": tally.rows,
            "rejects": rejects.summary(),
            "categories": tally.table(job.taxonomy, asked_categories(job.names)),
            "learned": _facts(job),
        }
    )


def count_rows(state: ShardState, plan: Plan, rejects: Rejects) -> None:
    """Counts a finished shard's rows; may raise RejectShareError."""
    path = list(plan.files.values())[state.file]
    rejects.accept(state.rows - len(state.rejects))
    rejects.left_out.update(state.left_out)
    rejects.untrusted.update(state.untrusted)
    for reject in state.rejects:
        rejects.reject(path, reject.number, reject.reason, reject.kind, reject.excerpt)


def _facts(job: Job) -> dict[str, Any]:
    """What the learned annotators say of what they have learned."""
    learned = {name: pickle.loads(data) for name, data in job.learned.items()}
    return {name: one.facts() for name, one in learned.items() if hasattr(one, "facts")}


def try_out(plan: Plan, rows: int) -> tuple[OriginCounts, list[bytes], list[Reject]]:
    """Annotates about the first `rows` rows in memory: counts, rows as JSON, rejects.

    Learners see these rows alone, repeated ids are not looked for, and nothing is written.
    """
    blocks, left = [], rows
    for block in plan.read(rows):
        blocks.append(block)
        left -= len(block)
        if left <= 0:
            break
    worker = Worker(dataclasses.replace(plan.job, output="jsonl"))
    learners: dict[str, Any] = {}
    for block in blocks:
        merge_learners(learners, worker.learn(block).learners)
    worker = Worker(finish_learning(worker.job, learners))
    tally, lines, rejects = OriginCounts(), [], []
    for block in blocks:
        done = worker.annotate(block)
        tally.merge(done.tally)
        lines += done.rows
        rejects += done.rejects
    return tally, lines, rejects
