"""Scores the answers to a benchmark's items: read from a file, or decoded by a model first."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from marker_lm.data.example import RowError
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.job import Job
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmarks.base import Answer, Benchmark, Item, Line, Row
from marker_lm.evaluation.benchmarks.records import read_records
from marker_lm.progress import Progress


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
      name: of the benchmark.
      settings: of the benchmark.
      lines: the table, all items first.
      rows: each item with each of its answers.
      skipped: reason -> answers, items without one, or rows of the data that have no score.
      notes: what a reader must know, a sentence each.
    """

    name: str
    settings: Mapping[str, Any]
    lines: Sequence[Line]
    rows: Sequence[Row]
    skipped: Mapping[str, int]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the rows; a number that can't be told is null."""
        return {
            "benchmark": self.name,
            "settings": dict(self.settings),
            "scored": sum(not row.skipped for row in self.rows),
            "skipped": dict(self.skipped),
            "lines": [
                {"group": line.group}
                | {
                    metric: {k: _null(v) for k, v in dataclasses.asdict(value).items()}
                    for metric, value in line.metrics.items()
                }
                for line in self.lines
            ],
            "notes": list(self.notes),
        }


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_items(
    benchmark: Benchmark, paths: Sequence[epath.PathLike]
) -> tuple[list[Item], list[str]]:
    """The items of the data files, and why other rows of them are none: 'place: reason'.

    Raises ValueError where there is no item at all.
    """
    items: list[Item] = []
    bad: list[str] = []
    records = benchmark.join([read_records(path) for path in paths])
    for number, (place, row) in enumerate(records):
        try:
            if isinstance(row, RowError):
                raise row
            id = next((row[f] for f in ("id", "key", "task_id") if row.get(f) is not None), number)
            items += benchmark.items(str(id), row)
        except RowError as error:
            bad.append(f"{place}: {error}")
    if not items:
        first = f"; the first of {len(bad)} bad rows: {bad[0]}" if bad else ""
        raise ValueError(f"no item for '{benchmark.name}' in {', '.join(map(str, paths))}{first}")
    return items, bad


def read_answers(
    items: Sequence[Item], path: epath.PathLike
) -> tuple[list[tuple[Item, Answer | None]], list[str]]:
    """Each item with each of its answers (None where it has none), and notes on those that fit no
    item.

    An answer belongs to the item with its `id`, else with its `prompt`; answers to prompts that
    several items share go to these in turn.
    """
    of: dict[tuple[str, str], list[int]] = {}
    for number, item in enumerate(items):
        of.setdefault(("id", item.id), []).append(number)
        of.setdefault(("prompt", item.prompt), []).append(number)
    turns: Counter = Counter()
    answers: list[list[Answer]] = [[] for _ in items]
    stray: list[str] = []
    for place, answer in read_records(path):
        if isinstance(answer, RowError):
            stray.append(f"{place}: {answer}")
            continue
        if answer.get("id") is not None:
            key = ("id", str(answer["id"]))
        else:
            key = ("prompt", answer.get("prompt", answer.get("instruction")))
        if key not in of:
            stray.append(f"{place}: no item has this {key[0]}")
            continue
        answers[of[key][turns[key] % len(of[key])]].append(answer)
        turns[key] += 1
    pairs = [(item, a) for item, own in zip(items, answers, strict=True) for a in own or [None]]
    notes = [f"{len(stray)} answers are not used; the first: {stray[0]}."] if stray else []
    if any(len(own) > 1 for own in answers):
        notes.append("Some items have several answers; intervals are over answers.")
    return pairs, notes


def decode(
    benchmark: Benchmark,
    engine: Engine,
    items: Sequence[Item],
    everywhere: Controls,
    sampling: Sampling,
    job: Job,
) -> None:
    """Gives the job a model's answer to each item that has none: {'error': reason} where the model
    refuses it.

    Markers that the benchmark pins go before those of `everywhere`.

    Args:
      job: open; the first item is its row 1.
    """
    controls = [
        dataclasses.replace(everywhere, pinned={**everywhere.pinned, **item.pins}) for item in items
    ]
    left = [row - 1 for row in job.left()]
    with Progress(f"decode {benchmark.name}", len(items), job.done) as progress:
        for start in range(0, len(left), engine.batch):
            chosen = left[start : start + engine.batch]
            refusals = {i: engine.refusal(items[i].prompt, controls[i]) for i in chosen}
            asked = [i for i in chosen if refusals[i] is None]
            found: Sequence[Answer] = []
            if asked:
                found = benchmark.answer(
                    engine, [items[i] for i in asked], [controls[i] for i in asked], sampling
                )
            answers = dict(zip(asked, found, strict=True))
            for i in chosen:
                head = {"id": items[i].id, "prompt": items[i].prompt}
                job.add(i + 1, head | dict(answers.get(i, {"error": refusals[i]})))
            progress.update(job.done)


def score_answers(
    benchmark: Benchmark,
    pairs: Sequence[tuple[Item, Answer | None]],
    bad: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Result:
    """Scores each pair of an item and its answer.

    Args:
      benchmark: with its settings.
      pairs: as `read_answers` gives them.
      bad: why rows of the data are no items; they are counted.
      notes: further ones for the result.
    """
    rows: list[Row | None] = [_unanswered(item, answer) for item, answer in pairs]
    asked = [i for i, row in enumerate(rows) if row is None]
    for i, found in zip(asked, benchmark.score([pairs[i] for i in asked]), strict=True):
        reason = str(found) if isinstance(found, ValueError) else ""
        rows[i] = Row(*pairs[i], {} if reason else found, reason)
    skipped = Counter(row.skipped for row in rows if row.skipped)
    if bad:
        skipped["the row of the data is bad"] += len(bad)
        notes = [*notes, f"The first of {len(bad)} bad rows of the data: {bad[0]}."]
    return Result(
        benchmark.name,
        dataclasses.asdict(benchmark),
        benchmark.lines(rows),
        rows,
        skipped,
        [*notes, *benchmark.notes(rows)],
    )


def _unanswered(item: Item, answer: Answer | None) -> Row | None:
    """The row of an item that was not answered; None where there is something to score."""
    if answer is None:
        return Row(item, None, skipped="there is no answer")
    if "error" in answer:
        return Row(item, answer, skipped=f"not answered: {answer['error']}")
    return None


def rows_jsonl(result: Result) -> Iterator[str]:
    """One JSON line a row, for other programs."""
    for row in result.rows:
        line = {"id": row.item.id, "prompt": row.item.prompt, "groups": list(row.item.groups)}
        line |= {"skipped": row.skipped} if row.skipped else {"scores": row.scores}
        yield json.dumps(line, ensure_ascii=False)
