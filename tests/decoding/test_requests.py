"""Rows as requests: what a row may say, and one sentence with file and line where it is wrong."""

import json

import pytest

from marker_lm.data.sources import SourceError
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.job import hash_rows
from marker_lm.decoding.levers import pinned_too
from marker_lm.decoding.request import Request
from marker_lm.decoding.requests import Asked, hold, read_requests, sweep
from marker_lm.decoding.sampling import Sampling, row_seed
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.fake import FakeEngine

EVERYWHERE = Request(
    "",
    Controls({"lang": "English", "words": 3}, frozenset({"score"}), frozenset({"style"})),
    Sampling(temperature=0.5, seed=7, stop=("\n",)),
    Guidance(2.0),
)
TALK = [{"role": "user", "content": "hi"}]


def read(tmp_path, *lines, everywhere=EVERYWHERE):
    path = tmp_path / "p.jsonl"
    encoded = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return read_requests(path, everywhere)


def test_a_row_that_says_nothing_has_what_holds_everywhere(tmp_path):
    first, second = read(tmp_path, {"prompt": "a\u2028b", "id": 4}, {"messages": TALK, "ban": None})
    assert first.about == {"id": 4, "prompt": "a\u2028b"} and not first.error
    assert first.request.controls == second.request.controls == EVERYWHERE.controls
    assert first.request.guidance == Guidance(2.0)
    assert second.about == {"prompt": TALK} and second.request.prompt == TALK
    sampling = first.request.sampling
    assert sampling == Sampling(temperature=0.5, seed=row_seed(7, 0), stop=("\n",))
    assert second.request.sampling.seed == row_seed(7, 1)


def test_a_row_goes_before_what_holds_everywhere(tmp_path):
    rows = read(
        tmp_path,
        {"prompt": "a", "markers": {"lang": "German", "score": 2}},
        {"prompt": "a", "ban": ["lang"], "ask": ["words"]},
        {"prompt": "a", "markers": {"lang": None}},
        {"prompt": "a", "sampling": {"seed": 3, "max_tokens": 5, "stop": ["x", "y"]}},
        {"prompt": "a", "guidance": 3, "sampling": {"stop": "x"}},
        {"prompt": "a", "guidance": {"weight": 1.5, "categories": ["lang"]}},
        {"prompt": "a", "guidance": {"weight": 2, "against": {"markers": {"lang": "Engl"}}}},
    )
    controls = [row.request.controls for row in rows]
    style = frozenset({"style"})
    assert controls[0] == Controls({"words": 3, "lang": "German", "score": 2}, asked=style)
    assert controls[1] == Controls({}, frozenset({"score", "lang"}), style | {"words"})
    assert controls[2].pinned["lang"] is None and controls[2].pinned["words"] == 3
    sampling = rows[3].request.sampling
    assert sampling == Sampling(temperature=0.5, max_tokens=5, seed=3, stop=("x", "y"))
    assert rows[4].request.sampling.stop == ("x",)
    guidance = [row.request.guidance for row in rows[4:]]
    assert guidance[0] == Guidance(3.0)
    assert guidance[1] == Guidance(1.5, categories=frozenset({"lang"}))
    assert guidance[2] == Guidance(2.0, Controls({"lang": "Engl"}))


BAD = [
    ({"promt": "x"}, "the row has no text 'prompt'"),
    ({"prompt": 3}, "the row has no text 'prompt'"),
    ([1], "the row is a list, not an object"),
    (b"{oops", "the line is not JSON"),
    (b"[" * 100_000, "the line is not JSON"),
    (b'{"prompt": "\xff"}', "the line is not UTF-8: byte 0xFF at position 12"),
    (b'{"prompt": "' + b"x" * 2_000_000 + b'"}', "the line has 2000014 bytes"),
    ({"prompt": "x", "messages": TALK}, "messages and a prompt"),
    ({"messages": [*TALK, {"role": "assistant", "content": "x"}]}, "last message is an answer"),
    ({"prompt": "x", "markers": "lang"}, "the markers are 'lang', not an object"),
    ({"prompt": "x", "ban": "lang"}, "ban is 'lang', not a list"),
    ({"prompt": "x", "ask": [1]}, "ask is [1], not a list"),
    ({"prompt": "x", "sampling": 3}, "sampling is 3, not an object"),
    ({"prompt": "x", "sampling": {"temprature": 3}}, "no 'temprature'; did you mean 'temperature'"),
    ({"prompt": "x", "sampling": {"temperature": "hot"}}, "temperature is 'hot', not a number"),
    ({"prompt": "x", "sampling": {"temperature": -1}}, "temperature is -1; it must be 0"),
    ({"prompt": "x", "sampling": {"seed": True}}, "sampling.seed is True, not an integer"),
    ({"prompt": "x", "sampling": {"max_tokens": 2.5}}, "max_tokens is 2.5, not an integer"),
    ({"prompt": "x", "sampling": {"stop": [1]}}, "sampling.stop is [1], not a list of texts"),
    ({"prompt": "x", "guidance": "much"}, "guidance is 'much', not an object"),
    ({"prompt": "x", "guidance": {"wieght": 2}}, "no 'wieght'; did you mean 'weight'"),
    ({"prompt": "x", "guidance": {}}, "guidance.weight is None, not a number"),
    ({"prompt": "x", "guidance": {"weight": 2, "against": 3}}, "against is 3, not an object"),
]


