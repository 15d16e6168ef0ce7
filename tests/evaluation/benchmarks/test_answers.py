"""Exact match and ROUGE-L by hand, with several references, in any script."""

import pytest

from tests.evaluation.benchmarks.made import scored, table

pytestmark = pytest.mark.extra
pytest.importorskip("rouge_score")


def test_by_hand(tmp_path):
    rows = [
        {"instruction": "Who?", "input": "Superman", "refs": ["Jerry Siegel", "Joe Shuster"]},
        {"prompt": "What?", "completion": "the cat sat on the mat"},
        {"prompt": "Wo?", "output": "Straße"},
    ]
    answers = [" joe  SHUSTER\n", "the cat lay on a mat", "STRASSE"]
    result = scored(tmp_path, "answers", rows, answers)
    assert [row.scores["exact"] for row in result.rows] == [1, 0, 1]
    # The cat on mat: 4 of 6 words each way.
    assert [row.scores["ROUGE_L"] for row in result.rows] == pytest.approx([1, 4 / 6, 1])
    assert result.rows[0].item.prompt == "Who?\n\nSuperman"


def test_scripts_that_the_package_does_not_know(tmp_path):
    rows = [{"prompt": "a", "reference": "большая река"}, {"prompt": "b", "reference": "大きい川"}]
    answers = ["большая гора", "小さい川"]
    found = scored(tmp_path, "answers", rows, answers)
    assert found.rows[0].scores["ROUGE_L"] == 1 / 2
    assert found.rows[1].scores["ROUGE_L"] == 2 / 4  # a letter is a word: い, 川
    official = scored(tmp_path, "answers", rows, answers, tokens="rouge-score")
    assert [row.scores["ROUGE_L"] for row in official.rows] == [0, 0]
    with pytest.raises(ValueError, match="'words' or 'rouge-score'"):
        scored(tmp_path, "answers", rows, answers, tokens="letters")


def test_the_official_tokens_and_stems(tmp_path):
    rows = [{"prompt": "a", "reference": "the dog's running"}]
    for settings, value in (
        ({}, 1 / 3),  # the, dog's, running against the, dogs, runs
        ({"tokens": "rouge-score"}, 2 * 1 / (4 + 3)),  # the, dog, s, running
        ({"tokens": "rouge-score", "stem": True}, 2 * 3 / (4 + 3)),  # the, dog, run are common
    ):
        result = scored(tmp_path, "answers", rows, ["the dogs runs"], **settings)
        assert result.rows[0].scores["ROUGE_L"] == pytest.approx(value), settings


def test_lines_by_a_field(tmp_path):
    rows = [
        {"prompt": "a", "reference": "x", "task": ["QA", "Trivia"]},
        {"prompt": "b", "reference": "y", "task": "QA"},
        {"prompt": "c", "reference": " "},
    ]
    result = scored(tmp_path, "answers", rows, ["x", "n"], by="task")
    found = {group: one["exact"] for group, one in table(result).items()}
    assert found == {"all": 1 / 2, "task=QA": 1 / 2, "task=Trivia": 1}
    assert result.skipped == {"the row of the data is bad": 1}
