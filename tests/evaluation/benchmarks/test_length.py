"""Length against counts made by hand, and against the limits that AlpacaEval-LI publishes."""

import json
import os
from pathlib import Path

import pytest

from marker_lm.evaluation.benchmarks.registry import load_benchmark
from marker_lm.evaluation.benchmarks.run import read_items
from marker_lm.markers.taxonomy import Category, Taxonomy
from tests.evaluation.benchmarks.made import scored, table

WORDS = "words (NLTK)"
UAX = "words (UAX 29)"
MODELS = ("gpt4_1106_preview", "claude-3-opus-20240229", "mistral-large-2402")


def sentence(words: int) -> str:
    """A text of so many words by NLTK: commas and the last full stop are tokens, but no words, a
    full stop within the text stays with its word, and a contraction is two."""
    assert words >= 4
    return "It's so, " + "well. " * (words - 3) + "."


@pytest.mark.extra
def test_the_limit_is_the_shortest_answer_in_words_of_nltk():
    pytest.importorskip("nltk")
    length = load_benchmark("length")
    assert length.count("It's so, well.") == 4  # It 's so , well .
    assert length.count("(A) 3.5 e-mails -- don't!") == 6  # ( A ) 3.5 e-mails -- do n't !
    # As many words as the shortest answers to the two published prompts have.
    assert length.shortest([sentence(405), sentence(199), sentence(342)]) == 199
    assert length.shortest([sentence(56), sentence(166), sentence(82)]) == 56


@pytest.mark.extra
def test_published_answers_give_the_published_limits():
    """MARKER_LM_ALPACA_EVAL: folder with NAME.json of the three models, their model_outputs.json in
    the results of the AlpacaEval repository."""
    pytest.importorskip("nltk")
    folder = Path(os.environ.get("MARKER_LM_ALPACA_EVAL", "alpaca_eval"))
    files = [folder / f"{name}.json" for name in MODELS]
    if not all(file.exists() for file in files):
        pytest.skip(f"no {files[0]}; set MARKER_LM_ALPACA_EVAL")
    items, bad = read_items(load_benchmark("length"), files)
    limits = {item.prompt: item.facts["max_len"] for item in items}
    assert len(items) == 805 and not bad
    for start, limit in (
        ("What are the names of some famous actors", 199),
        ("Who created the", 56),
    ):
        found = [n for p, n in limits.items() if p.split("\n\n", 1)[1].startswith(start)]
        assert limit in found
        assert any(f"using {limit} words or less" in prompt for prompt in limits)


def test_errors_by_hand(tmp_path):
    rows = [
        {"prompt": "a", "max_len": 10},
        {"prompt": "b", "max_len": 10},
        {"prompt": "c", "max_len": "10"},
        {"prompt": "d", "target": 4},
    ]
    answers = ["w " * 10, "w " * 11, "w " * 7, "w " * 5]
    result = scored(tmp_path, "length", rows, answers, unit=UAX)
    found = table(result)["all"]
    assert found["violation"] == pytest.approx(1 / 3)  # of limits, not of the target
    assert result.lines[0].metrics["violation"].n == 3
    assert found["signed_error"] == (0 + 1 - 3 + 1) / 4
    assert found["absolute_error"] == (0 + 1 + 3 + 1) / 4
    assert found["signed_error_share"] == pytest.approx((0 + 0.1 - 0.3 + 0.25) / 4)
    assert found["absolute_error_share"] == pytest.approx((0 + 0.1 + 0.3 + 0.25) / 4)
    assert found["near"] == 2 / 4
    assert f"Lengths are in {UAX}." in result.notes


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "many", None])
def test_a_limit_that_is_none_is_a_bad_row(tmp_path, value):
    rows = [{"prompt": "a", "max_len": 3}, {"prompt": "b", "max_len": value}]
    result = scored(tmp_path, "length", rows, ["w"], unit=UAX)
    assert result.skipped == {"the row of the data is bad": 1}


def taxonomy(unit):
    number = Category("words", "integer", "the length", "computed", "completion", unit=unit)
    size = Category(
        "size", "bucket", "a size", "computed", "completion", {"short": "s", "long": "l"},
        of="words", edges=(9.0,),
    )  # fmt: skip
    parts = Category(
        "parts", "integer", "sentences", "computed", "completion", unit="sentences (UAX 29)"
    )
    points = Category("points", "number", "a score", "metadata", "completion", unit="points")
    made = (number, size, parts, points)
    return Taxonomy("small", {one.name: one for one in made})


def test_a_marker_that_counts_another_unit_is_warned_about():
    length = load_benchmark("length", {"marker": "words"})
    (warning,) = length.warnings(taxonomy(UAX), {"words": 9})
    assert f"'words' counts {UAX}" in warning and f"benchmark counts {WORDS}" in warning
    assert len(list(length.warnings(taxonomy(UAX), {"size": "short"}))) == 1  # by its number
    assert not list(length.warnings(taxonomy(WORDS), {"words": 9, "size": "short"}))
    assert not list(length.warnings(taxonomy(UAX), {"parts": 2, "points": 1.5, "gone": 1}))
    by_parts, uax = (
        load_benchmark("length", {"marker": "parts"}),
        load_benchmark("length", {"unit": UAX}),
    )
    assert list(by_parts.warnings(taxonomy(UAX), {"parts": 2}))
    assert not list(uax.warnings(taxonomy(UAX), {"words": 9}))
    (warning,) = uax.warnings(None, {"words": 9, "size": "short"})
    assert "words pinned, in a unit that is not known here; give --taxonomy" in warning


def test_files_of_several_models_make_the_limits(tmp_path):
    files = []
    for number, outputs in enumerate((["a b c", "a"], ["a b", "a b"])):
        rows = [{"instruction": f"q{i}", "output": text} for i, text in enumerate(outputs)]
        rows += [{"instruction": "alone", "output": "a"}] if number else [{"instruction": "x"}]
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(rows))
    items, bad = read_items(load_benchmark("length", {"unit": UAX}), files)
    assert [(item.facts["max_len"], item.prompt) for item in items] == [
        (2, "Answer the following instruction using 2 words or less.\n\nq0"),
        (1, "Answer the following instruction using 1 words or less.\n\nq1"),
    ]
    assert len(bad) == 2 and "only 1 of 2 files" in bad[1]
