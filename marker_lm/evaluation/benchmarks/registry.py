"""The benchmarks by name; each is imported when it is asked for, with the packages it needs."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from marker_lm.annotate.settings import settings_from
from marker_lm.evaluation.benchmarks.base import Benchmark
from marker_lm.markers.category import mend

_HERE = "marker_lm.evaluation.benchmarks"
# Name -> module in this folder and class.
BENCHMARKS = {
    "answers": "answers.Answers",
    "humanevalpack": "humanevalpack.HumanEvalPack",
    "ifeval": "ifeval.IFEval",
    "language_confusion": "language_confusion.LanguageConfusion",
    "length": "length.Length",
    "likelihood": "likelihood.Likelihood",
    "marker_inference": "marker_inference.MarkerInference",
    "quality_lever": "quality_lever.QualityLever",
    "translation": "translation.Translation",
    "win_rate": "win_rate.WinRate",
}


def load_benchmark(name: str, settings: Mapping[str, Any] | None = None) -> Benchmark:
    """A benchmark with its settings; those left out keep their defaults.

    Raises ValueError for a name that is none, SettingsError for settings that it can't use.
    """
    return settings_from(benchmark_class(name), settings or {}, name)


def benchmark_class(name: str) -> type[Benchmark]:
    """Raises ValueError for a name that is none."""
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark '{name}'; {mend(name, BENCHMARKS)}")
    module, kind = BENCHMARKS[name].split(".")
    return getattr(importlib.import_module(f"{_HERE}.{module}"), kind)


def settings_help(name: str) -> str:
    """The settings of a benchmark with their defaults, a line each."""
    kind = benchmark_class(name)
    defaults = (
        f"  {f.name} = {f.default if f.default is not dataclasses.MISSING else {}!r}"
        for f in dataclasses.fields(kind)
    )
    return "\n".join([f"{name}: {kind.__doc__.strip()}", "", "Settings:", *defaults])
