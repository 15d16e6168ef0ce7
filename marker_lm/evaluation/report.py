"""Writes what an evaluation measured: report.json, one self-contained report.html, short tables.

The results are a dictionary. All sections are optional; fields of a row as listed, shares in 0..1:

    meta          title, question, command, date, config, versions, rows {name: count},
                  seconds {phase: s}, taxonomy_hash, parameters, notes [text]
    arms          [name, label, curve {step, loss, answer_loss}, eval_curve {step, answer_nats}]
    quality       [arm, mode (inferred|pinned|plain), stratum (all|head|tail), metric, n, mean,
                  low, high]
    differences   [a, b ("arm/mode"), metric, stratum (all|head|tail|tail minus head), n, diff,
                  low, high]
    control       [arm, category, check, stratum, n, obeyed, low, high, bar]
    inference     [arm, category, where, stratum, n, accuracy, low, high, bar]
    asked_got     {category: labels, matrix_asked_x_got, [labels_got]}
    inferred_confusion {category: labels, matrix_true_x_inferred, [labels_got]}
    guidance      lever, best (weight), dev, test [weight, n, obeyed, low, high],
                  difference {n, diff, low, high} on test, levers [lever, n, obeyed]
    posterior     n, max_error_of_sum, mean_true_probability {category: p}, [bar]
    strata        rule, category, head [values], tail [values], train_share {value: share}
    experiment    registered, registered_on, bears, arms {name: scored_with, rate, rates {rate: dev
                  nats}, parameters, steps, list_tokens}, one_by_one [category, value, n, diff, low,
                  high, p, p_holm, p_bh]; the rows of differences then have error, p, size,
                  detectable and seeds, too
    samples       [prompt, category, own, rows [value, markers {}, text, ok]]
    caveats       [text]

The arm named "markers" (else the first) is the one that bars judge. `labels_got` names the columns
when they differ from the rows, for example by an extra "other".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath
from rich import box
from rich.table import Table
from rich.text import Text

from marker_lm.evaluation import findings, page, wording

REQUIRED = {
    "arms": ("name",),
    "quality": ("arm", "mode", "stratum", "metric", "n", "mean"),
    "differences": ("a", "b", "metric", "stratum", "n", "diff"),
    "control": ("arm", "category", "check", "stratum", "n", "obeyed"),
    "inference": ("arm", "category", "where", "stratum", "n", "accuracy"),
    "samples": ("prompt", "category", "own", "rows"),
    "asked_got": ("labels", "matrix_asked_x_got"),
    "inferred_confusion": ("labels", "matrix_true_x_inferred"),
    "guidance": ("lever", "best", "dev", "test", "difference"),
    "posterior": ("n", "max_error_of_sum"),
    "strata": ("rule", "category"),
    "experiment": (),
}
SECTIONS = ("meta", *REQUIRED, "caveats")


class ReportError(ValueError):
    """Results that lack a field; the message names where."""


def write_report(results: Mapping[str, Any], folder: epath.PathLike) -> epath.Path:
    """Writes report.json and report.html into `folder` (made if missing; any etils.epath).

    Both hold the same numbers: floats rounded to 9 significant digits, numbers that are not
    finite as null. Returns the path of report.html. Raises ReportError when a row lacks a field.
    """
    results = clean_results(results)
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    path.write_bytes(page.render(results).encode("utf-8"))
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_bytes(f"{text}\n".encode())
    return path


def terminal_table(results: Mapping[str, Any]) -> Table:
    """The short table for the end of a run: bars, the other arms beside them, tail differences."""
    results = clean_results(results)
    head, rows, below = _short_table(results, brief=True)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for i, name in enumerate(head):
        side = "left" if i in (0, 3) else "right"
        table.add_column(Text(name), justify=side, overflow="fold")
    # Text, so that no string is read as markup of the terminal.
    for row in rows:
        verdict = row[3]
        style = "green" if verdict.startswith("holds") else "red" if "missed" in verdict else ""
        cells = [Text(cell, style=style if i == 3 else "") for i, cell in enumerate(row)]
        table.add_row(*cells, end_section=row is rows[-1])
    for line in below:
        cells = [Text(cell) for cell in line]
        table.add_row(*cells, *[Text("")] * (len(head) - len(cells)))
    caption = "In brackets 95 % intervals over held-out rows."
    sides = wording.unique(row["b"] for row in findings.main_differences(results))
    if len(sides) == 1:
        caption += f" Differences are minus “{findings.side_label(results, sides[0])}”, row by row."
    table.caption, table.caption_justify = Text(caption), "left"
    return table


def markdown_table(results: Mapping[str, Any]) -> str:
    """The same table as Markdown, with the full wording of checks."""
    head, rows, below = _short_table(clean_results(results), brief=False)
    below = [[*line, *[""] * (len(head) - len(line))] for line in below]
    lines = [head, ["---"] * len(head), *rows, *below]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"


def clean_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON values: arrays, their scalars and objects with `to_dict` converted, floats
    rounded, those that are not finite as None.

    Sections come in the order of this module's docstring, config and versions by name; lists keep
    their order. Raises ReportError when a row lacks a required field.
    """
    plain = {key: _plain(value) for key, value in results.items()}
    ordered = {key: plain[key] for key in SECTIONS if plain.get(key) is not None}
    ordered |= {key: plain[key] for key in sorted(plain) if key not in ordered and plain[key]}
    for key in ("config", "versions"):
        block = ordered.get("meta", {}).get(key)
        if block:
            ordered["meta"][key] = dict(sorted(block.items()))
    for section, fields in REQUIRED.items():
        block = ordered.get(section)
        if block:
            _check(section, block, fields)
    return ordered


