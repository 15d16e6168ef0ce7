"""The report on synthetic results that use every field of the schema."""

import copy
import json
import math
import os

import numpy as np
import pytest
from rich.console import Console

from marker_lm import markup
from marker_lm.evaluation import findings, plots, report, statistics
from tests.pages import Page

LANGUAGES = """
English Chinese Hindi Spanish Arabic French Bengali Portuguese Russian Urdu Indonesian German
Japanese Turkish Vietnamese Korean Tamil Italian Thai Persian Polish Ukrainian Romanian Dutch
Greek Hungarian Czech Hebrew Georgian Armenian Amharic Icelandic
""".split()
HEAD, TAIL = LANGUAGES[:16], LANGUAGES[16:]
FORMATS = ["Plain", "JSON", "XML", "Tabular", "Enumeration", "Markdown"]
BUCKETS = ["word", "phrase", "concise", "medium", "long"]


def _row(rng, share, n, **rest):
    interval = statistics.mean_interval(rng.uniform(size=n) < share)
    fields = dict(zip(("low", "high"), (interval.low, interval.high), strict=True))
    return {**rest, "n": n, **fields}, interval.mean


def _matrix(rng, k, right, per_row):
    wrong = (1 - right) / (k - 1)
    odds = np.full((k, k), wrong) + np.eye(k) * (right - wrong)
    counts = [rng.multinomial(max(3, int(per_row / (i + 1))), row) for i, row in enumerate(odds)]
    return np.array(counts)


