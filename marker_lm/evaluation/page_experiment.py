"""The report's sections of an experiment: how its arms were run, and its strata one by one."""

from __future__ import annotations

from marker_lm import markup
from marker_lm.evaluation import findings, wording
from marker_lm.markup import Html, join, paragraph, table, tag


def arms(results: dict) -> Html:
    """How each arm was run and is scored, and which rate it got."""
    about = results["experiment"]
    rows = []
    for name, arm in about["arms"].items():
        tried = [
            f"{rate}: {wording.number(nats, share=False)}" for rate, nats in arm["rates"].items()
        ]
        rows.append(
            [
                tag("code", name),
                arm["scored_with"],
                f"{arm['rate']:g}",
                join(tried, Html("<br>")) if tried else "none tried",
                "–" if arm["list_tokens"] is None else f"{arm['list_tokens']:.1f}",
                f"{arm['steps']:,}",
                f"{arm['parameters']:,}",
            ]
        )
    head = ["Arm", "List when scored", "Learning rate", "Tried: nats on dev rows"]
    head += ["List tokens a row", "Steps", "Parameters"]
    note = (
        f"Strata, test rows, first metric and comparisons were registered on "
        f"{about['registered_on']}, before the first run; hash {about['registered']}."
    )
    return join([paragraph(note), table(head, rows, numbers=[2, 4, 5, 6])])


def power(results: dict) -> Html:
    """Effect, its size, and the least effect that the test could see."""
    rows = [row for row in results.get("differences", []) if row.get("detectable") is not None]
    if not rows:
        return paragraph("Not computed.", soft=True)
    note = (
        "Effect size: mean over the standard deviation of the rows' differences. Detectable: the "
        "least true difference that would be found with a chance of 80 % at the 5 % level. Where "
        "an interval holds zero, what is smaller than that is neither shown nor excluded."
    )
    body = []
    for row in rows:
        share = wording.is_share(row["metric"])
        a, b = (findings.side_label(results, row[side]) for side in "ab")
        body.append(
            [
                f"{a} minus {b}",
                row["metric"].replace("_", " "),
                row["stratum"],
                wording.number(row["diff"], share, signed=True),
                wording.number(row.get("size"), share=False, signed=True),
                wording.number(row["detectable"], share),
                "–" if row.get("p") is None else f"{row['p']:.2g}",
                f"{row['n']:,} × {row['seeds']}",
            ]
        )
    head = ["Difference", "Metric", "Stratum", "Effect", "Size", "Detectable", "p", "Rows × seeds"]
    return join([paragraph(note), table(head, body, numbers=range(3, 8))])


def one_by_one(results: dict) -> Html:
    """The effect in every value with enough rows."""
    rows = results["experiment"]["one_by_one"]
    if not rows:
        return paragraph(
            "No value of the categories that were registered has enough rows.", soft=True
        )
    found = sum(row["p_holm"] < 0.05 for row in rows)
    note = (
        f"The main comparison in each of {len(rows)} values with enough test rows. By chance alone "
        f"about {0.05 * len(rows):.0f} of them would have an interval without zero; after Holm's "
        f"correction {found} differ from zero at the 5 % level."
    )
    body = []
    for row in rows:
        interval = wording.limits(row["low"], row["high"], share=False, signed=True)
        value = wording.number(row["diff"], share=False, signed=True)
        css = "" if row["p_holm"] >= 0.05 else "good" if row["diff"] < 0 else "bad"
        body.append(
            [
                row["category"],
                row["value"],
                (markup.with_note(value, interval), css),
                f"{row['p_holm']:.2g}",
                f"{row['p_bh']:.2g}",
                f"{row['n']:,}",
            ]
        )
    head = ["Category", "Value", "Nats per answer token", "p (Holm)", "p (BH)", "Rows"]
    return join([paragraph(note), table(head, body, numbers=range(2, 6))])


# Built where a report is one of an experiment.
SECTIONS = {
    "Arms as they were run": arms,
    "Effect sizes and power": power,
    "Strata one by one": one_by_one,
}
