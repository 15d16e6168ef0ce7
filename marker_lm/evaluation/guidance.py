"""Does guidance make the weakest lever obeyed more often? Chosen on one split, told on another."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from marker_lm.decoding.engine import Engine
from marker_lm.decoding.guidance import Guidance
from marker_lm.evaluation.benchmark import Benchmark, Item, by_hash, moved
from marker_lm.evaluation.predict import Answer
from marker_lm.evaluation.statistics import mean_interval, paired_difference

WEIGHTS = (1.0, 1.5, 2.0, 3.0)
DEV_ROWS, TEST_ROWS = 64, 128

# (items, pins of each, guidance, split) -> an answer each.
Decode = Callable[[Sequence[Item], Sequence[Mapping], Guidance | None, str], Sequence[Answer]]
Asked = list[tuple[Item, str]]  # items, each with the value that is asked for


def guidance_curves(
    engine: Engine,
    dev: Benchmark,
    test: Benchmark,
    decode: Decode,
    seed: int,
    lever: str | None = None,
    weights: Sequence[float] = WEIGHTS,
    rows: tuple[int, int] = (DEV_ROWS, TEST_ROWS),
) -> dict[str, Any] | None:
    """How often a lever is obeyed under each guidance weight; the 'guidance' section of a report.

    Each item is asked for a value other than its own, which its prompt leaves open; that one marker
    is pinned, and the model infers the others. The lever and the weight are chosen on `dev` alone.

    Args:
      engine: of the marked arm.
      dev, test: the rows to choose on, and those that the result is told of.
      decode: answers items, see `Decode`.
      seed: of the values that are asked for.
      lever: by default the one that is obeyed least on dev without guidance.
      weights: those tried; 1, which is no guidance, is always among them.
      rows: the most of dev and of test.

    Returns:
      None where no row leaves a lever open that a program can check.
    """
    weights = sorted({1.0, *weights})
    levers = [c for c in dev.checks if c in engine.layout.completion_side and lever in (None, c)]
    of_dev = {c: _asked(dev, c, seed, rows[0]) for c in levers}
    of_test = {c: _asked(test, c, seed, rows[1]) for c in levers}
    levers = [c for c in levers if of_dev[c] and of_test[c]]
    plain = {c: _obeyed(dev, c, of_dev[c], 1.0, decode, "dev") for c in levers}
    shares = {c: _mean(values) for c, values in plain.items()}
    shares = {c: share for c, share in shares.items() if not math.isnan(share)}
    if not shares:
        return None
    lever = min(shares, key=shares.__getitem__)
    found = {"dev": {1.0: plain[lever]}, "test": {}}
    for split, benchmark, asked in (("dev", dev, of_dev[lever]), ("test", test, of_test[lever])):
        for weight in weights:
            if weight not in found[split]:
                found[split][weight] = _obeyed(benchmark, lever, asked, weight, decode, split)
    # Of equal ones the weight that changes least.
    best = max(weights, key=lambda w: (_mean(found["dev"][w]), -abs(w - 1)))
    return {
        "lever": lever,
        "levers": [{"lever": c, "n": len(of_dev[c]), "obeyed": shares[c]} for c in shares],
        "best": best,
        **{split: _curve(found[split]) for split in ("dev", "test")},
        "difference": _difference(found["test"][best], found["test"][1.0]),
    }


def _asked(benchmark: Benchmark, lever: str, seed: int, most: int) -> Asked:
    """Items with a value of the lever that they do not have; always the same ones."""
    items = [i for i in benchmark.items if i.natural and i.open.get(lever)]
    asked = []
    for item in by_hash(items):
        only = dataclasses.replace(item, open={lever: item.open[lever]})
        value = moved(only, seed, benchmark.avoid).get(lever)
        if value is not None:
            asked.append((item, value))
    return asked[:most]


def _obeyed(
    benchmark: Benchmark, lever: str, asked: Asked, weight: float, decode: Decode, split: str
) -> list[float | None]:
    """1 or 0 an item; None where the check can't tell."""
    pins = [{lever: value} for _, value in asked]
    guidance = None if weight == 1 else Guidance(weight)
    answers = decode([item for item, _ in asked], pins, guidance, split)
    got = [benchmark.checks[lever](a.text, p) for a, p in zip(answers, pins, strict=True)]
    return [
        None if one is None else float(one == value)
        for one, (_, value) in zip(got, asked, strict=True)
    ]


def _mean(values: Sequence[float | None]) -> float:
    return mean_interval([v for v in values if v is not None]).mean


def _curve(by_weight: Mapping[float, Sequence[float | None]]) -> list[dict[str, Any]]:
    rows = []
    for weight in sorted(by_weight):
        one = mean_interval([v for v in by_weight[weight] if v is not None])
        rows.append(
            {"weight": weight, "n": one.n, "obeyed": one.mean, "low": one.low, "high": one.high}
        )
    return rows


def _difference(
    best: Sequence[float | None], plain: Sequence[float | None]
) -> dict[str, float | int]:
    """Of the same items; those that can't be told under one of the two are left out."""
    both = [(a, b) for a, b in zip(best, plain, strict=True) if None not in (a, b)]
    one = paired_difference([a for a, _ in both], [b for _, b in both])
    return {"n": one.n, "diff": one.mean, "low": one.low, "high": one.high}