def make_results() -> dict:
    rng = np.random.default_rng(0)
    levels = {"markers/inferred": 0.62, "markers/pinned": 0.69, "none/plain": 0.55}
    levels["shuffled/inferred"] = 0.59
    sizes = {"all": 1200, "head": 900, "tail": 300}
    quality, differences, control, inference = [], [], [], []
    for side, level in levels.items():
        arm, mode = side.split("/")
        for stratum, n in sizes.items():
            drop = 0.12 if stratum == "tail" else 0
            row, mean = _row(rng, level - drop, n, arm=arm, mode=mode, stratum=stratum)
            quality.append({**row, "metric": "exact_match", "mean": mean})
            nats = 0.8 - level / 2 + drop
            row = {"arm": arm, "mode": mode, "stratum": stratum, "metric": "answer_nats", "n": n}
            quality.append({**row, "mean": nats, "low": nats - 0.03, "high": nats + 0.03})
    for a, effects in (("markers/inferred", (6, 7, 3)), ("markers/pinned", (13, 14, 12))):
        strata = ("all", "head", "tail", "tail minus head")
        for stratum, effect in zip(strata, (*effects, effects[2] - effects[1]), strict=True):
            row = {"a": a, "b": "none/plain", "metric": "exact_match", "stratum": stratum}
            row |= {"n": sizes.get(stratum, 1200), "diff": effect / 100}
            half = 0.03 if stratum in ("all", "head") else 0.055
            differences.append({**row, "low": row["diff"] - half, "high": row["diff"] + half})
    checks = {
        "lang": ("script and words of the language asked", 0.95, 0.974, 0.31),
        "format": ("parsed by a parser of the format asked", 0.95, 0.9496, 0.22),
        "length_bucket": ("word count inside the bucket asked", 0.9, 0.84, 0.41),
        "lang+format": ("both, for pairs never seen in training", 0.8, 0.81, 0.05),
    }
    for category, (check, bar, share, other) in checks.items():
        for arm, level in (("markers", share), ("none", other), ("shuffled", other + 0.1)):
            for stratum, n in sizes.items():
                row, mean = _row(rng, level, n, arm=arm, category=category, stratum=stratum)
                row |= {"check": check, "obeyed": mean, "bar": None}
                if arm == "markers" and stratum == "all":
                    row |= {"bar": bar, "obeyed": share}
                control.append(row)
    for category, share in (("lang", 0.998), ("task", 0.96), ("format", 0.91), ("domain", 0.84)):
        for stratum, n in sizes.items():
            row, mean = _row(rng, share, n, arm="markers", category=category, stratum=stratum)
            bar = 0.9 if stratum == "all" and category != "domain" else None
            where = "where the prompt determines it"
            inference.append({**row, "where": where, "accuracy": mean, "bar": bar})
    steps = np.arange(0, 1500, 10)
    arms = []
    for name, label, floor in (
        ("markers", "With markers", 0.42),
        ("none", "Without markers", 0.55),
        ("shuffled", "Shuffled markers", 0.5),
    ):
        loss = floor + 3 * np.exp(-steps / 300) + rng.normal(0, 0.03, size=steps.size)
        curve = {"step": steps, "answer_loss": loss}
        if name != "none":
            curve["loss"] = loss + 0.2
        evals = {"step": steps[::15], "answer_nats": loss[::15] + 0.05}
        arms.append({"name": name, "label": label, "curve": curve, "eval_curve": evals})
    share = 1 / np.arange(1, 33) ** 1.7
    maps = {
        "lang": (LANGUAGES, 0.95, 300),
        "format": (FORMATS, 0.93, 300),
        "length_bucket": (BUCKETS, 0.84, 300),
    }
    return {
        "meta": {
            "title": "Atlas: training with markers",
            "command": "make demo",
            "date": "2026-01-31",
            "config": {"seed": 0, "train": {"steps": 1500, "lr": 1e-3}, "data": "atlas"},
            "versions": {"jax": "0.10.2", "flax": "0.12.8"},
            "rows": {"train": 20000, "heldout": 1200, "rejected": 3},
            "seconds": {"prepare": 21.3, "train: with markers": 260.2, "evaluate": 101.0},
            "taxonomy_hash": "0123456789abcdef",
            "parameters": 1_612_800,
            "notes": ["Run on two processor cores."],
        },
        "arms": arms,
        "quality": quality,
        "differences": differences,
        "control": control,
        "inference": inference,
        "asked_got": {
            name: {"labels": labels, "matrix_asked_x_got": _matrix(rng, len(labels), right, n)}
            for name, (labels, right, n) in maps.items()
        },
        "inferred_confusion": {
            name: {"labels": labels, "matrix_true_x_inferred": _matrix(rng, len(labels), right, n)}
            for name, (labels, right, n) in maps.items()
        },
        "posterior": {
            "n": 200,
            "max_error_of_sum": 3.1e-7,
            "mean_true_probability": {"lang": 0.99, "format": 0.93},
        },
        "strata": {
            "rule": "the rarest languages that share less than 5 % of the training rows",
            "category": "lang",
            "head": HEAD,
            "tail": TAIL,
            "train_share": dict(zip(LANGUAGES, share / share.sum(), strict=True)),
        },
        "samples": [
            {
                "prompt": "Name the currency of Egypt.",
                "category": "lang",
                "own": "Arabic",
                "rows": [
                    _sample("Arabic", {"lang": "Arabic"}, "الجنيه المصري هو عملة مصر (EGP).", True),
                    _sample("German", {"lang": "German"}, "Das ägyptische Pfund.", True),
                    _sample("Thai", {"lang": "Thai"}, "ปอนด์อียิปต์", False),
                    _sample("Hebrew", {"lang": "he"}, "לירה מצרית\nשורה שנייה", None),
                ],
            },
            {
                "prompt": "Give the capitals of France, Japan and Kenya.\nUse the format asked.",
                "category": "format",
                "own": "JSON",
                "rows": [
                    _sample("JSON", {"format": "JSON"}, '{\n  "France": "Paris"\n}', True),
                    _sample(
                        "XML", {"format": "XML"}, "<list>\n  <item>Paris</item>\n</list>", True
                    ),
                    _sample(
                        "Tabular", {"format": "Tabular"}, "| a | b |\n|---|---|\n| 1 | 2 |", True
                    ),
                    _sample("Plain", {"format": "Plain"}, "", False),
                ],
            },
        ],
        "caveats": ["The Atlas is generated text: real knowledge in few phrasings."],
    }


def _sample(value, markers, text, ok):
    return {"value": value, "markers": markers, "text": text, "ok": ok}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "made" / "here"
    path = report.write_report(make_results(), folder)
    return (
        path,
        json.loads((folder / "report.json").read_text(encoding="utf-8")),
        Page(path.read_text(encoding="utf-8")),
    )


@pytest.fixture(autouse=True)
def small_pages(written, monkeypatch):
    """All pages but `written` go without the plotting library: parsing its 5 MB takes a while."""
    monkeypatch.setattr(markup, "get_plotlyjs", lambda: "")


