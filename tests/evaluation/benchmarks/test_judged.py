"""The quality lever and win rates, with a judge behind a real local server."""

import random

import numpy as np
import pytest

from marker_lm.evaluation.benchmarks.judge import same_model
from marker_lm.evaluation.benchmarks.registry import load_benchmark
from marker_lm.evaluation.benchmarks.win_rate import length_controlled
from marker_lm.markers.taxonomy import MarkerError, load_taxonomy
from tests.annotate.server import Reply, asked, chat, serving
from tests.evaluation.benchmarks.made import scored, table


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def endpoint(server):
    return {"url": server.url, "model": "judge", "backoff": 0.01}


def sides(body):
    """What stands as answer A and as answer B."""
    text = asked(body)
    first, second = text.split("[Answer A]\n")[1].split("\n\n[Answer B]\n")
    return first, second.split("\n\nGive your")[0]


def rows(*references, **more):
    return [{"prompt": f"p{i}", "reference": r, **more} for i, r in enumerate(references)]


def by_word(body, _):
    """Prefers 'good' to 'plain' to 'bad'; ties are ties."""
    worth = [("bad", "plain", "good").index(side.split()[0]) for side in sides(body)]
    verdict = "C" if worth[0] == worth[1] else "AB"[worth[1] > worth[0]]
    return chat(f"[[B]] might be said, but no. [[{verdict}]]")


def test_wins_ties_and_losses_in_both_orders(tmp_path):
    with serving(by_word) as server:
        data = rows(*["plain"] * 4)
        answers = ["good", "plain", "bad", "good"]
        result = scored(tmp_path, "win_rate", data, answers, endpoint=endpoint(server))
        assert len(server.requests) == 7  # two equal answers make one question
        assert {sides(body) for body in server.requests} >= {("good", "plain"), ("plain", "good")}
        assert all(body["temperature"] == 0 for body in server.requests)
    found = table(result)["all"]
    assert found["win_rate"] == (1 + 0.5 + 0 + 1) / 4 and found["both_orders"] == 1
    assert "The judge is judge; each pair was judged in both orders." in result.notes


def test_a_judge_that_loves_the_first_place_gives_ties(tmp_path):
    with serving(lambda *_: chat("[[A]]")) as server:
        data = rows(*["x"] * 3)
        result = scored(tmp_path, "win_rate", data, ["a", "b", "c"], endpoint=endpoint(server))
    assert table(result)["all"]["win_rate"] == 0.5 and table(result)["all"]["both_orders"] == 0


def test_verdicts_that_are_none_are_counted(tmp_path):
    def behave(body, number):
        first, _ = sides(body)
        if "bad request" in asked(body):
            return Reply(400, b"no")
        return chat("I can't say." if first == "good unclear" else "[[A]]")

    with serving(behave) as server:
        data = rows("x", "x", "x")
        answers = ["good unclear", "bad request", "good"]
        result = scored(tmp_path, "win_rate", data, answers, endpoint=endpoint(server))
    assert result.lines[0].metrics["win_rate"].n == 1
    assert result.skipped.pop("the judge's answer can't be read") == 1
    ((reason, count),) = result.skipped.items()
    assert reason.startswith("the judge refused: ") and count == 1


def test_an_answer_over_its_limit_loses_unseen(tmp_path):
    with serving(by_word) as server:
        data = rows("plain", "plain", max_len=2, original_instruction="without the limit")
        answers = ["good but far too long", "good"]
        settings = {"endpoint": endpoint(server), "limit_unit": "words (UAX 29)"}
        result = scored(tmp_path, "win_rate", data, answers, **settings)
        assert len(server.requests) == 2
        assert all("without the limit" in asked(body) for body in server.requests)
        assert table(result)["all"]["win_rate"] == 0.5
        assert table(result)["all"]["violation"] == 0.5
        assert any("1 answers over their limit lost" in note for note in result.notes)
        free = scored(tmp_path, "win_rate", data, answers, **settings | {"limit_unit": ""})
        assert table(free)["all"]["win_rate"] == 1


def test_length_control_takes_out_what_length_explains():
    draw = np.random.default_rng(0)
    longer = draw.normal(400, 300, 4000)  # the answers are longer than their opponents
    liking = 2.0 * np.tanh(longer / longer.std(ddof=1))  # of the judge, for length alone
    scores = (draw.random(4000) < 1 / (1 + np.exp(-liking))).astype(float)
    assert scores.mean() > 0.75
    assert length_controlled(scores, longer) == pytest.approx(0.5, abs=0.05)
    better = (draw.random(4000) < 1 / (1 + np.exp(-liking - np.log(3)))).astype(float)
    assert length_controlled(better, longer) == pytest.approx(0.75, abs=0.04)