def test_a_bad_row_has_its_reason_and_the_others_are_read(tmp_path):
    good = {"prompt": "fine"}
    lines = [line for bad, _ in BAD for line in (good, bad)]
    rows = read(tmp_path, *lines)
    assert len(rows) == 2 * len(BAD)
    for at, (_, reason) in enumerate(BAD):
        assert rows[2 * at].request.prompt == "fine"
        bad = rows[2 * at + 1]
        assert bad.request is None and reason in bad.error and "\n" not in bad.error
        assert bad.error.startswith(f"{tmp_path / 'p.jsonl'}:{2 * at + 2}: ")
    [typo] = [row for row in rows if "temprature" in row.error]
    assert typo.about == {"prompt": "x"}, "what is known of a bad row stands in its line"


def test_missing_and_empty_files(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("\n  \n")
    with pytest.raises(SourceError, match="prompt.jsonl; the nearest name .* 'prompts.jsonl'"):
        read_requests(tmp_path / "prompt.jsonl", EVERYWHERE)
    with pytest.raises(SourceError, match="prompts.jsonl is empty"):
        read_requests(tmp_path / "prompts.jsonl", EVERYWHERE)


def test_a_sweep_pins_every_value(tmp_path):
    rows = [*read(tmp_path, {"prompt": "a", "ban": ["lang"]}), Asked({"prompt": "b"}, None, "bad")]
    swept = sweep(rows, "lang", FakeEngine())
    assert [row.about["sweep"] for row in swept] == 2 * [
        {"lang": "English"}, {"lang": "Engl"}, {"lang": "German"},
    ]  # fmt: skip
    assert swept[1].request.controls.pinned == {"lang": "Engl", "words": 3}
    assert swept[1].request.controls.banned == {"score"}
    assert swept[1].request.sampling == rows[0].request.sampling
    assert [row.error for row in swept[3:]] == ["bad"] * 3
    with pytest.raises(MarkerError, match="unknown category 'lnag'.*did you mean 'lang'"):
        sweep(rows, "lnag", FakeEngine())
    with pytest.raises(MarkerError, match="'words' is a number, so its values can't all be"):
        sweep(rows, "words", FakeEngine())


def test_answers_are_held_to_the_number_that_a_row_pins(tmp_path):
    engine = FakeEngine()
    lines = [{"prompt": "a"}, {"prompt": "b", "markers": {"words": 70}}]
    lines += [{"prompt": "c", "ban": ["words"]}, {"prompt": "d", "markers": {"words": "x"}}, {}]
    lines += [{"prompt": "e", "markers": {"words": 0}}]
    before = read(tmp_path, *lines)
    rows = hold(before, "words", engine, {"words": len})
    assert engine.measured == "words"
    assert [row.request and row.request.sampling.length for row in rows] == [3, 70, *[None] * 4]
    assert rows[0].request.sampling.seed == before[0].request.sampling.seed
    assert rows[2].error == rows[5].error == "hold=words: it is not pinned to a number over 0."
    assert "words='x' is not an integer" in rows[3].error and rows[4] == before[4]
    assert rows[2].about == {"prompt": "c"}
    with pytest.raises(ValueError, match="hold=word: nothing counts that; did you mean 'words'?"):
        hold(before, "word", engine, {"words": len})


def test_pins_go_before_bans():
    request = Request("x", Controls({"lang": "Engl"}, frozenset({"style"}), frozenset({"score"})))
    both = pinned_too(request, {"style": "a", "score": 1.0})
    assert both.controls == Controls({"lang": "Engl", "style": "a", "score": 1.0})


def test_what_an_answer_depends_on_has_one_name(tmp_path):
    rows = read(tmp_path, {"prompt": "a"}, {"prompt": "a", "ban": ["lang", "words", "topics"]}, [1])
    said = [row.said() for row in rows]
    assert said == json.loads(json.dumps(said)) and hash_rows(said) == hash_rows(said)
    assert said[1][1]["controls"]["banned"] == ["lang", "score", "topics", "words"]
    others = read(tmp_path, {"prompt": "a", "sampling": {"top_k": 3}})
    assert hash_rows([others[0].said()]) != hash_rows(said[:1])