def test_page_is_one_file_that_loads_nothing(written):
    path, _, html_page = written
    assert path.name == "report.html" and len(path.read_bytes()) < 8_000_000
    assert html_page.sources and all(source.startswith("#") for source in html_page.sources)
    assert "default-src 'none'" in path.read_text(encoding="utf-8")
    assert not {"img", "iframe", "link"} & set(html_page.tags)
    assert path.read_text(encoding="utf-8").count("plotly.js v") == 1


def test_json_holds_the_numbers_that_went_in(written):
    results, stored = make_results(), written[1]
    assert list(stored)[0] == "meta" and set(stored) == set(results)
    for key, value in (("quality", "mean"), ("differences", "diff"), ("control", "obeyed")):
        given = [row[value] for row in results[key]]
        assert [row[value] for row in stored[key]] == pytest.approx(given, rel=1e-5)
    given = results["asked_got"]["lang"]["matrix_asked_x_got"].tolist()
    assert stored["asked_got"]["lang"]["matrix_asked_x_got"] == given
    assert stored["asked_got"]["lang"]["labels"] == LANGUAGES
    assert list(stored["meta"]["config"]) == ["data", "seed", "train"]


def test_summary_follows_the_numbers(written):
    html_page = written[2]
    assert "6 of 8 bars hold for “With markers”." in html_page.text
    assert "Not held: format 94.96 % (≥ 95 %)" in html_page.text  # not rounded up to the bar
    assert "“With markers, inferred” minus “Without markers”" in html_page.text
    assert "tail minus head −4.0 points [−9.5, +1.5] includes zero" in html_page.text
    assert "No difference between tail and head effects is shown." in html_page.text
    assert "only what the first adds to the second" in html_page.text

    results = make_results()
    for row in results["control"]:
        if row["bar"] is not None:
            row |= {"obeyed": 1.0, "low": 0.99, "high": 1.0}
    for row in results["differences"]:
        if row["stratum"] == "tail minus head":
            row |= {"diff": 0.05, "low": 0.01, "high": 0.09}
    lines = findings.summary(report.clean_results(results))
    assert lines[0] == "8 of 8 bars hold for “With markers”."
    assert any("The tail's difference is larger than the head's." in line for line in lines)
    assert not any(line.startswith("Not held") for line in lines)


@pytest.mark.parametrize(
    ("measured", "low", "high", "verdict"),
    [
        (0.97, 0.96, 0.98, "holds"),
        (0.96, 0.94, 0.98, "holds, but the interval reaches below"),
        (0.94, 0.92, 0.96, "missed, but the interval reaches it"),
        (0.90, 0.88, 0.92, "missed"),
        (None, None, None, "not measured"),
        (0.96, None, None, "holds"),
    ],
)
def test_verdicts(measured, low, high, verdict):
    row = {"arm": "markers", "category": "lang", "check": "c", "stratum": "all", "n": 10}
    row |= {"obeyed": measured, "low": low, "high": high, "bar": 0.95}
    (bar,) = findings.bars({"control": [row]})
    assert bar.verdict == verdict


def test_posterior_bar_is_an_upper_bound():
    for error, holds in ((3e-6, True), (1e-5, True), (2e-5, False), (math.nan, None)):
        posterior = {"n": 5, "max_error_of_sum": error}
        (bar,) = findings.bars(report.clean_results({"posterior": posterior}))
        assert bar.holds is holds


def test_tables_carry_bars_control_arm_and_tail(written):
    console = Console(width=220, record=True, file=open(os.devnull, "w"))
    console.print(report.terminal_table(make_results()))
    shown = console.export_text().replace("\u00a0", " ")
    (line,) = [line for line in shown.splitlines() if line.split()[:1] == ["lang"]]
    assert "≥ 95 %" in line and "97.4 %" in line and "holds" in line
    none = next(r for r in make_results()["control"] if r["arm"] == "none")
    assert f"{100 * none['obeyed']:.1f} %" in line
    assert "exact match, tail minus head, inferred" in shown
    assert "Differences are minus “Without markers”, row by row." in shown
    assert "+12.0 points [+6.5, +17.5]" in shown and "above zero" in shown

    narrow = Console(width=80, record=True, file=open(os.devnull, "w"))
    narrow.print(report.terminal_table(make_results()))
    words = narrow.export_text().replace("\u00a0", " ")
    assert all(word in words for word in ("length_bucket", "Shuffled", "97.4 %", "includes"))
    assert f"{100 * none['obeyed']:.1f} %" in words and "…" not in words

    markdown = report.markdown_table(make_results()).replace("\u00a0", " ").splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert len(markdown) == 2 + 8 + 4
    assert (
        "| posterior: largest error of a posterior's sum from 1 | ≤ 1e-05 | 3.1e-07 |"
        in "".join(markdown)
    )


