"""What the results say in words: bars held or missed, effects, and what they leave open.

Everything here is computed from the results dictionary (see `report.py` for its fields); no
sentence states an outcome that was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from marker_lm.evaluation.wording import (
    NBSP,
    is_share,
    limits,
    number,
    percent,
    percent_beside,
    sign_of,
    unique,
)

MAIN_ARM = "markers"
POSTERIOR_BAR = 1e-5
# Below this many items a stratum cannot carry a claim of a few points.
FEW_ITEMS = 300


@dataclass(frozen=True)
class Bar:
    """A demand with what was measured on the main arm; `others` maps the other arms' names to
    their rows of the same check. `at_most`: the demand is an upper bound (an error)."""

    name: str
    check: str
    bar: float
    measured: float | None
    low: float | None
    high: float | None
    n: int
    others: dict[str, dict]
    at_most: bool = False

    @property
    def holds(self) -> bool | None:
        """None when nothing was measured."""
        if self.measured is None:
            return None
        return self.measured <= self.bar if self.at_most else self.measured >= self.bar

    @property
    def verdict(self) -> str:
        if self.holds is None:
            return "not measured"
        if self.holds:
            unsure = self.low is not None and self.low < self.bar
            return "holds, but the interval reaches below" if unsure else "holds"
        close = self.high is not None and self.high >= self.bar
        return "missed, but the interval reaches it" if close else "missed"

    @property
    def demand_text(self) -> str:
        if self.at_most:
            return f"≤{NBSP}{self.bar:.0e}"
        return f"≥{NBSP}{percent(self.bar, decimals=0)}"

    @property
    def measured_text(self) -> str:
        if self.measured is None:
            return "–"
        if self.at_most:
            return f"{self.measured:.1e}"
        return percent_beside(self.measured, self.bar)


def arm_label(results: dict, name: str) -> str:
    return next(
        (a.get("label") or name for a in results.get("arms", []) if a["name"] == name), name
    )


def side_label(results: dict, side: str) -> str:
    """'markers/pinned' -> 'With markers, pinned'."""
    arm, _, mode = side.partition("/")
    return arm_label(results, arm) + (f", {mode}" if mode and mode != "plain" else "")


def arm_names(results: dict) -> list[str]:
    """Names of all arms, the main one first, then in the order they were given."""
    names = [arm["name"] for arm in results.get("arms", [])]
    for key in ("control", "inference", "quality"):
        names += [row["arm"] for row in results.get(key, [])]
    names = unique(names)
    return sorted(names, key=lambda name: name != MAIN_ARM)


def main_arm(results: dict) -> str:
    """The arm that the bars judge: 'markers', or the first one when none has that name."""
    return next(iter(arm_names(results)), MAIN_ARM)


def bars(results: dict) -> list[Bar]:
    """The demands on the main arm: rows of control and inference with a bar, and the posterior."""
    main, found = main_arm(results), []
    for key, value, check in (("control", "obeyed", "check"), ("inference", "accuracy", "where")):
        for row in results.get(key, []):
            if row["arm"] != main or row.get("bar") is None:
                continue
            same = ("category", check, "stratum")
            others = {
                other["arm"]: other
                for other in results[key]
                if other["arm"] != main and all(other[k] == row[k] for k in same)
            }
            stratum = "" if row["stratum"] == "all" else f" ({row['stratum']})"
            name = row["category"] if key == "control" else f"inferred {row['category']}"
            numbers = (row[value], row.get("low"), row.get("high"), row["n"])
            found.append(Bar(name, row[check] + stratum, row["bar"], *numbers, others))
    posterior = results.get("posterior")
    if posterior:
        bar, error = posterior.get("bar", POSTERIOR_BAR), posterior["max_error_of_sum"]
        check = "largest error of a posterior's sum from 1"
        found.append(Bar("posterior", check, bar, error, None, None, posterior["n"], {}, True))
    return found


def untrained_arms(results: dict) -> list[str]:
    """Labels of the arms that never saw a marker: their control figures are no control at all."""
    plain = {row["arm"] for row in results.get("quality", []) if row["mode"] == "plain"}
    return [arm_label(results, name) for name in arm_names(results) if name in plain]


def summary(results: dict) -> list[str]:
    """The findings as a list of plain sentences, most important first."""
    lines = _bar_sentences(results) + _effect_sentences(results) + _shuffled_sentences(results)
    if results.get("guidance"):
        lines.append(guidance_sentence(results["guidance"]))
    return lines or ["The results hold no bars and no differences between arms."]


def guidance_sentence(guidance: dict) -> str:
    """Whether guidance helps the lever: what was chosen on dev, told of test."""
    lever, best, row = guidance["lever"], guidance["best"], guidance["difference"]
    if best == 1:
        return (
            f"Guidance does not help “{lever}”, the lever that is obeyed least: no weight was "
            "better than none on the rows that the weight is chosen on."
        )
    effect = {"above zero": "raises", "below zero": "lowers"}.get(
        sign_of(row), "does not clearly change"
    )
    change = f"{number(row['diff'], True, signed=True)} "
    change += limits(row.get("low"), row.get("high"), True, signed=True)
    return (
        f"Guidance with weight {best:g}, the best on other rows, {effect} how often “{lever}” is "
        f"obeyed, the weakest lever: {change.strip()} on {row['n']} held-out rows."
    )


def main_metric(results: dict) -> str | None:
    """'exact_match' when it was measured, else the first metric of differences or quality."""
    metrics = [row["metric"] for row in results.get("differences", []) + results.get("quality", [])]
    return "exact_match" if "exact_match" in metrics else next(iter(metrics), None)


def main_differences(results: dict) -> list[dict]:
    """Differences of the main metric between the main arm and another arm, all strata."""
    main, metric = main_arm(results), main_metric(results)
    rows = [row for row in results.get("differences", []) if row["metric"] == metric]
    return [r for r in rows if r["a"].split("/")[0] == main and r["b"].split("/")[0] != main]


def open_questions(results: dict) -> list[str]:
    """What the evidence does not show, as far as the numbers themselves tell."""
    found, names, main = [], arm_names(results), main_arm(results)
    if len(names) < 2:
        found.append("Only one arm was trained, so nothing here says what the markers changed.")
    elif _shuffled_arm(results) is None:
        found.append(
            "No arm with shuffled markers was trained. An arm without markers alone cannot tell "
            "whether a gain comes from the information in the markers or from the extra targets "
            "they add to the loss; markers on the wrong rows would give the second without the "
            "first."
        )
    pinned = any(r["mode"] == "pinned" and r["arm"] == main for r in results.get("quality", []))
    if pinned:
        found.append(
            "Pinned markers carry the true values of a held-out row. A pinned arm therefore knows "
            "more than an arm that sees only the prompt; the inferred mode is the like-for-like "
            "comparison."
        )
    tail = [row for row in results.get("quality", []) if row["stratum"] == "tail"]
    if tail and (n := min(row["n"] for row in tail)) < FEW_ITEMS:
        found.append(f"The tail holds only {n} items: differences of a few points drown in noise.")
    seeds = (results.get("meta", {}).get("config") or {}).get("seeds")
    if not isinstance(seeds, list | tuple) or len(seeds) < 2:
        found.append(
            "Intervals are over held-out items only. They say nothing about the spread between "
            "training seeds, which can be as large as a small effect."
        )
    return found


def _bar_sentences(results: dict) -> list[str]:
    demands = bars(results)
    if not demands:
        return []
    held = [bar for bar in demands if bar.holds]
    others = [bar for bar in demands if not bar.holds]
    label = arm_label(results, main_arm(results))
    lines = [f"{len(held)} of {len(demands)} bars hold for “{label}”."]
    for title, group in (("Held", held), ("Not held", others)):
        if group:
            texts = [
                f"{bar_title(bar, demands)} {bar.measured_text} ({bar.demand_text})"
                for bar in group
            ]
            lines.append(f"{title}: {'; '.join(texts)}.")
    compared = [bar for bar in demands if bar.others and not bar.name.startswith("inferred ")]
    for name in unique(name for bar in compared for name in bar.others):
        texts = [
            f"{bar_title(bar, compared)} {percent(bar.others[name].get('obeyed'))}"
            for bar in compared
            if name in bar.others
        ]
        lines.append(
            f"The same control checks for “{arm_label(results, name)}”: {'; '.join(texts)}."
        )
    return lines


def bar_title(bar: Bar, demands: list[Bar]) -> str:
    """The bar's name, with its check where the name alone is not unique."""
    twice = sum(other.name == bar.name for other in demands) > 1
    return f"{bar.name}, {bar.check}" if twice else bar.name


