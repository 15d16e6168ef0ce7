"""The sections of report.html, in the order a reader asks: what was found, on what, how sure."""

from __future__ import annotations

import json

from marker_lm import markup
from marker_lm.evaluation import findings, page_experiment, page_tables, plots, wording
from marker_lm.markup import Html, join, paragraph, table, tag

QUESTION = (
    "Markers (language, task, format, length, ...) were written into the training stream after "
    "the prompt and before the completion. Three questions: are pinned markers obeyed; does the "
    "model infer the right ones when none are given; and does it answer better for it, on rare "
    "kinds of rows in particular? By design the arms differ in their markers only: same rows, "
    "same order, same steps."
)


def render(results: dict) -> str:
    """The whole page. `results` must be cleaned and checked (see `report.write_report`)."""
    meta = results.get("meta", {})
    subtitle = [meta.get("date"), meta.get("command") and tag("code", meta["command"])]
    return markup.page(
        title=meta.get("title") or "Training with markers: report",
        subtitle=join([part for part in subtitle if part], " · "),
        sections={title: build(results) for title, build in sections(results).items()},
        footer="All numbers of this page are in report.json beside it. "
        "Nothing on it is fetched from a network.",
        summary=join([tag("h2", "In short"), markup.bullets(findings.summary(results))]),
    )


def sections(results: dict) -> dict:
    """Title -> what builds it; those of an experiment come after the differences."""
    if "experiment" not in results:
        return SECTIONS
    titles = list(SECTIONS)
    after = titles.index("Differences between arms") + 1
    first, rest = ({t: SECTIONS[t] for t in part} for part in (titles[:after], titles[after:]))
    return first | page_experiment.SECTIONS | rest


def _design(results: dict) -> Html:
    meta, strata = results.get("meta", {}), results.get("strata", {})
    parts = [paragraph(meta["question"])] if meta.get("question") else []
    parts.append(paragraph(QUESTION))
    rows = meta.get("rows") or {}
    counts = [f"{count:,} {name}" for name, count in rows.items() if isinstance(count, int)]
    facts = [f"Rows: {', '.join(counts)}."] if counts else []
    if meta.get("parameters"):
        facts.append(f"Parameters: {meta['parameters']:,}.")
    config = meta.get("config") or {}
    facts += [f"{key.title()}: {config[key]}." for key in ("seed", "seeds") if key in config]
    if facts:
        parts.append(paragraph(" ".join(facts)))
    if results.get("arms"):
        arms = [[a.get("label") or a["name"], tag("code", a["name"])] for a in results["arms"]]
        parts.append(table(["Arm", "Name"], arms))
    if not strata:
        return join([*parts, paragraph("No rule for head and tail strata was given.", soft=True)])
    rule = f"Strata, fixed before training: {strata['rule']}"
    sizes = f"{len(strata.get('head', []))} head and {len(strata.get('tail', []))} tail values"
    category = tag("code", strata["category"])
    parts.append(paragraph(join([rule.rstrip("."), f". {sizes} of ", category, "."], "")))
    share = strata.get("train_share") or {}
    tail_share = sum(share.get(value) or 0 for value in strata.get("tail", []))
    if share:
        caption = f"The tail holds {wording.percent(tail_share)} of the training rows."
        parts.append(markup.plot(plots.train_share(strata), caption, broad=True))
    return join(parts)


def _curves(results: dict) -> Html:
    figure = plots.learning_curves(results)
    if figure is None:
        return paragraph("No learning curves were recorded.", soft=True)
    step = plots.thinning(results)
    note = f"One point in {step} is drawn; report.json holds all of them." if step > 1 else ""
    return markup.plot(figure, note)


