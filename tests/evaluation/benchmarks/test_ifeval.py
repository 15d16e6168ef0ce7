"""IFEval by the harness's checkers: each kind that the data has is checked, or counted as not."""

import pytest

from marker_lm.evaluation.benchmarks import ifeval
from marker_lm.evaluation.benchmarks.ifeval import IFEval
from marker_lm.evaluation.benchmarks.run import read_items, score_answers
from tests.data.small import shared_data
from tests.evaluation.benchmarks.made import scored, table

pytestmark = pytest.mark.extra
COMMA, WORDS, SENTENCES = (
    "punctuation:no_comma",
    "length_constraints:number_words",
    "length_constraints:number_sentences",
)
FEW = {"relation": "less than", "num_words": 4}


@pytest.fixture(autouse=True)
def harness():
    pytest.importorskip("lm_eval.tasks.ifeval.utils", exc_type=ImportError)


def row(*constraints):
    kinds, kwargs = zip(*constraints, strict=True)
    return {"prompt": "Write.", "instruction_id_list": list(kinds), "kwargs": list(kwargs)}


def test_strict_and_loose_by_hand(tmp_path):
    both = row((COMMA, {}), (WORDS, FEW))
    answers = [
        "one two three",
        "one, two",
        "Sure, here it is:\none two three",
        "one two three four",
    ]
    found = table(scored(tmp_path, "ifeval", [both] * 4, answers))
    assert found["all"] == {
        "prompt_strict": 1 / 4,
        "prompt_loose": 2 / 4,  # the third without its first line
        "constraint_strict": (2 + 1 + 0 + 1) / 8,
        "constraint_loose": (2 + 1 + 2 + 1) / 8,
    }
    assert found[COMMA]["constraint_strict"] == 2 / 4
    assert found[WORDS]["constraint_loose"] == 3 / 4


def test_a_kind_without_a_checker_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(ifeval, "_PUNKT", (SENTENCES,))
    import nltk

    def missing(name):
        raise LookupError(name)

    monkeypatch.setattr(nltk.data, "find", missing)
    sentences = (SENTENCES, {"relation": "at least", "num_sentences": 1})
    rows = [row((COMMA, {}), sentences), row((COMMA, {})), row(sentences)]
    result = scored(tmp_path, "ifeval", rows, ["a", "a", "a"])
    assert result.skipped == {"none of its constraints has a checker": 1}
    metrics = result.lines[0].metrics
    assert metrics["prompt_strict"].n == 1 and metrics["constraint_strict"].n == 2
    assert f"2 of 4 constraints were not checked: 2 {SENTENCES}." in result.notes


def test_the_published_data_is_checked_or_counted():
    items, bad = read_items(IFEval(), [shared_data() / "eval" / "ifeval.jsonl.gz"])
    assert len(items) == 541 and not bad
    assert sum(len(item.facts["kinds"]) for item in items) == 834
    chosen = {kind: item for item in items for kind in item.facts["kinds"]}
    assert len(chosen) == 25
    result = score_answers(IFEval(), [(item, {"text": "A text."}) for item in chosen.values()])
    checked = {kind for row in result.rows for kind in row.scores.get("kinds", ())}
    assert set(chosen) - checked <= set(ifeval._PUNKT)