def _check(section: str, block: Any, fields: tuple[str, ...]) -> None:
    if isinstance(block, list):
        entries = {f"{section}[{i}]": entry for i, entry in enumerate(block)}
    elif section in ("guidance", "posterior", "strata"):
        entries = {section: block}
    else:
        entries = {f"{section}[{key!r}]": entry for key, entry in block.items()}
    for place, entry in entries.items():
        for field in fields:
            if field not in entry:
                raise ReportError(f"results: {place} lacks {field!r}; it has {', '.join(entry)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        # 9 digits tell any two float32 apart.
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    # A lone surrogate cannot be written as UTF-8; its escape can.
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _short_table(results: dict, brief: bool) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Head, one line a bar, and lines of four cells for tail differences. Brief: without the
    wording of the checks, for a terminal."""
    demands = findings.bars(results)
    others = [n for n in findings.arm_names(results)[1:] if any(n in bar.others for bar in demands)]
    head = ["check", "bar", findings.arm_label(results, findings.main_arm(results)), "verdict"]
    head += [findings.arm_label(results, name) for name in others]
    rows = []
    for bar in demands:
        title = findings.bar_title(bar, demands) if brief else f"{bar.name}: {bar.check}"
        interval = wording.limits(bar.low, bar.high, share=True)
        measured = f"{bar.measured_text} {interval}".strip()
        beside = [bar.others.get(name, {}) for name in others]
        cells = [wording.percent(row.get("obeyed", row.get("accuracy"))) for row in beside]
        rows.append([title, bar.demand_text, measured, bar.verdict, *cells])
    below, differences = [], findings.main_differences(results)
    sides = {row["b"] for row in differences}
    for row in differences:
        if row["stratum"] in ("tail", "tail minus head"):
            share = wording.is_share(row["metric"])
            a, b = (findings.side_label(results, row[side]) for side in "ab")
            value = wording.number(row["diff"], share, signed=True)
            interval = wording.limits(row.get("low"), row.get("high"), share, signed=True)
            name = f"{row['metric'].replace('_', ' ')}, {row['stratum']}"
            if brief:
                mode = row["a"].partition("/")[2]
                name += f", {mode}" if len(sides) == 1 else f", {mode} minus {b}"
            else:
                name += f": {a} minus {b}"
            below.append([name, "", f"{value} {interval}".strip(), wording.sign_of(row)])
    return head, rows, below
