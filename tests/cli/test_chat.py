"""`marker-lm chat` with lines from a pipe, on a tiny run."""

import io

import pytest

from tests.cli.conftest import one_sentence, read_jsonl


@pytest.fixture
def chat(call, trained, monkeypatch):
    def run(lines, *options):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        return call("chat", f"--workdir={trained.workdir}", "--max-tokens=6", *options)

    return run


def test_each_line_is_a_prompt_or_a_command(chat, tmp_path):
    talk = tmp_path / "talk.jsonl"
    lines = ["/set lang=ja", "1: say はい 2 times", "/lang", "", "/set lang=jp", "/ban lang"]
    lines += [
        "/ask size",
        "/levers",
        "2: say no 2 times",
        "/sweep size",
        f"/save {talk}",
        "/quit",
        "not read",
    ]
    result = chat(lines, "--pin=task=Repeat")
    assert result.code == 0 and result.err == ""
    shown = result.out
    assert "lang is pinned to ja" in shown and "lang=ja pinned" in shown
    assert "task=Repeat pinned" in shown and "size=short\n" in shown and "size=long\n" in shown
    assert "there is no command /lang" in shown and "lang='jp' is not a value" in shown
    assert f"4 answers: {talk}" in shown and "not read" not in shown
    [table] = [line for line in shown.splitlines() if "en, de, ja" in line]
    assert "banned" in table
    first, second, short, long = read_jsonl(talk)
    assert first["markers"]["lang"] == "ja" and set(first["pinned"]) == {"lang", "task"}
    assert "lang" not in second["markers"] and second["sampling"]["seed"] == 1
    assert short["markers"]["size"] == "short" and long["sweep"] == "size=long"
    assert f"size={second['markers']['size']} {second['probability']['size']:.2f}" in shown


def test_the_same_lines_are_the_same_session(chat):
    lines = ["1: say yes", "2: say ja", "/guide 1.5", "/set lang=de", "1: say yes"]
    first = chat(lines, "--temperature=1", "--seed=3")
    assert first.code == 0 and first.out == chat(lines, "--temperature=1", "--seed=3").out
    assert first.out != chat(lines, "--temperature=1", "--seed=4").out


def test_an_interrupt_stops_an_answer(chat, monkeypatch):
    from marker_lm.decoding.engine import Engine

    stream, calls = Engine.stream, []

    def interrupted(self, requests):
        calls.append(requests)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return stream(self, requests)

    monkeypatch.setattr(Engine, "stream", interrupted)
    result = chat(["1: say yes", "2: say ja"])
    assert result.code == 0 and len(calls) == 2
    assert "stopped; this answer is not part of the conversation" in result.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--pin=lagn=de"], "did you mean 'lang'"),
        (["--pin=lang"], "--pin=lang is not CATEGORY=VALUE"),
        (["--guide=lang"], "--guide=lang needs a weight"),
        (["--slots=0"], "--slots=0 must be 1 or more"),
        (["--step=3"], "has no step 3"),
        (["--top-p=2"], "top_p is 2.0"),
    ],
)
def test_chat_refuses(chat, options, sentence):
    assert sentence in one_sentence(chat([], *options))
