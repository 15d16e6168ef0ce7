"""The table of a benchmark's result for a terminal."""

import math

from rich import box
from rich.table import Table
from rich.text import Text

from marker_lm.evaluation.benchmarks.base import Benchmark
from marker_lm.evaluation.benchmarks.run import Result
from marker_lm.evaluation.statistics import Interval


def terminal_table(benchmark: Benchmark, result: Result) -> Table:
    """One line a group, with 95 % intervals in brackets and how many answers are behind it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    metrics = list(dict.fromkeys(m for line in result.lines for m in line.metrics))
    table.add_column("", overflow="fold")
    for name in (*metrics, "n"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for line in result.lines:
        cells = [
            _cell(line.metrics[m], m in benchmark.percent) if m in line.metrics else ""
            for m in metrics
        ]
        most = max((value.n for value in line.metrics.values()), default=0)
        table.add_row(*map(Text, (line.group, *cells, str(most))))
    return table


def _cell(value: Interval, percent: bool) -> str:
    if math.isnan(value.mean):
        return "-"

    def number(x: float) -> str:
        return f"{x * 100:.1f}" if percent else f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}"

    limits = "" if math.isnan(value.low) else f" [{number(value.low)}, {number(value.high)}]"
    return f"{number(value.mean)}{' %' if percent else ''}{limits}"


def count_lines(result: Result) -> list[str]:
    """How many answers have a score, and why others have none."""
    scored = sum(not row.skipped for row in result.rows)
    lines = [f"{scored} answers scored, {sum(result.skipped.values())} skipped"]
    by_count = sorted(result.skipped.items(), key=lambda one: (-one[1], one[0]))
    return [*lines, *(f"  {n} x {reason}" for reason, n in by_count)]
