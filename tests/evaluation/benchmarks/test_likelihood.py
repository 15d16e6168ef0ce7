"""Likelihood by stratum, from lines of `marker-lm score`, by hand."""

import json

import pytest

from tests.evaluation.benchmarks.made import scored, table


def row(lang):
    return {"prompt": "p", "completion": "c", "markers": {"lang": lang}}


def score(nats, tokens):
    return {"nats": {"COMPLETION": nats, "PROMPT": 99.0}, "tokens": {"COMPLETION": tokens}}


ROWS = [row("en"), row("en"), row("lo"), row("sw"), row(None)]
SCORES = [score(2.0, 4), score(9.0, 6), score(8.0, 2), score(3.0, 1), score(1.0, 1)]


def test_by_value(tmp_path):
    found = table(scored(tmp_path, "likelihood", ROWS, SCORES))
    assert found["all"]["nats_per_token"] == 23 / 14
    assert found["all"]["row_nats_per_token"] == (0.5 + 1.5 + 4 + 3 + 1) / 5
    assert found["lang=en"] == {"nats_per_token": 11 / 10, "row_nats_per_token": 1.0}
    assert set(found) == {"all", "lang=en", "lang=lo", "lang=sw"}


def test_by_frozen_strata(tmp_path):
    file = tmp_path / "strata.json"
    file.write_text(json.dumps({"category": "lang", "head": ["en"], "tail": ["lo", "sw"]}))
    found = table(scored(tmp_path, "likelihood", ROWS, SCORES, strata=str(file)))
    assert found["head"]["nats_per_token"] == 11 / 10 and found["tail"]["nats_per_token"] == 11 / 3
    file.write_text("{}")
    with pytest.raises(ValueError, match="no file of strata"):
        scored(tmp_path, "likelihood", ROWS, SCORES, strata=str(file))


def test_answers_without_scores_are_counted(tmp_path):
    answers = [{"text": "c"}, score(1.0, 0), *SCORES[2:]]
    result = scored(tmp_path, "likelihood", ROWS, answers)
    assert result.skipped == {
        "the answer has no nats and tokens of its completion": 1,
        "the reference has no tokens": 1,
    }
    with pytest.raises(ValueError, match="'true' or 'own'"):
        scored(tmp_path, "likelihood", ROWS, SCORES, markers="none")