def _effect_sentences(results: dict) -> list[str]:
    lines, rows, metric = [], main_differences(results), main_metric(results)
    for a, b in unique((row["a"], row["b"]) for row in rows):
        parts = {row["stratum"]: row for row in rows if (row["a"], row["b"]) == (a, b)}
        texts = [f"{stratum} {_effect(row)}" for stratum, row in parts.items()]
        sides = f"“{side_label(results, a)}” minus “{side_label(results, b)}”"
        line = f"{metric.replace('_', ' ').capitalize()}, {sides}: {'; '.join(texts)}."
        special = parts.get("tail minus head")
        if special and sign_of(special) != "no interval":
            line += (
                " "
                + {
                    "above zero": "The tail's difference is larger than the head's.",
                    "below zero": "The tail's difference is smaller than the head's.",
                    "includes zero": "No difference between tail and head effects is shown.",
                }[sign_of(special)]
            )
        lines.append(line)
    return lines


def _effect(row: dict) -> str:
    share = is_share(row["metric"])
    interval = limits(row.get("low"), row.get("high"), share, signed=True)
    return " ".join(filter(None, [number(row["diff"], share, signed=True), interval, sign_of(row)]))


def _shuffled_arm(results: dict) -> str | None:
    return next((name for name in arm_names(results) if "shuffl" in name.lower()), None)


def _shuffled_sentences(results: dict) -> list[str]:
    """Compares gains over the plain arm, of real and of shuffled markers, in the same mode."""
    shuffled, main, metric = _shuffled_arm(results), main_arm(results), main_metric(results)
    if shuffled is None:
        return []
    means = {
        (row["arm"], row["mode"]): row["mean"]
        for row in results.get("quality", [])
        if row["metric"] == metric and row["stratum"] == "all"
    }
    plain = next((mean for (_, mode), mean in means.items() if mode == "plain"), None)
    real, wrong = means.get((main, "inferred")), means.get((shuffled, "inferred"))
    if plain is None or real is None or wrong is None:
        return []
    share = is_share(metric)
    return [
        f"Over the plain arm, inferred real markers change {metric.replace('_', ' ')} by "
        f"{number(real - plain, share, signed=True)}, inferred shuffled ones by "
        f"{number(wrong - plain, share, signed=True)}: only what the first adds to the second is "
        "owed to the information in the markers."
    ]
