"""From decoded answers to the tables of the report. Shares are 0..1; every table keeps its n."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.evaluation.benchmark import Benchmark, Item
from marker_lm.evaluation.predict import Answer
from marker_lm.evaluation.statistics import (
    confusion_matrix,
    difference_in_differences,
    mean_interval,
    paired_difference,
)

STRATA = ("all", "head", "tail")
# Arm -> mode -> an answer for each item, None for those that the mode leaves out.
Answers = Mapping[str, Mapping[str, Sequence[Answer | None]]]


def exact(key: str, answer: Answer | None) -> float | None:
    """Whether the answer is the key, letter by letter but for white space around it."""
    return None if answer is None else float(answer.text.strip() == key.strip())


def _in(benchmark: Benchmark, stratum: str, split: str = "heldout") -> list[int]:
    """Numbers of the items of a split and stratum; 'all' has them in the training's shares."""
    return [
        n
        for n, item in enumerate(benchmark.items)
        if item.split == split
        and (item.natural if stratum == "all" else benchmark.stratum(item) == stratum)
    ]


def _scored(values: Sequence[float | None], at: Sequence[int]) -> list[float]:
    return [values[n] for n in at if values[n] is not None]


def quality(benchmark: Benchmark, answers: Answers, asked) -> list[dict[str, Any]]:
    """Exact match by arm, mode and stratum on held-out rows.

    The key is that of the row's own levers; in the mode 'moved', where the benchmark can tell, that
    of the levers that were asked for.
    """
    keys = [item.key for item in benchmark.items]
    by_mode = {"plain": keys, "inferred": keys, "pinned": keys}
    if benchmark.key:
        by_mode["moved"] = [
            benchmark.key(i, want) for i, want in zip(benchmark.items, asked, strict=True)
        ]
    rows = []
    for arm, modes in answers.items():
        for mode in by_mode:
            if mode not in modes:
                continue
            match = [exact(k, a) for k, a in zip(by_mode[mode], modes[mode], strict=True)]
            for stratum in STRATA:
                interval = mean_interval(_scored(match, _in(benchmark, stratum)))
                rows.append(
                    {"arm": arm, "mode": mode, "stratum": stratum, "metric": "exact_match"}
                    | _interval(interval, "mean")
                )
    return rows


def differences(benchmark: Benchmark, answers: Answers) -> list[dict[str, Any]]:
    """Paired differences in exact match, over the items that determine their answer.

    A prompt that leaves a lever open has no single right answer, so the inferred mode is compared
    with the other arms only where nothing is open; the pinned mode, on all held-out rows.
    """
    ours = answers["markers"]
    match = {
        f"{arm}/{mode}": [exact(i.key, a) for i, a in zip(benchmark.items, found, strict=True)]
        for arm, modes in answers.items()
        for mode, found in modes.items()
        if mode != "moved"
    }
    closed = {n for n, item in enumerate(benchmark.items) if not item.open}
    rows = []
    for mode in ("inferred", "pinned"):
        for arm, modes in answers.items():
            other = "plain" if "plain" in modes else mode
            if modes is ours:
                continue
            a, b = f"markers/{mode}", f"{arm}/{other}"
            for metric, keep in (
                ("exact_match", lambda n: True),
                ("exact_match where nothing is open", closed.__contains__),
            ):
                at = {s: [n for n in _in(benchmark, s) if keep(n)] for s in STRATA}
                rows += _difference_rows(a, b, metric, match, at)
    return rows


def _difference_rows(a, b, metric, match, at) -> list[dict[str, Any]]:
    pick = {s: [[match[name][n] for n in at[s]] for name in (a, b)] for s in STRATA}
    rows = []
    for stratum in STRATA:
        if len(at[stratum]) > 1:
            interval = paired_difference(*pick[stratum])
            rows.append(_difference(a, b, metric, stratum, interval))
    if min(len(at["tail"]), len(at["head"])) > 1:
        interval = difference_in_differences(*pick["tail"], *pick["head"])
        rows.append(_difference(a, b, metric, "tail minus head", interval))
    return rows


def _difference(a, b, metric, stratum, interval) -> dict[str, Any]:
    return {"a": a, "b": b, "metric": metric, "stratum": stratum} | _interval(interval, "diff")


def _interval(interval, name: str) -> dict[str, Any]:
    return {"n": interval.n, name: interval.mean, "low": interval.low, "high": interval.high}


