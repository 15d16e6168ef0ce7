"""What a benchmark is: items of a public data file, scores of an answer, a table."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from marker_lm.data.example import RowError
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmarks.records import Record
from marker_lm.evaluation.statistics import Interval, mean_interval

# A line of `marker-lm decode` or `marker-lm score`: text, markers, probability, nats, tokens, ...
Answer = Mapping[str, Any]
Scores = Mapping[str, Any]  # metric -> number, and whatever else the benchmark's table needs
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing to answer.

    Attributes:
      id: of the row, or its number where it has none.
      prompt: text.
      facts: what a score needs: references, limits, constraints.
      groups: names of the lines of the table that it counts in, besides 'all'.
      pins: markers that the benchmark itself pins when the answer is decoded.
      answer: an answer that stands in the data file itself.
    """

    id: str
    prompt: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    groups: Sequence[str] = ()
    pins: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    answer: Answer | None = None


class Skip(ValueError):
    """Why an answer has no score. Skipped answers are counted under this text."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A scored answer, or one that was skipped for a reason."""

    item: Item
    answer: Answer | None
    scores: Scores = dataclasses.field(default_factory=dict)
    skipped: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table; `n` of each interval says how many answers or items are behind it."""

    group: str
    metrics: Mapping[str, Interval]


class Benchmark(abc.ABC):
    """A benchmark; subclasses are frozen dataclasses whose fields are its settings.

    Attributes:
      name: in the registry.
      percent: metrics that are shares, shown as percent.
    """

    name: ClassVar[str]
    percent: ClassVar[Sequence[str]] = ()

    def join(self, files: Sequence[Iterator[Record]]) -> Iterator[Record]:
        """The rows of the data files, one after the other."""
        for records in files:
            yield from records

    @abc.abstractmethod
    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        """The items of one row. Raises RowError for a row that can't be used."""

    def score_one(self, item: Item, answer: Answer) -> Scores:
        """Raises Skip for an answer that has no score.

        A benchmark has this, or a `score` of its own that looks at all answers together.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither score_one nor score")

    def score(self, pairs: Sequence[tuple[Item, Answer]]) -> list[Scores | Skip]:
        """The scores of answers, in order."""
        found: list[Scores | Skip] = []
        for item, answer in pairs:
            try:
                found.append(self.score_one(item, answer))
            except Skip as skip:
                found.append(skip)
        return found

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        """The table: each metric's mean over all answers that have it, then for each group."""
        return [
            Line(group, means([row.scores for row in chosen]))
            for group, chosen in by_group(rows).items()
        ]

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        """What a reader must know to read the figures rightly, a sentence each."""
        return ()

    def warnings(self, taxonomy, pinned: Mapping[str, Any]) -> Iterable[str]:
        """What is likely to be wrong about what was pinned, categories with one of their values;
        `taxonomy` is None where answers came from a file alone."""
        return ()

    def answer(
        self,
        engine: Engine,
        items: Sequence[Item],
        controls: Sequence[Controls],
        sampling: Sampling,
    ) -> list[Answer]:
        """Answers of a model to at most a batch of items that it does not refuse."""
        prompts = [item.prompt for item in items]
        return [result.to_dict() for result in engine.generate(prompts, controls, sampling)]


def by_group(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Scored rows under 'all' and under each of their groups, groups in order of their names."""
    scored = [row for row in rows if not row.skipped]
    groups: dict[str, list[Row]] = {}
    for row in scored:
        for group in row.item.groups:
            groups.setdefault(group, []).append(row)
    return {ALL: scored, **dict(sorted(groups.items()))}


def means(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Mean and interval of every metric that is a number, over the scores that have it."""
    metrics = {m: None for one in scores for m, v in one.items() if isinstance(v, int | float)}
    return {
        metric: mean_interval([float(one[metric]) for one in scores if metric in one])
        for metric in metrics
    }


def text_of(answer: Answer) -> str:
    """The text of an answer, under any of the names that public outputs use."""
    for field in ("text", "completion", "output", "response"):
        if isinstance(answer.get(field), str):
            return answer[field]
    raise Skip("the answer has no text")


def prompt_of(row: Mapping[str, Any]) -> str:
    """`prompt` of a row, or its `instruction` and, after a blank line, its `input`."""
    if isinstance(row.get("prompt"), str):
        return row["prompt"]
    parts = [row.get("instruction"), row.get("input")]
    if not isinstance(parts[0], str):
        raise RowError("the row has no text 'prompt' or 'instruction'", "missing field")
    return "\n\n".join(part for part in parts if part)


def references_of(row: Mapping[str, Any]) -> list[str]:
    """The reference answers of a row: `references` or `refs` (lists), or a single one under
    `reference`, `completion`, `target` or `output`. Empty ones are none."""
    found: list[Any] = []
    for field in ("references", "refs", "reference", "completion", "target", "output"):
        value = row.get(field)
        found += value if isinstance(value, list) else [] if value is None else [value]
    kept = list(dict.fromkeys(one for one in found if isinstance(one, str) and one.strip()))
    if not kept:
        raise RowError("the row has no reference answer", "no reference")
    return kept
