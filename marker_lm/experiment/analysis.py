"""From records to the results of a report: quality, effects, control, inference, costs, power."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.evaluation.benchmark import Item
from marker_lm.evaluation.effects import Effect, benjamini_hochberg, contrast, effect, holm
from marker_lm.evaluation.statistics import mean_interval
from marker_lm.experiment.registration import METRIC

STRATA = ("all", "head", "tail")
# arm -> seed -> metric -> item -> value
Values = Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]]


@dataclasses.dataclass(frozen=True)
class Data:
    """What was measured, and on what.

    Attributes:
      values: of all arms and seeds.
      items: the registered test items.
      category, tail: of the registered strata.
    """

    values: Values
    items: Sequence[Item]
    category: str
    tail: frozenset[str]

    def arms(self, metric: str) -> list[str]:
        """Arms in which a metric was measured with every seed."""
        return [a for a, runs in self.values.items() if all(metric in run for run in runs.values())]

    def shared(self, metric: str, arms: Sequence[str]) -> list[Item]:
        """Items with a value in all these arms and all their seeds."""
        found = [set(run[metric]) for arm in arms for run in self.values[arm].values()]
        everywhere = set.intersection(*found) if found else set()
        return [item for item in self.items if item.id in everywhere]

    def matrix(self, arm: str, metric: str, items: Sequence[Item], seeds: Sequence[int]):
        """float64[S, N]."""
        runs = self.values[arm]
        return np.array([[runs[s][metric][i.id] for i in items] for s in seeds], np.float64)

    def of(self, stratum: str, items: Sequence[Item]) -> list[Item]:
        """Items of a stratum; 'all' has head and tail in the shares of the training rows."""
        if stratum == "all":
            return [item for item in items if item.natural]
        return [
            i for i in items if (i.markers.get(self.category) in self.tail) == (stratum == "tail")
        ]


def read_values(records: Sequence[Mapping[str, Any]]) -> Values:
    """Records as they stand in results.json, by arm, seed, metric and item."""
    values: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for r in records:
        values[r["arm"]][r["seed"]][r["metric"]][r["item"]] = r["value"]
    return {arm: {seed: dict(run) for seed, run in runs.items()} for arm, runs in values.items()}


def quality(data: Data, modes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Means of what arms are compared in, of the same under other lists, and of exact matches.

    `modes` says with which list an arm is compared.
    """
    rows = []
    measured = {m for runs in data.values.values() for run in runs.values() for m in run}
    for metric in sorted(m for m in measured if m.startswith(METRIC) or m == "exact match"):
        arms = data.arms(metric)
        items = data.shared(metric, arms)
        for arm in arms:
            for stratum in STRATA:
                chosen = data.of(stratum, items)
                mean_N = data.matrix(arm, metric, chosen, sorted(data.values[arm])).mean(axis=0)
                about = {"arm": arm, "mode": modes[arm], "stratum": stratum, "metric": metric}
                rows.append(about | _interval(mean_N, "mean"))
    return rows


