"""stats.html: what there is to know of the rows before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marker_lm import markup
from marker_lm.annotate import stats_plots
from marker_lm.annotate.duplicates import SIMILAR
from marker_lm.annotate.stats_summary import NBSP, closed, names, percent, points, summary
from marker_lm.annotate.strata import DISCORDANT
from marker_lm.annotate.tally import GIVEN
from marker_lm.markup import Html, join, paragraph, table, tag

_PAIRS = 8  # surprising pairs in a table, of either sign


def render(stats: Mapping[str, Any], command: str = "") -> str:
    """The whole page from what `stats.make_statistics` gives."""
    about = stats["about"]
    return markup.page(
        title="The rows before training",
        subtitle=join(
            [
                about["date"],
                f"taxonomy {about['taxonomy']}",
                *([tag("code", command)] * bool(command)),
            ],
            " · ",
        ),
        sections={title: build(stats) for title, build in SECTIONS.items()},
        footer="All numbers of this page are in stats.json beside it. "
        "Nothing on it is fetched from a network.",
        summary=join([tag("h2", "In short"), markup.bullets(summary(stats))]),
        style="td:first-child code { white-space: nowrap; }",
    )


def _rows(stats: Mapping[str, Any]) -> Html:
    rows = []
    for name, split in stats["splits"].items():
        rejects = split["rejects"]
        kinds = ", ".join(f"{kind}: {n:,}" for kind, n in rejects["kinds"].items())
        left_out = ", ".join(f"{c}: {n:,}" for c, n in rejects["left_out"].items())
        tasks = ", ".join(f"{task} {n:,}" for task, n in split["tasks"].items())
        cells = [name, f"{split['rows']:,}", tasks, f"{split['wordless']:,}"]
        rows.append([*cells, markup.with_note(f"{rejects['rejected']:,}", kinds), left_out or "–"])
    head = ["Split", "Rows", "By task", "Without a word", "Rejected", "Values left out"]
    note = join(
        [
            "Rows without a word have a completion with no letter and no digit; empty prompts and "
            "completions are among the rejected rows, which",
            tag("code", "marker-lm prepare"),
            "lists with file, line and reason. Rows count once each here; the rates of a mixture "
            "change how often they are seen.",
        ],
        " ",
    )
    return join([table(head, rows, numbers=[1, 3]), paragraph(note, soft=True)])


def _categories(stats: Mapping[str, Any]) -> Html:
    rows = []
    for name, category in stats["categories"].items():
        share = tag("span", css="share", style=f"width:{100 * category['coverage']:.1f}%")
        cells = [tag("code", name), percent(category["coverage"]), (share, "shares")]
        if category.get("values"):
            seen, unseen = len(category["values"]), len(category["unseen"])
            cells += [
                f"{seen}" if not unseen else markup.with_note(f"{seen}", f"{unseen} never seen"),
                f"{category['effective_values']:.1f}",
                f"{category['entropy']:.2f}",
                f"{len(category['head'])} / {len(category['tail'])}",
                percent(category["tail_share"]),
            ]
        else:
            cells += ["–"] * 5
        rows.append(cells)
    head = ["Category", "Marked", "", "Values", "Effective", "Bits", "Head / tail", "Tail holds"]
    note = (
        "Marked: training rows that have the category. Effective: how many equally frequent values "
        "would have the same entropy (bits). The tail are values under "
        f"{100 * stats['about']['threshold']:g}{NBSP}% of the marked rows."
    )
    return join([table(head, rows, numbers=[1, 3, 4, 5, 6, 7]), paragraph(note, soft=True)])


def _tails(stats: Mapping[str, Any]) -> Html:
    parts = []
    for name, category in closed(stats).items():
        total = sum(category["values"].values())
        tail = set(category["tail"])
        rows = [
            [
                value,
                f"{n:,}",
                percent(n / total, 2),
                "tail" if value in tail else "head",
                f"{category['heldout'].get(value, 0):,}",
            ]
            for value, n in category["values"].items()
        ]
        whole = table(["Value", "Rows", "Share", "Part", "Held out"], rows, numbers=[1, 2, 4])
        unseen = category["unseen"]
        extra = [paragraph(f"Never seen: {', '.join(unseen)}.", soft=True)] if unseen else []
        title = tag("summary", f"All {len(rows)} values of {name} as a table")
        parts += [
            tag("h3", name),
            markup.plot(stats_plots.long_tail(category, stats["about"]["threshold"]), broad=True),
            tag("details", join([title, whole, *extra])),
        ]
    return join(parts) if parts else paragraph("No row has a marker with values.", soft=True)


def _association(stats: Mapping[str, Any]) -> Html:
    pairs = [pair for pair in stats["association"] if pair["nmi"] is not None]
    if not pairs:
        return paragraph("No rows have two categories with values.", soft=True)
    intro = (
        "Normalized mutual information: 0 where one category tells nothing of the other, 1 where "
        "it tells all. A pair near 1 costs tokens twice for the same knowledge, and a lever that "
        "goes with another in training can't be pulled alone."
    )
    parts = [
        paragraph(intro),
        markup.plot(stats_plots.association(pairs, list(closed(stats)))),
        tag("h3", "Pairs that are most out of line with chance"),
    ]
    for place, pair in enumerate(sorted(pairs, key=lambda pair: -pair["nmi"])):
        more = [cell for cell in pair["surprising"] if cell["surprise"] > 0][:_PAIRS]
        less = [cell for cell in pair["surprising"] if cell["surprise"] < 0][:_PAIRS]
        rows = [
            [
                *cell["pair"],
                f"{cell['rows']:,}",
                f"{cell['expected']:,.1f}",
                f"{cell['rows'] / cell['expected']:.2g}",
            ]
            for cell in (*more, *less)
        ]
        title = f"{' and '.join(pair['categories'])}: {pair['nmi']:.2f}"
        head = [*pair["categories"], "Rows", "By chance", "Ratio"]
        content = [tag("summary", title), table(head, rows, numbers=[2, 3, 4])]
        parts.append(tag("details", join(content), open="" if place else "open"))
    return join(parts)


def _tokens(stats: Mapping[str, Any]) -> Html:
    costs, rows = stats["token_costs"], []
    train = max(stats["splits"]["train"]["rows"], 1)
    for name, cost in costs["templates"].items():
        numbers = [cost[key] / train for key in ("completion_side", "prompt_side", "markers")]
        cells = [tag("code", name), *(f"{n:,.1f}" for n in numbers)]
        cells += [f"{cost['markers'] / 1e6:,.2f}", percent(cost["share_of_text"])]
        rows.append(cells)
    parts = [paragraph(f"Counted in {stats['about']['token_unit']}.")]
    parts += [
        paragraph(f"Template {name} can't be written: {reason}.")
        for name, reason in costs["failures"].items()
    ]
    if rows:
        head = ["Template", "Before the answer", "After the prompt", "Both", "Millions", "On top"]
        note = (
            "Tokens a row with the borders of the lists: the full list before each answer, and "
            "what dropout leaves of the one after the prompt, in expectation. Millions: in one pass"
            " over the training rows. On top: as a share of prompts and completions, which have "
            f"{costs['text'] / 1e6:,.2f} million."
        )
        parts += [table(head, rows, numbers=[1, 2, 3, 4, 5]), paragraph(note, soft=True)]
        names = list(costs["templates"])
        by_category = [
            [tag("code", category)]
            + [f"{costs['templates'][name]['categories'][category]:.1f}" for name in names]
            + [_side(costs, category)]
            for category in costs["templates"][names[0]]["categories"]
        ]
        head = ["Category", *(f"Tokens, {name}" for name in names), "Written"]
        parts.append(table(head, by_category, numbers=range(1, 1 + len(names))))
    parts += [
        tag("h3", "Lengths of prompts and completions"),
        markup.plot(stats_plots.lengths(stats["lengths"], stats["about"]["token_unit"].split()[0])),
    ]
    return join(parts)


def _side(costs: Mapping[str, Any], category: str) -> str:
    sides = [s for s in ("prompt_side", "completion_side") if category in costs[s]]
    words = {"prompt_side": "after the prompt", "completion_side": "before the answer"}
    return " and ".join(words[s] for s in sides) or "nowhere"


def _duplicates(stats: Mapping[str, Any]) -> Html:
    found = stats["duplicates"]
    if not found:
        return paragraph("Near duplicates were not looked for.", soft=True)
    leaked = found["heldout_in_train"]
    counts = [
        ["Equal to a row before, but for case and white space", f"{found['equal']:,}"],
        [
            f"Nearly equal: {100 * SIMILAR:.0f}{NBSP}% of the character sequences",
            f"{found['near']:,}",
        ],
        ["Groups of such rows", f"{found['groups']:,}"],
        ["Held-out rows with an equal or near training row", f"{leaked:,}"],
        ["Different rows that share their prompt with one before", f"{found['further_answers']:,}"],
    ]
    if found["left_out"]:
        counts.append(["Rows that were not searched: too many", f"{found['left_out']:,}"])
    note = (
        "Held-out rows are searched together with the training rows. Text that very many rows "
        "share, such as the instruction of a task, is left out of the comparison, and rows with "
        "little else count only when they are equal."
    )
    parts = [table(["Rows", "Count"], counts, numbers=[1]), paragraph(note, soft=True)]
    if found["largest"]:
        parts.append(tag("h3", "Largest groups"))
    for group in found["largest"]:
        rows = [
            [
                markup.with_note(tag("bdi", row["prompt"]), row["id"]),
                tag("div", row["completion"], css="text", dir="auto"),
            ]
            for row in group["examples"]
        ]
        start = " ".join(group["examples"][0]["prompt"].split())
        title = tag("summary", join([f"{group['rows']} rows: ", tag("bdi", start)], ""))
        parts.append(tag("details", join([title, table(["Prompt", "Completion"], rows)])))
    return join(parts)


def _strata(stats: Mapping[str, Any]) -> Html:
    intro = join(
        [
            "Tail values are pooled, the most frequent first, until a pool holds several hundred "
            "held-out rows. The last column is the least true difference between two arms that so "
            f"many paired rows show (5{NBSP}% level, 80{NBSP}% power, where the arms differ on "
            f"{100 * DISCORDANT:.0f}{NBSP}% of the rows).",
            tag("code", "marker-lm stats --freeze"),
            "fixes them in a file.",
        ],
        " ",
    )
    parts = [paragraph(intro)]
    for name, found in stats["strata"].items():
        if not found["pools"]:
            continue
        strata = [("head", found["head"])]
        strata += [(f"tail {i}", pool) for i, pool in enumerate(found["pools"], 1)]
        strata += [("all of the tail", found["tail"])] if len(found["pools"]) > 1 else []
        rows = [
            [
                label,
                names(stratum["values"], 8) or "–",
                percent(stratum["train_share"]),
                f"{stratum['heldout_rows']:,}",
                points(stratum),
            ]
            for label, stratum in strata
        ]
        head = ["Stratum", "Values", "Of training rows", "Held out", "Shows"]
        parts += [tag("h3", name), table(head, rows, numbers=[2, 3, 4])]
    if len(parts) == 1:
        parts.append(paragraph("No category has values under the threshold.", soft=True))
    return join(parts)


def _origins(stats: Mapping[str, Any]) -> Html:
    rows = []
    for name, category in stats["categories"].items():
        origins = category["origins"]
        if not origins:
            continue
        tenths, known = category["confidences"], sum(category["confidences"])
        sure = f"{percent(sum(tenths[9:]) / known)} of {known:,}" if known else "–"
        weak = percent(sum(tenths[:5]) / known) if known else "–"
        cells = [f"{origin}: {n:,}" for origin, n in origins.items()]
        rows.append([tag("code", name), join(cells, ", "), sure, weak])
    if not rows:
        return paragraph("No row has a marker.", soft=True)
    head = ["Category", "Who filled it", "Confidence 0.9 and more", "Under 0.5"]
    note = f"“{GIVEN}”: the row has nothing in its field marker_info about this marker."
    return join([table(head, rows, numbers=[2, 3]), paragraph(note, soft=True)])


SECTIONS = {
    "Rows": _rows,
    "Categories": _categories,
    "The long tail": _tails,
    "Which categories go together": _association,
    "What markers cost": _tokens,
    "Duplicates": _duplicates,
    "Tail strata": _strata,
    "Origins": _origins,
}
