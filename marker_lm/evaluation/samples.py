"""Samples for people: one prompt, one lever moved through its values."""

from typing import Any

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmark import Benchmark, Item

MOST_VALUES = 8


def lever_samples(
    benchmark: Benchmark, engine: Engine, sampling: Sampling, count: int
) -> list[dict[str, Any]]:
    """The 'samples' section of a report: `count` prompts, their levers in turn."""
    levers = [c for c in benchmark.checks if any(_can_move(item, c) for item in benchmark.items)]
    if not levers or not count:
        return []
    chosen = []
    used = set()
    for n in range(count):
        lever = levers[n % len(levers)]
        fitting = (i for i in benchmark.items if _can_move(i, lever) and i.prompt not in used)
        item = next(fitting, None)
        if item is not None:
            used.add(item.prompt)
            chosen.append((item, lever))
    jobs = [
        (item, lever, value)
        for item, lever in chosen
        for value in _spread(list(item.open[lever]), MOST_VALUES)
    ]
    results = engine.generate(
        [item.prompt for item, _, _ in jobs],
        [Controls(pinned={lever: value}) for _, lever, value in jobs],
        sampling,
    )
    samples: dict[str, dict[str, Any]] = {}
    for (item, lever, value), result in zip(jobs, results, strict=True):
        got = benchmark.checks[lever](result.text, result.markers)
        sample = samples.setdefault(
            item.id,
            {"prompt": item.prompt, "category": lever, "own": item.markers[lever], "rows": []},
        )
        sample["rows"].append(
            {
                "value": value,
                "markers": result.markers,
                "text": result.text,
                "ok": None if got is None else got == value,
            }
        )
    return list(samples.values())


def _can_move(item: Item, lever: str) -> bool:
    return lever in item.markers and len(item.open.get(lever, ())) > 1


def _spread(values: list[str], most: int) -> list[str]:
    """At most `most` of the values, evenly spaced."""
    step = max(1, -(-len(values) // most))
    return values[::step]