def test_the_table_of_a_terminal_has_whole_verdicts():
    results = make_results()
    for row in results["control"]:
        if row["bar"] is not None:
            row |= {"obeyed": row["bar"] + 0.01, "low": row["bar"] - 0.02, "high": 1.0}
    for width in (80, 120, 300):
        console = Console(width=width, record=True, file=open(os.devnull, "w"))
        console.print(report.terminal_table(results))
        shown = console.export_text()
        assert all(word in shown for word in ("holds,", "but the", "reaches", "below"))
        assert "…" not in shown


HOSTILE = "<script>alert('x')</script>&</pre>\"%{y}\x00\ud800"


def _poison(value):
    """Every label of data and every free text becomes hostile; keys that carry meaning stay."""
    results = make_results()
    results["meta"] |= {
        "title": value,
        "command": value,
        "notes": [value],
        "config": {value: value},
    }
    results["meta"] |= {"versions": {value: value}, "seconds": {value: 1.0}, "date": value}
    results["caveats"] = [value]
    results["strata"] |= {"rule": value, "category": value, "tail": [value]}
    results["strata"]["train_share"] = {value: 0.4, "b": 0.6}
    for key in ("control", "inference"):
        for row in results[key]:
            row |= {"category": value, "check" if key == "control" else "where": value}
    for arm in results["arms"]:
        arm["label"] = value
    for row in results["quality"] + results["differences"]:
        row |= {"metric": value, "stratum": value}
    for key, field in (("asked_got", "asked_x_got"), ("inferred_confusion", "true_x_inferred")):
        results[key] = {value: {"labels": [value, "b"], f"matrix_{field}": [[1, 0], [0, 1]]}}
    for sample in results["samples"]:
        sample |= {"prompt": value, "category": value, "own": value}
        for row in sample["rows"]:
            row |= {"value": value, "markers": {value: value, "lang": value}, "text": value}
    return results


def test_hostile_text_is_shown_not_run(tmp_path, written):
    path = report.write_report(_poison(HOSTILE), tmp_path)
    html_page = Page(path.read_text(encoding="utf-8"))
    clean_scripts = written[2].tags.count("script")
    figures = len(written[2].figures) - len(html_page.figures)
    assert html_page.tags.count("script") == clean_scripts - figures
    assert "<script>alert" not in path.read_text(encoding="utf-8")
    assert "alert('x')" in html_page.text and "\\ud800" in html_page.text
    for figure in html_page.figures:
        strings = [s for s in _strings(figure) if "alert" in s]
        assert all("<script" not in s and "&lt;script&gt;" in s for s in strings)
    assert "\x00" not in path.read_text(encoding="utf-8")
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    report.markdown_table(_poison(HOSTILE))
    report.terminal_table(_poison("[bold]x[/bold] [/nope]"))


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _strings(entry)


@pytest.mark.parametrize("missing", [*report.SECTIONS, "everything"])
def test_missing_sections_leave_a_sentence(tmp_path, missing):
    results = make_results()
    results = {} if missing == "everything" else {k: v for k, v in results.items() if k != missing}
    html_page = Page(report.write_report(results, tmp_path).read_text(encoding="utf-8"))
    sentences = {
        "arms": "No learning curves were recorded.",
        "quality": "Quality of the answers was not measured in this run.",
        "differences": "No paired differences were computed",
        "control": "Control by pinned markers was not measured",
        "inference": "Inference of markers was not measured",
        "samples": "No samples were drawn.",
        "posterior": "Posteriors over marker values were not computed.",
        "strata": "No rule for head and tail strata was given.",
        "meta": "Times were not recorded.",
    }
    due = sentences.values() if missing == "everything" else [sentences.get(missing, "In short")]
    assert all(sentence in html_page.text for sentence in due)
    report.terminal_table(results)
    report.markdown_table(results)