def differences(data: Data, reference: str, modes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Effects of every arm against the reference, and of markers against shuffled ones."""
    rows = []
    for metric in (METRIC, "exact match"):
        arms = data.arms(metric)
        pairs = [(arm, reference) for arm in arms if arm != reference and reference in arms]
        pairs += [("markers", a) for a in ("shuffled",) if {"markers", a} <= set(arms)]
        pairs += [("markers_upsampled", "upsampled")] * (
            {"markers_upsampled", "upsampled"} <= set(arms)
        )
        for a, b in pairs:
            parts = {s: _pair(data, a, b, metric, s) for s in STRATA}
            found = {s: effect(*pair) for s, pair in parts.items() if pair[0].shape[1]}
            if {"head", "tail"} <= set(found):
                gaps = [parts[s][0] - parts[s][1] for s in ("tail", "head")]
                found["tail minus head"] = contrast(*gaps)
            sides = {"a": f"{a}/{modes[a]}", "b": f"{b}/{modes[b]}"}
            for stratum, one in found.items():
                about = {**sides, "metric": metric, "stratum": stratum}
                rows.append(about | effect_row(one))
    return rows


def one_by_one(
    data: Data, a: str, b: str, categories: Sequence[str], least: int
) -> list[dict[str, Any]]:
    """The effect in every value of some categories that has enough items, corrected for all.

    `p_holm` bounds the chance of a single false finding among all of them, `p_bh` the share of
    false ones among those found.
    """
    rows = []
    for category in categories:
        values = sorted({v for i in data.items if isinstance(v := i.markers.get(category), str)})
        for value in values:
            of_value = {i.id for i in data.items if i.markers.get(category) == value}
            pair = _pair(data, a, b, METRIC, keep=lambda i, ids=of_value: i.id in ids)
            if pair[0].shape[1] >= least:
                rows.append({"category": category, "value": value} | effect_row(effect(*pair)))
    p = [1.0 if row["p"] is None or math.isnan(row["p"]) else row["p"] for row in rows]
    for row, by_holm, by_bh in zip(rows, holm(p), benjamini_hochberg(p), strict=True):
        row |= {"p_holm": float(by_holm), "p_bh": float(by_bh)}
    return sorted(rows, key=lambda row: row["p_holm"])


def control(data: Data, judged: Mapping[str, float]) -> list[dict[str, Any]]:
    """How often an answer shows the row's own value of a marker, by how it was asked for.

    `judged` has the shares of rows that a program can judge: it is right about their references.
    """
    ways = {
        "free": "nothing pinned",
        "pinned": "pinned, as the prompt may say",
        "only pinned": "pinned, no sentence names it",
        "best pinned": "the same, the best of several answers by its pins",
        "held": "the same, one answer, held to the number that is pinned",
        "conflict": "pinned, the prompt names another value",
        "hinted": "shown after the prompt but not forced, no sentence names it",
    }
    rows = []
    for category, share in judged.items():
        for way, check in ways.items():
            check += f" ({100 * share:.1f} % of rows can be judged)"
            rows += _shares(data, f"{category}, {way}", "obeyed", category, "check", check)
    return rows


def inference(data: Data) -> list[dict[str, Any]]:
    """How often the list that a model writes by itself has the row's own value, and how often it
    copies one that is shown after the prompt."""
    ways = {"inferred": "all rows", "copied": "the value is shown, no sentence names it"}
    metrics = sorted({m for runs in data.values.values() for run in runs.values() for m in run})
    return [
        row
        for way, where in ways.items()
        for metric in metrics
        if metric.startswith(f"{way} ")
        for row in _shares(data, metric, "accuracy", metric.removeprefix(f"{way} "), "where", where)
    ]


def costs(data: Data) -> dict[str, float]:
    """Tokens of the list before an answer, mean over items, by arm."""
    return {
        arm: float(np.mean([v for run in runs.values() for v in run["list_tokens"].values()]))
        for arm, runs in data.values.items()
        if all("list_tokens" in run for run in runs.values())
    }


def _shares(data: Data, metric: str, field: str, category: str, key: str, text: str) -> list[dict]:
    rows = []
    for arm in data.arms(metric):
        items = data.shared(metric, [arm])
        for stratum in STRATA:
            chosen = data.of(stratum, items)
            if chosen:
                mean_N = data.matrix(arm, metric, chosen, sorted(data.values[arm])).mean(axis=0)
                about = {"arm": arm, "category": category, key: text, "stratum": stratum}
                rows.append(about | _interval(mean_N, field))
    return rows


def _pair(
    data: Data,
    a: str,
    b: str,
    metric: str,
    stratum: str | None = None,
    keep: Callable[[Item], bool] = lambda item: True,
):
    """Values of two arms on the seeds and items that both have: two arrays [S, N]."""
    seeds = sorted(set(data.values[a]) & set(data.values[b]))
    items = [item for item in data.shared(metric, [a, b]) if keep(item)]
    items = items if stratum is None else data.of(stratum, items)
    return tuple(data.matrix(arm, metric, items, seeds) for arm in (a, b))


def effect_row(found: Effect) -> dict[str, Any]:
    """An effect under the names that a report has for it."""
    fields = dataclasses.asdict(found)
    return {"diff": fields.pop("mean"), **fields}


def _interval(mean_N: np.ndarray, name: str) -> dict[str, Any]:
    found = mean_interval(mean_N)
    return {"n": found.n, name: found.mean, "low": found.low, "high": found.high}
