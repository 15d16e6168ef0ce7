"""Accuracy, macro-F1 and calibration of inferred markers by hand."""

import pytest

from tests.evaluation.benchmarks.made import scored, table


def test_by_hand(tmp_path):
    truth = ["a", "a", "a", "b", "c"]
    rows = [{"prompt": f"p{i}", "markers": {"kind": t, "words": 3}} for i, t in enumerate(truth)]
    given = ["a", "a", "b", "b", None]
    p = [0.9, 0.7, 0.7, 0.4, None]
    answers = [
        {"text": "", "markers": {"kind": g} if g else {}, "probability": {"kind": q} if g else {}}
        for g, q in zip(given, p, strict=True)
    ]
    result = scored(tmp_path, "marker_inference", rows, answers)
    (line,) = result.lines
    assert line.group == "kind"  # numbers are no values
    assert line.metrics["accuracy"].mean == 3 / 5 and line.metrics["accuracy"].n == 5
    # a: P 1, R 2/3; b: P 1/2, R 1; c: never found.
    assert line.metrics["macro_F1"].mean == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    # Bins of a fifteenth: .9 right, .7 and .7 half right, .4 right, of four with a probability.
    error = (abs(1 - 0.9) + 2 * abs(0.5 - 0.7) + abs(1 - 0.4)) / 4
    assert line.metrics["calibration_error"].mean == pytest.approx(error)
    assert line.metrics["calibration_error"].n == 4


def test_sets_of_values(tmp_path):
    rows = [{"prompt": str(i), "markers": {"task": t}} for i, t in enumerate((["x", "y"], "x"))]
    answers = [{"text": "", "markers": {"task": t}} for t in (["y", "x"], ["x", "y"])]
    found = table(scored(tmp_path, "marker_inference", rows, answers))["task"]
    assert found["accuracy"] == 1 / 2
    assert found["macro_F1"] == pytest.approx((1 + 2 / 3) / 2)  # x always right; y once too often


def test_pinned_markers_are_not_inferred(tmp_path):
    rows = [{"prompt": "p", "markers": {"lang": "de", "task": "QA"}}] * 3 + [{"prompt": "q"}]
    answer = {"text": "", "markers": {"lang": "de", "task": "QA"}}
    answers = [answer | {"pinned": ["lang"]}, answer | {"pinned": ["lang", "task"]}, {"text": ""}]
    result = scored(tmp_path, "marker_inference", rows, answers)
    assert [line.group for line in result.lines] == ["task"]
    assert result.skipped == {
        "all its categories were pinned": 1,
        "the answer has no markers": 1,
        "the row of the data is bad": 1,
    }
    only = scored(tmp_path, "marker_inference", rows, [answer] * 3, categories=["lang"])
    assert [line.group for line in only.lines] == ["lang"]
