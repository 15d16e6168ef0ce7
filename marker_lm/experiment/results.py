"""Gathers finished runs: results.json with every record, and the results of the report."""

import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from marker_lm.annotate.checks import judges, make_checks
from marker_lm.data.setup import find_arm
from marker_lm.data.whole_files import write_whole
from marker_lm.evaluation.benchmark import Item
from marker_lm.evaluation.run import PACKAGES, arm_curves
from marker_lm.experiment import analysis
from marker_lm.experiment.design import Design, scored_list
from marker_lm.experiment.measure import METRIC, SKIPPED
from marker_lm.experiment.runner import RECORDS, RESULTS, chosen_rate, read_done
from marker_lm.markers.taxonomy import load_taxonomy

# Which list stands before the answers that arms are compared in -> how a report calls that.
_MODES = {"own": "inferred", "true": "true list", "filler": "filler list", "none": "no list"}


def collect(design: Design, registered: str) -> list[dict[str, Any]]:
    """Writes results.json: one record for each item, arm, seed and metric. Returns the records."""
    records = []
    for arm in design.configs:
        for run in design.main(arm, chosen_rate(design, arm)):
            for line in (run.folder / RECORDS).read_text().rstrip("\n").split("\n"):
                records.append({"arm": arm, "seed": run.seed, **json.loads(line)})
    # A record a line, for tools that read lines; the whole is one JSON object all the same.
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    text = f'{{"registered": {json.dumps(registered)}, "records": [\n{lines}\n]}}\n'
    write_whole(design.workdir / RESULTS, text.encode("utf-8", "backslashreplace"))
    return records