def test_an_extrapolation_is_said(tmp_path):
    with serving(by_word) as server:
        data = rows(*["plain and of a middling length", "plain"] * 10)
        answers = ["bad", "good but very much longer than the other one"] * 9 + ["good", "good"]
        result = scored(tmp_path, "win_rate", data, answers, endpoint=endpoint(server))
    found = table(result)["all"]
    assert abs(found["win_rate"] - found["length_controlled"]) > 0.1
    assert any("it is an extrapolation" in note for note in result.notes)


def test_length_control_of_one_constant_is_the_logistic_of_the_odds():
    # Differences that are as often so much more as less leave the constant its own odds.
    scores, longer = [1, 1, 1, 0, 1, 1, 1, 0], [5] * 4 + [-5] * 4
    assert length_controlled(scores, longer) == pytest.approx(0.75, abs=0.005)
    assert length_controlled([1, 0.5], [3, 3]) == 0.75  # nothing to control
    assert length_controlled([1, 1, 1], [1, 2, 3]) == 1
    assert np.isnan(length_controlled([], []))


def grader(body, _):
    """Grades the answer by its length."""
    text = asked(body).split("[Answer]\n")[1].split("\n\nEnd with")[0]
    return chat(f"Short.\nGrade: {min(10, len(text))}" if text != "?" else "no grade")


def test_the_quality_lever(tmp_path):
    with serving(grader) as server:
        settings = {
            "endpoint": endpoint(server),
            "tagger": {"url": server.url, "model": "tagger"},
            "values": [1, 4],
        }
        answers = ["x" * 12, "xx", "x" * 8, "xxxx", "x", "?"]  # of three prompts, 1 and 4 each
        data = [{"prompt": prompt} for prompt in "abc"]
        result = scored(tmp_path, "quality_lever", data, answers, **settings)
    assert [(row.item.id, row.item.pins) for row in result.rows[:2]] == [
        ("0#1", {"quality_bucket": "1"}),
        ("0#4", {"quality_bucket": "4"}),
    ]
    found = table(result)
    assert found["quality_bucket=1"]["grade"] == pytest.approx((10 + 8 + 1) / 3)
    assert found["quality_bucket=4"]["grade"] == (2 + 4) / 2
    assert found["all"]["best_minus_worst"] == ((10 - 2) + (8 - 4)) / 2  # paired: not the third
    assert result.skipped == {"the judge's answer can't be read": 1}


def test_the_tagger_is_no_judge():
    judge = {"url": "http://127.0.0.1:1/v1", "model": "Judge"}
    with pytest.raises(ValueError, match="name the model that gave the data its quality"):
        load_benchmark("quality_lever", {"endpoint": judge})
    for tagger in (
        {"url": "http://127.0.0.1:1/v1/", "model": "judge"},
        {"model": "judge"},
    ):
        with pytest.raises(ValueError, match="can't judge the lever"):
            load_benchmark("quality_lever", {"endpoint": judge, "tagger": tagger})
    elsewhere = {"url": "http://127.0.0.1:2/v1", "model": "judge"}
    assert not same_model(judge, elsewhere)
    assert same_model(judge, judge | {"url": "http://127.0.0.1:1/v1/chat/completions"})
    lever = load_benchmark("quality_lever", {"endpoint": judge, "tagger": elsewhere})
    assert any("has the name of the tagger" in note for note in lever.notes(()))
    assert not list(lever.warnings(load_taxonomy("paper"), {}))
    wrong = {"endpoint": judge, "tagger": {"model": "none"}, "values": [1, 5]}
    with pytest.raises(MarkerError, match="no value 5"):
        list(load_benchmark("quality_lever", wrong).warnings(load_taxonomy("paper"), {}))


def test_order_of_answers_does_not_change_the_fit():
    draw = random.Random(1)
    pairs = [(draw.choice((0, 0.5, 1)), draw.randint(-200, 300)) for _ in range(60)]
    value = length_controlled(*zip(*pairs, strict=True))
    draw.shuffle(pairs)
    assert length_controlled(*zip(*pairs, strict=True)) == pytest.approx(value, abs=1e-4)