def _samples(results: dict) -> Html:
    samples = results.get("samples", [])
    if not samples:
        return paragraph("No samples were drawn.", soft=True)
    intro = "One prompt, one marker pinned to its values in turn. The row's own value is marked."
    parts = [paragraph(intro)]
    for i, sample in enumerate(samples):
        rows = []
        for row in sample["rows"]:
            own = str(row["value"]) == str(sample["own"])
            value = markup.with_note(row["value"], "the row's own" if own else "")
            markers = row.get("markers") or {}
            chips = [tag("span", wording.marker(k, v), css="chip") for k, v in markers.items()]
            answer = join([markup.sample_text(row["text"], markers), *chips])
            verdict = {True: ("obeyed", "good"), False: ("missed", "bad"), None: "unchecked"}
            rows.append([(value, "value"), answer, verdict[row.get("ok")]])
        head = [(sample["category"], "value"), "Answer", ("Check", "obeyed")]
        levers = table(head, rows, css="levers")
        prompt = tag("div", sample["prompt"], css="text prompt", dir="auto")
        short = " ".join(str(sample["prompt"]).split())
        short = short if len(short) <= 90 else short[:89] + "…"
        title = join([tag("code", sample["category"]), " · ", tag("bdi", short)], "")
        content = join([tag("summary", title), prompt, levers])
        parts.append(Html(f"<details{' open' if i < 3 else ''}>{content}</details>"))
    return join(parts)


def _posterior(results: dict) -> Html:
    posterior = results.get("posterior")
    if not posterior:
        return paragraph("Posteriors over marker values were not computed.", soft=True)
    sentence = (
        f"On {posterior['n']:,} prompts, the probabilities of all values of a category sum to 1 "
        f"within {posterior['max_error_of_sum']:.1e}. Mean probability given to the true value:"
        if posterior["max_error_of_sum"] is not None
        else f"On {posterior['n']:,} prompts, a sum of probabilities was not a finite number."
    )
    means = posterior.get("mean_true_probability") or {}
    rows = [[tag("code", name), wording.percent(mean)] for name, mean in means.items()]
    return join([paragraph(sentence), table(["Category", "Mean probability"], rows, numbers=[1])])


def _costs(results: dict) -> Html:
    seconds = results.get("meta", {}).get("seconds")
    if not seconds:
        return paragraph("Times were not recorded.", soft=True)
    total = sum(value or 0 for value in seconds.values())
    most = max((value or 0 for value in seconds.values()), default=0) or 1
    rows = [
        [
            phase,
            "–" if value is None else f"{value:,.1f}",
            (tag("span", css="share", style=f"width:{100 * (value or 0) / most:.1f}%"), "shares"),
        ]
        for phase, value in seconds.items()
    ]
    rows.append([tag("strong", "sum of the phases"), tag("strong", f"{total:,.1f}"), ""])
    return table(["Phase", "Seconds", ""], rows, numbers=[1])


def _caveats(results: dict) -> Html:
    return markup.bullets([*results.get("caveats", []), *findings.open_questions(results)])


def _setup(results: dict) -> Html:
    meta, parts = results.get("meta", {}), []
    if meta.get("notes"):
        parts.append(markup.bullets(meta["notes"]))
    if meta.get("taxonomy_hash"):
        parts.append(paragraph(join(["Taxonomy ", tag("code", meta["taxonomy_hash"])], "")))
    if meta.get("versions"):
        rows = [[name, tag("code", version)] for name, version in meta["versions"].items()]
        parts.append(table(["Package", "Version"], rows))
    if meta.get("config"):
        config = json.dumps(meta["config"], indent=2, ensure_ascii=False)
        parts.append(tag("details", join([tag("summary", "Configuration"), tag("pre", config)])))
    return join(parts) if parts else paragraph("Neither was recorded.", soft=True)


SECTIONS = {
    "Question and design": _design,
    "Bars": page_tables.bars,
    "Quality": page_tables.quality,
    "Differences between arms": page_tables.differences,
    "Control": page_tables.control,
    "Guidance": page_tables.guidance,
    "Inference": page_tables.inference,
    "Learning curves": _curves,
    "Samples": _samples,
    "Posterior": _posterior,
    "Costs": _costs,
    "What this does not show": _caveats,
    "Configuration and versions": _setup,
}
