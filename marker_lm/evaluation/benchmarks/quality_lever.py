"""The quality lever: does an answer get better with the bucket that was pinned?"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marker_lm.evaluation.benchmarks.base import (
    ALL,
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Scores,
    Skip,
    by_group,
    means,
    prompt_of,
    text_of,
)
from marker_lm.evaluation.benchmarks.judge import ask_judge, same_model, why_none
from marker_lm.evaluation.statistics import Interval, paired_difference
from marker_lm.markers.taxonomy import MarkerError

_QUESTION = """\
Grade the answer to the request below: how helpful, correct and complete is it, in the language \
and form that were asked for? 1 is useless, 10 could not be better. Length by itself is no merit.

[Request]
{prompt}

[Answer]
{text}

End with one line: Grade: <whole number from 1 to 10>"""
_GRADE = r"(?i)grade\W*(10|[1-9])(?![0-9.])"


@dataclasses.dataclass(frozen=True)
class QualityLever(Benchmark):
    """Answers under each quality bucket, graded from 1 to 10 by a model that is not the tagger.

    A row has a prompt or instruction. Each is answered once for every value of the category,
    pinned; the table has the mean grade of each value, and `best_minus_worst`: the first value's
    grade minus the last one's, paired by prompt. A judge that also gave the training data its
    quality tags measures obedience to itself, so the tagger has to be named, and is refused as a
    judge.

    endpoint: of the judge, as in configs/annotate.py: endpoint.url, endpoint.model, ...
    tagger: url and model that gave the data its quality; tagger.model=none where no model did
    category: the lever
    values: of the lever, the best first
    max_tokens: of a judge's answer
    """

    endpoint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tagger: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    category: str = "quality_bucket"
    values: tuple = ("1", "2", "3", "4")
    max_tokens: int = 512

    name = "quality_lever"

    def __post_init__(self):
        if not self.tagger.get("model"):
            raise ValueError(
                "quality_lever: name the model that gave the data its quality, as tagger.url and "
                "tagger.model; tagger.model=none where no model did"
            )
        if same_model(self.endpoint, self.tagger):
            raise ValueError(
                f"quality_lever: {self.endpoint.get('model')} at {self.endpoint.get('url')} gave "
                "the data its quality, so it can't judge the lever; name another judge as "
                "endpoint.model"
            )
        if len(self.values) < 2:
            raise ValueError(f"quality_lever: values is {self.values!r}; give two or more")

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        for value in map(str, self.values):
            yield Item(
                f"{id}#{value}",
                prompt_of(row),
                {"of": id, "value": value},
                groups=(f"{self.category}={value}",),
                pins={self.category: value},
            )

    def score(self, pairs: Sequence[tuple[Item, Answer]]) -> list[Scores | Skip]:
        found: list[Scores | Skip] = []
        questions: dict[int, str] = {}
        for i, (item, answer) in enumerate(pairs):
            try:
                questions[i] = _QUESTION.format(prompt=item.prompt, text=text_of(answer))
                found.append({})
            except Skip as skip:
                found.append(skip)
        grades = ask_judge(self.endpoint, list(questions.values()), _GRADE, self.max_tokens)
        for i, grade in zip(questions, grades, strict=True):
            reason = why_none(grade)
            found[i] = Skip(reason) if reason else {"grade": float(grade)}
        return found

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        groups = by_group(rows)
        names = [f"{self.category}={value}" for value in self.values]
        lines = [Line(n, means([row.scores for row in groups[n]])) for n in names if n in groups]
        first, last = (
            {row.item.facts["of"]: row.scores["grade"] for row in groups.get(name, ())}
            for name in (names[0], names[-1])
        )
        both = [of for of in first if of in last]
        if both:
            gap = paired_difference([first[of] for of in both], [last[of] for of in both])
        else:
            gap = Interval(math.nan, math.nan, math.nan, 0)
        return [Line(ALL, {"best_minus_worst": gap}), *lines]

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        yield f"Grades are those of {self.endpoint.get('model')}, 1 to 10."
        if str(self.endpoint.get("model")).casefold() == str(self.tagger["model"]).casefold():
            yield "The judge has the name of the tagger, at another address: is it another model?"

    def warnings(self, taxonomy, pinned: Mapping[str, Any]) -> Iterable[str]:
        if taxonomy is None:
            return ()
        known = taxonomy.category(self.category).values
        if missing := [value for value in self.values if str(value) not in known]:
            raise MarkerError(
                f"quality_lever: '{self.category}' has no value {missing[0]!r}; it has "
                f"{', '.join(known)}"
            )
        return ()