def test_without_a_shuffled_arm_the_report_says_what_that_leaves_open():
    results = make_results()
    assert not any("shuffled" in text for text in findings.open_questions(results))
    for key in ("arms", "quality", "control"):
        field = "name" if key == "arms" else "arm"
        results[key] = [row for row in results[key] if row[field] != "shuffled"]
    assert any("No arm with shuffled markers" in text for text in findings.open_questions(results))
    assert not any("shuffled" in line for line in findings.summary(results))


def test_not_finite_numbers_become_null(tmp_path):
    results = make_results()
    results["quality"][0] |= {"mean": math.nan, "low": math.inf, "high": np.float32("nan")}
    results["arms"][0]["curve"]["answer_loss"][3] = math.nan
    results["differences"][0] |= {"diff": math.nan, "low": math.nan, "high": math.nan}
    results["meta"]["seconds"]["train"] = math.nan
    results["posterior"]["max_error_of_sum"] = math.nan
    html_page = Page(report.write_report(results, tmp_path).read_text(encoding="utf-8"))
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    stored = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in report.json"))
    assert stored["quality"][0]["mean"] is None and stored["quality"][0]["high"] is None
    assert stored["arms"][0]["curve"]["answer_loss"][3] is None
    assert "not measured" in html_page.text and "nan" not in html_page.text.split()


def test_values_are_plain_and_rounded():
    given = {
        "meta": {
            "a": np.float32(0.5),
            "d": 2 / 3,
            "b": np.arange(2),
            "c": (1, True, None),
            3: {"z", "y"},
        }
    }
    plain = report.clean_results(given)["meta"]
    assert plain == {"a": 0.5, "d": 0.666666667, "b": [0, 1], "c": [1, True, None], "3": ["y", "z"]}
    assert plain["c"][1] is True


def test_a_row_without_a_field_is_named():
    results = make_results()
    del results["control"][4]["obeyed"]
    with pytest.raises(
        report.ReportError, match=r"control\[4\] lacks 'obeyed'; it has arm, category"
    ):
        report.clean_results(results)


def test_input_is_left_as_it_was(tmp_path):
    results = make_results()
    before = copy.deepcopy(results)
    report.write_report(results, tmp_path)
    np.testing.assert_equal(results, before)


def test_heat_map_colours_by_row_and_counts_stay():
    figure = plots.heat_map(["a", "b", "c"], ["a", "b", "other"], [[3, 1, 0], [0, 0, 0], [0, 0, 5]],
                            "asked", "got")  # fmt: skip
    trace = figure.data[0]
    assert [list(row) for row in trace.z] == [[0.75, 0.25, 0], [None] * 3, [0, 0, 1]]
    assert [list(row) for row in trace.text] == [["3", "1", ""], ["", "", ""], ["", "", "5"]]
    with pytest.raises(ValueError, match="2 x 2 matrix does not fit 3 x 3"):
        plots.heat_map("abc", "abc", [[1, 2], [3, 4]], "asked", "got")


def test_plots_hold_the_intervals():
    results = report.clean_results(make_results())
    trace = next(t for t in plots.differences(results, "exact_match").data if t.name == "tail")
    rows = [r for r in results["differences"] if r["stratum"] == "tail"]
    assert list(trace.x) == pytest.approx([100 * row["diff"] for row in rows])
    assert list(trace.error_x.array) == pytest.approx([5.5, 5.5])
    curves = plots.learning_curves(results)
    assert len(curves.data) == 3 + 2 + 3  # answer loss, total loss where known, held out


def test_long_curves_are_thinned_and_the_page_says_so(tmp_path):
    results = make_results()
    steps = list(range(4000))
    results["arms"][0]["curve"] = {"step": steps, "answer_loss": steps}
    html_page = Page(report.write_report(results, tmp_path).read_text(encoding="utf-8"))
    assert "One point in 3 is drawn" in html_page.text
    assert len(plots.learning_curves(report.clean_results(results)).data[0].x) == 1334
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["arms"][0]["curve"]["step"] == steps


def test_samples_keep_script_direction_and_structure(written):
    text = written[0].read_text(encoding="utf-8")
    assert 'class="text mono" dir="auto">{\n  &quot;France&quot;' in text
    assert '<div class="text" dir="auto" lang="he">לירה' in text
    assert "(empty)" in text
