"""What annotation says to people: what will run, and how many markers came from where."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from marker_lm.annotate.origin_counts import OriginCounts, asked_categories
from marker_lm.annotate.plan import Plan
from marker_lm.annotate.registry import METADATA
from marker_lm.annotate.work import Reject


def plan_lines(plan: Plan) -> Iterator[str]:
    """What will run, a line each."""
    yield f"{len(plan.files)} files, {plan.workers} processes, {plan.job.output} out"
    for category, names in plan.job.names.items():
        yield f"  {category}: {', '.join((METADATA, *names))}"
    yield from plan.notes


def category_table(categories: Mapping[str, Mapping[str, Any]], rows: int) -> Table:
    """Per category: rows that have a marker, by origin, mean confidence, abstentions.

    categories: what OriginCounts.table gives.
    """
    table = Table(title=f"{rows} rows annotated")
    for name in ("category", "rows", "share", "from", "confidence", "abstained"):
        table.add_column(name, justify="left" if name in ("category", "from") else "right")
    for category, cell in categories.items():
        confidence, abstained = cell["mean_confidence"], cell["abstained"]
        table.add_row(
            category,
            str(cell["rows"]),
            f"{100 * cell['share']:.1f} %",
            ", ".join(f"{origin} {n}" for origin, n in cell["origins"].items()),
            "" if confidence is None else f"{confidence:.3f}",
            "" if abstained is None else str(abstained),
        )
    return table


def print_manifest(console: Console, manifest: Mapping[str, Any], folder: str) -> None:
    """The end of a run: the table, what was learned, rejects, where the rows are."""
    console.print(category_table(manifest["categories"], manifest["rows"]))
    for name, report in manifest["learned"].items():
        _print_line(console, f"{name}: {json.dumps(report, ensure_ascii=False)}")
    bad = manifest["rejects"]
    if bad["rejected"]:
        kinds = ", ".join(f"{kind}: {n}" for kind, n in bad["kinds"].items())
        _print_line(
            console,
            f"{bad['rejected']} of {bad['rows']} rows rejected ({kinds}), "
            f"see {folder}/rejects.jsonl",
        )
    for category, n in bad["left_out"].items():
        _print_line(console, f"{n} values of {category} are not in the taxonomy, left out")
    for category, n in bad["untrusted"].items():
        _print_line(console, f"{n} values of {category} are not sure enough, found anew")
    _print_line(console, f"rows: {folder}/rows ({len(manifest['shards'])} files)")


def print_tried(
    console: Console,
    plan: Plan,
    tally: OriginCounts,
    lines: Sequence[bytes],
    rejects: Sequence[Reject],
) -> None:
    """The end of a dry run: the table, the first rows as they would be written, rejects."""
    categories = tally.table(plan.job.taxonomy, asked_categories(plan.job.names))
    console.print(category_table(categories, tally.rows))
    for line in lines[:3]:
        row = json.loads(line)
        shown = {name: row[name] for name in ("markers", "marker_info")}
        _print_line(console, json.dumps(shown, ensure_ascii=False))
    for kind, n in Counter(reject.kind for reject in rejects).most_common():
        _print_line(console, f"{n} rows would be rejected: {kind}")
    _print_line(console, "dry run: nothing was written")


def _print_line(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
