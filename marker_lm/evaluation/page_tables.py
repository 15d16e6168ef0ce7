"""The report's measured sections: bars, quality, differences, control, inference."""

from __future__ import annotations

from functools import partial

from marker_lm import markup
from marker_lm.evaluation import findings, plots, wording
from marker_lm.markup import Html, join, paragraph, table, tag


def bars(results: dict) -> Html:
    demands = findings.bars(results)
    if not demands:
        return paragraph("No bars were set for this run.", soft=True)
    main, others = findings.main_arm(results), findings.arm_names(results)[1:]
    others = [name for name in others if any(name in bar.others for bar in demands)]
    rows = []
    for bar in demands:
        field = "accuracy" if bar.name.startswith("inferred ") else "obeyed"
        cells = [_with_counts(bar.others.get(name), field) for name in others]
        interval = wording.limits(bar.low, bar.high, share=True)
        measured = markup.with_note(bar.measured_text, interval, f"n = {bar.n:,}")
        css = "" if bar.holds is None else "good" if bar.holds else "bad"
        name = markup.with_note(bar.name, bar.check)
        rows.append([name, bar.demand_text, measured, (bar.verdict, css), *cells])
    head = ["Check", "Bar", findings.arm_label(results, main), "Verdict"]
    head += [findings.arm_label(results, name) for name in others]
    note = "In brackets the 95 % interval over held-out items. Other arms stand beside, unjudged. "
    note += _untrained(results)
    numbers = [1, 2, *range(4, 4 + len(others))]
    return join([table(head, rows, numbers=numbers), paragraph(note, soft=True)])


def _with_counts(row: dict | None, field: str, share: bool = True) -> Html | str:
    """'97.1 %' with its interval and count below; '–' without a row."""
    if row is None:
        return "–"
    interval = wording.limits(row.get("low"), row.get("high"), share)
    return markup.with_note(wording.number(row[field], share), interval, f"n = {row['n']:,}")


def quality(results: dict) -> Html:
    rows = results.get("quality", [])
    if not rows:
        return paragraph("Quality of the answers was not measured in this run.", soft=True)
    parts = [
        paragraph(
            "Inferred: the model writes its own markers. Pinned: the row's true markers are given. "
            "Plain: an arm without markers. Differences are paired: both sides answer the same "
            "held-out rows."
        )
    ]
    for metric in wording.unique(row["metric"] for row in rows):
        share = wording.is_share(metric)
        own = [row for row in rows if row["metric"] == metric]
        strata = wording.unique(row["stratum"] for row in own)
        unit = "" if share else " (lower is better)" if "nats" in metric or "loss" in metric else ""
        parts.append(tag("h3", metric.replace("_", " ").capitalize() + unit))
        parts.append(
            markup.pivot(
                ["Arm", "Mode", *strata],
                own,
                lambda row: (findings.arm_label(results, row["arm"]), row["mode"]),
                lambda row: row["stratum"],
                strata,
                partial(_with_counts, field="mean", share=share),
            )
        )
        if metric == findings.main_metric(results):
            parts.append(markup.plot(plots.quality_by_stratum(results, metric)))
    return join(parts)


def differences(results: dict) -> Html:
    rows = results.get("differences", [])
    if not rows:
        sentence = "No paired differences were computed: that takes two arms on the same rows."
        return paragraph(sentence, soft=True)

    def cell(row: dict) -> Html:
        share = wording.is_share(row["metric"])
        interval = wording.limits(row.get("low"), row.get("high"), share, signed=True)
        value = wording.number(row["diff"], share, signed=True)
        return markup.with_note(value, interval, wording.sign_of(row), f"n = {row['n']:,}")

    strata = wording.unique(row["stratum"] for row in rows)
    side = findings.side_label
    metric = findings.main_metric(results)
    return join(
        [
            paragraph(
                "A gain that is special to the tail shows as a “tail minus head” interval that "
                "lies above zero; a tail gain alone does not show it."
            ),
            markup.plot(plots.differences(results, metric), metric.replace("_", " ").capitalize()),
            markup.pivot(
                ["Difference", "Metric", *strata],
                rows,
                lambda row: (
                    join(
                        [side(results, row["a"]), f"minus {side(results, row['b'])}"], Html("<br>")
                    ),
                    row["metric"].replace("_", " "),
                ),
                lambda row: row["stratum"],
                strata,
                cell,
            ),
        ]
    )