def control(benchmark: Benchmark, answers: Answers, own, asked) -> list[dict[str, Any]]:
    """Asked against got, per category: the row's own value pinned, and an open lever moved.

    'pinned' is over all held-out rows. 'pinned, prompt leaves it open' and 'moved to another value'
    are over those whose prompt doesn't give the value away; a moved lever asks for every value
    alike, rare ones too, and head and tail are then told by what was asked for. The last check is
    over the pairs of language and format that training never had, both at once. A demand that no
    answer can be held against has a row all the same, with n 0 and None.
    """
    bars = {(b.category, b.check): b.least for b in benchmark.bars if b.measure == "control"}
    rows = []

    def add(arm, category, check, stratum, values):
        bar = bars.get((category, check)) if stratum == "all" else None
        row = {"arm": arm, "category": category, "check": check, "stratum": stratum, "bar": bar}
        if values:
            rows.append(row | _interval(mean_interval(values), "obeyed"))
        elif bar is not None:
            rows.append(row | {"n": 0, "obeyed": None, "low": None, "high": None})

    for arm, modes in answers.items():
        pinned, changed = (modes.get(m, modes.get("plain")) for m in ("pinned", "moved"))
        hits = {c: _obeyed(benchmark, c, pinned, own) for c in benchmark.checks}
        shifts = {c: _obeyed(benchmark, c, changed, asked) for c in benchmark.checks}
        for category in benchmark.checks:
            is_open = [len(i.open.get(category, ())) > 1 for i in benchmark.items]
            changes = [
                n
                for n, item in enumerate(benchmark.items)
                if item.split == "heldout" and _is_moved(category, own[n], asked[n])
            ]
            for stratum in STRATA:
                at = _in(benchmark, stratum)
                free = [n for n in at if is_open[n]]
                to = [n for n in changes if stratum in ("all", benchmark.stratum_of(asked[n]))]
                for check, values in (
                    ("pinned", _scored(hits[category], at)),
                    ("pinned, prompt leaves it open", _scored(hits[category], free)),
                    ("moved to another value", _scored(shifts[category], to)),
                ):
                    add(arm, category, check, stratum, values)
        if {"lang", "format"} <= set(benchmark.checks):
            both = [
                None if None in (a, b) else a * b
                for a, b in zip(hits["lang"], hits["format"], strict=True)
            ]
            for stratum in STRATA:
                at = _in(benchmark, stratum, "unseen")
                values = _scored(both, at)
                add(arm, "lang + format", "pinned, pair never seen in training", stratum, values)
    return rows


def _is_moved(category: str, own: Mapping, asked: Mapping) -> bool:
    return category in asked and asked[category] != own.get(category)


def _obeyed(benchmark: Benchmark, category: str, answers, asked) -> list[float | None]:
    """1 or 0 an item, None where nothing was asked, answered, or can be told."""
    check: Callable = benchmark.checks[category]
    found = []
    for answer, want in zip(answers, asked, strict=True):
        got = check(answer.text, want) if answer and category in want else None
        found.append(None if got is None else float(got == want[category]))
    return found


def inference(benchmark: Benchmark, answers: Answers) -> list[dict[str, Any]]:
    """Accuracy of inferred markers: what the prompt determines and what it leaves open, apart.

    Of a category that allows several values, right is the exact set.
    """
    bars = {(b.category, b.check): b.least for b in benchmark.bars if b.measure == "inference"}
    rows = []
    for arm, modes in answers.items():
        for category in _inferred(modes.get("inferred", [])):
            for where in ("prompt determines it", "prompt leaves it open", "all rows"):
                for stratum in STRATA:
                    values = [
                        float(modes["inferred"][n].markers.get(category) == item.markers[category])
                        for n in _in(benchmark, stratum)
                        if _where(item := benchmark.items[n], category) == where
                    ]
                    if values:
                        rows.append(
                            {
                                "arm": arm,
                                "category": category,
                                "where": where,
                                "stratum": stratum,
                                "bar": bars.get((category, where)) if stratum == "all" else None,
                            }
                            | _interval(mean_interval(values), "accuracy")
                        )
    return rows


def _where(item: Item, category: str) -> str | None:
    if category not in item.markers:
        return None
    if item.determined is None:
        return "all rows"
    return "prompt determines it" if category in item.determined else "prompt leaves it open"


def _inferred(answers: Sequence[Answer]) -> list[str]:
    return sorted({category for answer in answers if answer for category in answer.markers})


def asked_got(benchmark: Benchmark, answers, own, asked) -> dict[str, Any]:
    """Category -> counts of asked against got, over the levers that were moved."""
    tables = {}
    for category, check in benchmark.checks.items():
        pairs = [
            (want[category], check(answer.text, want))
            for answer, had, want in zip(answers, own, asked, strict=True)
            if answer and _is_moved(category, had, want)
        ]
        pairs = [(w, g) for w, g in pairs if g is not None]
        if pairs:
            labels, matrix = _counts(pairs)
            tables[category] = {"labels": labels, "matrix_asked_x_got": matrix}
    return tables


def inferred_confusion(benchmark: Benchmark, answers) -> dict[str, Any]:
    """Closed category -> counts of true against inferred, where the prompt determines the value.

    A category that allows several values has no such table: its sets are too many for one.
    """
    tables = {}
    for category in _inferred(answers):
        pairs = [
            (str(item.markers[category]), str(answer.markers.get(category, "none")))
            for item, answer in zip(benchmark.items, answers, strict=True)
            if answer
            and _where(item, category) in ("prompt determines it", "all rows")
            and isinstance(item.markers[category], str)
        ]
        if pairs:
            labels, matrix = _counts(pairs)
            tables[category] = {"labels": labels, "matrix_true_x_inferred": matrix}
    return tables


def _counts(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[list[int]]]:
    """Labels by how often they come first, and the square matrix of counts."""
    first, second = zip(*pairs, strict=True)
    often = {label: -list(first).count(label) for label in {*first, *second}}
    labels = sorted(often, key=lambda label: (often[label], label))
    return labels, np.asarray(confusion_matrix(first, second, labels)).tolist()
