"""Answers are made once, kept, and made again when anything differs."""

import json

import pytest

from marker_lm.decoding.engine import Result
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.predict import Answer, pin_levers, predict
from tests.evaluation.made_up import item


class FakeEngine:
    """Answers with the prompt and what was pinned; counts the batches."""

    batch = 2

    class layout:
        levers = ("lang", "words")

    def __init__(self):
        self.batches = []

    def generate(self, prompts, controls, sampling, guidance):
        self.batches.append(list(prompts))
        return [
            Result(
                f"{p}\u2028\u0085\n{dict(c.pinned)}",
                {"words": 3, "topics": ("law", "news")},
                (),
                {"words": 0.25},
                (1,),
                "end",
                -1.0,
            )
            for p, c in zip(prompts, controls, strict=True)
        ]


ITEMS = [item("a", "de", key="long key"), item("b", "en", key="k"), item("c", "fi", key="kk")]
PINS = [{"lang": "de", "format": "JSON"}, {}, {"words": 3}]


@pytest.fixture
def run(tmp_path):
    def call(items=ITEMS, pins=PINS, sampling=None, version="1"):
        engine = FakeEngine()
        path = tmp_path / "answers" / "arm.mode.jsonl"
        got = predict(
            engine, items, pins, [len(i.key) for i in items], sampling or Sampling(), path,
            "decode", version,
        )  # fmt: skip
        return got, engine.batches

    call.path = tmp_path / "answers" / "arm.mode.jsonl"
    return call


def test_answers_come_in_the_order_of_the_items(run):
    answers, batches = run()
    assert batches == [["prompt b", "prompt c"], ["prompt a"]], "alike lengths together"
    assert [a.text.split("\u2028")[0] for a in answers] == ["prompt a", "prompt b", "prompt c"]
    assert answers[0].text.endswith("{'lang': 'de'}"), "what is no lever of the arm is not pinned"
    markers = {"words": 3, "topics": ("law", "news")}
    assert answers[2] == Answer(answers[2].text, markers, {"words": 0.25}, True)


def test_kept_answers_are_reused_whole(run):
    first, _ = run()
    again, batches = run()
    assert batches == [] and again == first
    assert not list(run.path.parent.glob("*.partial"))


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"sampling": Sampling(max_tokens=9)},
        {"pins": [{}] * 3},
        {"items": [*ITEMS[:2], item("z", "fi")]},
    ],
)
def test_answers_are_made_again_when_anything_differs(run, change):
    run()
    _, batches = run(**change)
    assert len(batches) == 2
    _, batches = run(**change)
    assert batches == []


def test_a_file_without_answers_is_no_answer(run):
    run()
    run.path.write_text("")
    answers, batches = run()
    assert len(batches) == 2 and len(answers) == 3
    assert json.loads(run.path.read_text().split("\n")[1])["finished"] is True


def test_pins_are_those_of_the_arm():
    assert pin_levers(FakeEngine(), PINS[0]).pinned == {"lang": "de"}
