"""Marker inference: are the markers right that a model writes by itself, and does it know?"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marker_lm.data.example import RowError
from marker_lm.evaluation.benchmarks.base import (
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Skip,
    prompt_of,
)
from marker_lm.evaluation.statistics import (
    Interval,
    expected_calibration_error,
    macro_f1,
    mean_interval,
)

_NONE = "(none)"  # what a model predicts that writes no marker of a category


@dataclasses.dataclass(frozen=True)
class MarkerInference(Benchmark):
    """Inferred markers against those of the rows.

    A row has a prompt and `markers`, a mapping from category to a value or a list of values; an
    answer has `markers`, `pinned` and `probability`, as `marker-lm decode` writes them. Categories
    whose values are numbers, and those that were pinned, are left out.

    Each category has its line. `accuracy`: the value, or the whole set of values, is the row's; a
    category that the model did not write is wrong. `macro_F1`: the plain mean over values, of the
    rows or of the model, of 2PR / (P + R); a value in a set counts by itself. `calibration_error`:
    the mean distance of probability and accuracy in 15 bins of equal width (Guo et al. 2017,
    arXiv 1706.04599, equation 3), over the markers that the model wrote with a probability.

    categories: to look at; () for all that the rows have
    """

    categories: tuple = ()

    name = "marker_inference"
    percent = ("accuracy", "macro_F1")

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        markers = row.get("markers")
        if not isinstance(markers, Mapping):
            raise RowError("the row has no 'markers' that map categories to values", "no markers")
        wanted = {
            category: values
            for category, value in markers.items()
            if (not self.categories or category in self.categories) and (values := _values(value))
        }
        if not wanted:
            raise RowError("the row has no marker of the categories looked at", "no markers")
        yield Item(id, prompt_of(row), {"markers": wanted})

    def score_one(self, item: Item, answer: Answer) -> dict[str, Any]:
        written = answer.get("markers")
        if not isinstance(written, Mapping):
            raise Skip("the answer has no markers")
        pinned = answer.get("pinned") or ()
        found = {}
        for category, values in item.facts["markers"].items():
            if category in pinned:
                continue
            given = _values(written.get(category)) or (_NONE,)
            probability = (answer.get("probability") or {}).get(category)
            found[category] = {"true": values, "given": given, "probability": probability}
        if not found:
            raise Skip("all its categories were pinned")
        return {"inferred": found}

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        of: dict[str, list[Mapping]] = {}
        for row in rows:
            for category, one in row.scores.get("inferred", {}).items():
                of.setdefault(category, []).append(one)
        return [Line(category, _metrics(of[category])) for category in sorted(of)]

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        if any("error" not in (row.answer or {"error": ""}) for row in rows):
            yield "Markers of the rows are the reference; where they are wrong, so is the accuracy."


def _values(value: Any) -> tuple[str, ...]:
    """The values of a marker in order; none for a number."""
    many = value if isinstance(value, list | tuple) else [value]
    return tuple(sorted(one for one in many if isinstance(one, str)))


def _metrics(found: Sequence[Mapping]) -> dict[str, Interval]:
    right = [float(one["true"] == one["given"]) for one in found]
    metrics = {"accuracy": mean_interval(right)}
    # Sets as single values: what both have, what one has alone against nothing.
    true, given = [], []
    for one in found:
        if len(one["true"]) == len(one["given"]) == 1:
            true += one["true"]
            given += one["given"]
            continue
        for value in sorted({*one["true"], *one["given"]}):
            true.append(value if value in one["true"] else _NONE)
            given.append(value if value in one["given"] else _NONE)
    labels = sorted({*true, *given} - {_NONE})
    metrics["macro_F1"] = Interval(macro_f1(true, given, labels), math.nan, math.nan, len(found))
    known = [i for i, one in enumerate(found) if one["probability"] is not None]
    if known:
        error = expected_calibration_error(
            [found[i]["probability"] for i in known], [right[i] for i in known]
        )
        metrics["calibration_error"] = Interval(error, math.nan, math.nan, len(known))
    return metrics