def control(results: dict) -> Html:
    parts, rows = [], results.get("control", [])
    if rows:
        parts += [
            paragraph(
                "A marker is pinned; a program then checks the answer. The table gives the share "
                f"obeyed. {_untrained(results)}"
            ),
            _by_arm(results, rows, "check", "Check", "obeyed"),
        ]
    else:
        sentence = "Control by pinned markers was not measured in this run."
        parts.append(paragraph(sentence, soft=True))
    if results.get("asked_got"):
        note = "Asked against got. Numbers are counts, colour is the share within a row."
        parts.append(tag("h3", note))
        parts.append(_maps(results["asked_got"], "matrix_asked_x_got", "asked", "got"))
    return join(parts)


def guidance(results: dict) -> Html:
    section = results.get("guidance")
    if not section:
        return paragraph("Guidance was not tried in this run.", soft=True)
    intro = (
        "One marker is pinned to a value that is not the row's own, and the logits are "
        "u + w (c - u): c with the marker, u without it; w = 1 is plain. Lever and weight are "
        "chosen on rows of their own (dev). "
    )
    weights = wording.unique(row["weight"] for row in [*section["dev"], *section["test"]])
    rows = [row | {"split": split} for split in ("dev", "test") for row in section[split]]
    return join(
        [
            paragraph(intro + findings.guidance_sentence(section)),
            markup.plot(plots.guidance(section)),
            markup.pivot(
                ["Rows", *(f"w = {weight:g}" for weight in weights)],
                rows,
                lambda row: (row["split"],),
                lambda row: f"w = {row['weight']:g}",
                [f"w = {weight:g}" for weight in weights],
                partial(_with_counts, field="obeyed"),
            ),
        ]
    )


def inference(results: dict) -> Html:
    parts, rows = [], results.get("inference", [])
    if rows:
        parts += [
            paragraph("Nothing is pinned; the model's own markers are compared with the row's."),
            _by_arm(results, rows, "where", "Category", "accuracy"),
        ]
    else:
        parts.append(paragraph("Inference of markers was not measured in this run.", soft=True))
    if results.get("inferred_confusion"):
        note = "True against inferred. Numbers are counts, colour is the share within a row."
        parts.append(tag("h3", note))
        maps = results["inferred_confusion"]
        parts.append(_maps(maps, "matrix_true_x_inferred", "true", "inferred"))
    return join(parts)


def _untrained(results: dict) -> str:
    names = findings.untrained_arms(results)
    if not names:
        return ""
    labels = " and ".join(f"“{name}”" for name in names)
    return f"{labels} never saw a marker in training: what it shows is what the prompt alone gives."


def _by_arm(results: dict, rows: list[dict], key: str, title: str, field: str) -> Html:
    # One check after another, its arms below each other.
    checks = wording.unique((row["category"], row[key]) for row in rows)
    arms, strata = findings.arm_names(results), wording.unique(row["stratum"] for row in rows)
    rows = sorted(
        rows, key=lambda row: (checks.index((row["category"], row[key])), arms.index(row["arm"]))
    )
    return markup.pivot(
        [title, "Arm", *strata],
        rows,
        lambda row: (
            markup.with_note(row["category"], row[key]),
            findings.arm_label(results, row["arm"]),
        ),
        lambda row: row["stratum"],
        strata,
        partial(_with_counts, field=field),
    )


def _maps(entries: dict, field: str, row_name: str, column_name: str) -> Html:
    figures = []
    # Small ones first: they share a line, large ones take it whole.
    for category, entry in sorted(entries.items(), key=lambda item: len(item[1]["labels"])):
        columns = entry.get("labels_got", entry["labels"])
        figure = plots.heat_map(entry["labels"], columns, entry[field], row_name, column_name)
        figures.append(markup.plot(figure, tag("code", category), broad=len(columns) > 12))
    return tag("div", join(figures), css="grid")