def make_results(
    design: Design,
    registration: Mapping[str, Any],
    items: Sequence[Item],
    records: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What evaluation/report.py writes, from the records of all runs."""
    strata, about = registration["strata"], design.reference.experiment
    skipped = {r["item"] for r in records if r["metric"] == SKIPPED}
    values = analysis.read_values([r for r in records if r["metric"] != SKIPPED])
    data = analysis.Data(values, items, strata["category"], frozenset(strata["tail"]))
    with_list = {arm: scored_list(design.configs[arm]) for arm in design.configs}
    modes = {
        # 'plain' is said of arms that never saw a marker.
        arm: "plain" if not _has_markers(design, arm) else _MODES[mode]
        for arm, mode in with_list.items()
    }
    facts = {arm: read_done(design.main(arm, None)[0]) for arm in design.configs}
    differences = analysis.differences(data, about.reference, modes)
    return {
        "meta": {
            "title": "Markers in training: arms compared",
            "question": registration["question"],
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "config": {**design.reference.to_dict(), "seeds": list(design.seeds)},
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "taxonomy_hash": strata["taxonomy_hash"],
            "parameters": facts[about.reference]["parameters"],
            "rows": {"training": strata["rows"]["count"], "evaluated": len(items) - len(skipped)},
            "seconds": _seconds(design),
            "notes": list(_notes(design, registration, skipped)),
        },
        "arms": [_curves(design, arm) for arm in design.configs],
        "quality": analysis.quality(data, modes),
        "differences": differences,
        "control": analysis.control(data, judged_shares(design, items)),
        "inference": analysis.inference(data),
        "strata": {key: strata[key] for key in ("rule", "category", "head", "tail")}
        | {"train_share": strata["train_shares"][strata["category"]]},
        "samples": list(samples),
        "experiment": {
            "registered": registration["hash"],
            "registered_on": registration["date"],
            "bears": about.bears,
            "arms": {
                arm: {
                    "scored_with": with_list[arm],
                    "rates": {f"{r.rate:g}": read_done(r)["dev_nats"] for r in design.sweep(arm)},
                    "rate": chosen_rate(design, arm),
                    "parameters": facts[arm]["parameters"],
                    "steps": facts[arm]["steps"],
                    "list_tokens": tokens,
                }
                for arm, tokens in ((a, analysis.costs(data).get(a)) for a in design.configs)
            },
            "one_by_one": _one_by_one(data, about),
        },
        "caveats": list(_caveats(design, differences)),
    }


def judged_shares(design: Design, items: Sequence[Item]) -> dict[str, float]:
    """Of the items with a category, the share whose answers its check can judge."""
    checks = make_checks(load_taxonomy(design.reference.taxonomy))
    found = {}
    for category, check in checks.items():
        can = [judges(check, i.markers[category], i.key) for i in items if category in i.markers]
        if any(can):
            found[category] = sum(can) / len(can)
    return found


def _has_markers(design: Design, arm: str) -> bool:
    kind = find_arm(design.configs[arm].arm)
    return kind.prompt_side or kind.completion_side


def _curves(design: Design, arm: str) -> dict[str, Any]:
    run = design.main(arm, None)[0]
    return arm_curves(arm, run.folder, design.label(arm))


def _one_by_one(data: analysis.Data, about) -> list[dict[str, Any]]:
    arms = [
        arm for arm in ("markers", *data.values) if arm in data.values and arm != about.reference
    ]
    if not arms:
        return []
    return analysis.one_by_one(data, arms[0], about.reference, about.strata, about.least_items)


def _seconds(design: Design) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for run in design.runs():
        for phase, spent in read_done(run)["seconds"].items():
            name = f"{phase}, {'rates' if run.sweep else 'arms'}"
            seconds[name] = seconds.get(name, 0.0) + spent
    return seconds


def _notes(design: Design, registration: Mapping[str, Any], skipped: set[str]):
    yield (
        f"Registered on {registration['date']} before the first run, hash {registration['hash']}: "
        f"strata, {registration['test_items']['count']} test rows, the first metric, steps, rates."
    )
    yield (
        "Rows stand in the same sequences and steps in all arms: packing reckons for each row with "
        "the arm that needs most room. Arms with shorter lists have more padding, not other rows. "
        "Arms that up-sample draw other rows, the same as each other, in as many steps."
    )
    yield "The loss of every arm is divided by the number of answer tokens of the batch."
    yield (
        f"{METRIC.replace('_', ' ').capitalize()}: negative log-likelihood of a row's answer "
        "tokens (eos included, list left out) over their number; means are over rows. Lower is "
        "better."
    )
    if skipped:
        yield (
            f"{len(skipped)} test rows are left out for all arms, since they do not fit into "
            "sequences with the longest lists."
        )


def _caveats(design: Design, differences: Sequence[Mapping[str, Any]]):
    if design.reference.experiment.bears:
        yield design.reference.experiment.bears
    S = len(design.seeds)
    if S > 1:
        yield (
            f"{S} seeds an arm: intervals are over rows and seeds, with Student's t, and still "
            f"rest on {S} draws of what a seed can do."
        )
    yield (
        "A marked arm writes its list before it answers and is trained on the list's tokens, too; "
        "shuffled and filler lists are there to tell that from what the markers say."
    )
    if any(scored_list(design.configs[arm]) in ("true", "filler") for arm in design.configs):
        yield (
            "An arm that was not taught to write its list is scored with the row's true list, or "
            "one as long: it knows what the others have to infer."
        )
    swept = [arm for arm in design.configs if design.sweep(arm)]
    ends = [a for a in swept if chosen_rate(design, a) in _ends(design.configs[a])]
    if not swept:
        yield "One learning rate for all arms; where it is not each arm's best, differences shift."
    if ends:
        yield (
            f"The best learning rate of {', '.join(ends)} is the lowest or highest that was tried: "
            "a better one may lie outside."
        )
    tail = [d for d in differences if d["metric"] == METRIC and d["stratum"] == "tail minus head"]
    for row in tail:
        if row["low"] <= 0 <= row["high"]:
            yield (
                f"No tail gain beyond the head's is shown for {row['a']} against {row['b']}: this "
                f"test could see {row['detectable']:.3f} nats or more (power 80 %)."
            )


def _ends(config) -> tuple[float, float]:
    rates = config.experiment.learning_rates
    return min(rates), max(rates)


def write_table(results: Mapping[str, Any], path: epath.PathLike) -> str:
    """A short Markdown table for a README: effects on all, tail and head, and their difference."""
    rows = [r for r in results["differences"] if r["metric"] == METRIC]
    pairs = list(dict.fromkeys((r["a"], r["b"]) for r in rows))
    strata = (*analysis.STRATA, "tail minus head")
    head = ["nats per answer token, minus is better", *strata]
    lines = [head, ["---", *["---:"] * len(strata)]]
    for a, b in pairs:
        found = {r["stratum"]: r for r in rows if (r["a"], r["b"]) == (a, b)}
        cells = [_cell(found.get(stratum)) for stratum in strata]
        lines.append([f"{_side(a)} against {_side(b)}", *cells])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    seeds = len(results["meta"]["config"]["seeds"])
    text += (
        f"\n{seeds} seed(s) an arm, 95 % intervals over rows and seeds, in parentheses the "
        f"least difference that the test could see; registered before training as "
        f"{results['experiment']['registered']}.\n"
    )
    write_whole(epath.Path(path), text.encode())
    return text


def _side(side: str) -> str:
    arm, _, mode = side.partition("/")
    arm = arm.replace("_", " ")
    return arm if mode in ("plain", "no list", "inferred") else f"{arm} ({mode})"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['diff']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] ({row['detectable']:.3f})"
