"""The verb `score`: what its lines hold, bad rows beside good ones, and jobs that are cut off."""

import json
from collections import Counter

import numpy as np
import pytest

from tests.cli.conftest import one_sentence, read_jsonl


@pytest.fixture
def score(call, trained, data, tmp_path):
    """Calls the verb on held-out rows; gives what it printed and the lines of --out."""

    def run(*options, rows=data / "heldout.jsonl", out=tmp_path / "out.jsonl"):
        result = call(
            "score", f"--workdir={trained.workdir}", f"--rows={rows}", f"--out={out}", *options
        )
        assert result.code == 0, result.err
        return result, read_jsonl(out)

    return run


def test_every_token_with_its_text(score, data):
    _, lines = score("--tokens", "--shown=lang")
    rows = read_jsonl(data / "heldout.jsonl")
    assert [line["row"] for line in lines] == list(range(1, len(rows) + 1))
    for row, line in zip(rows, lines, strict=True):
        if "error" in line:
            continue
        assert line["id"] == row["id"] and line["prompt"] == row["prompt"]
        pieces = line["pieces"]
        assert pieces[0]["nats"] is None and pieces[-1]["text"] == "<eos>"
        assert "".join(p["text"] for p in pieces).startswith(row["prompt"][:4])
        for kind, nats in line["nats"].items():
            own = [p["nats"] for p in pieces[1:] if p["kind"] == kind]
            assert len(own) == line["tokens"][kind] and sum(own) == pytest.approx(nats, abs=1e-4)
        assert any("lang" in p["text"] for p in pieces if p["kind"] == "PROMPT_MARKERS") == (
            "lang" in row["markers"]
        )


def test_bad_rows_have_their_line_in_the_message(score, call, tmp_path):
    good = {"prompt": "say yes 2 times", "completion": "yes yes", "markers": {"lang": "en"}}
    bad = [
        "{oops",
        json.dumps(good | {"prompt": "x" * 5000}),
        json.dumps({"prompt": "no answer"}),
        json.dumps(good | {"markers": {"lang": "jp"}}),
        json.dumps(good | {"prompt": "half \ud800"}),
        "[]",
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join([json.dumps(good), "", *bad, json.dumps(good)]) + "\n")
    result, lines = score(rows=rows)
    assert "2 rows scored, 6 errors" in result.out
    assert ["error" in line for line in lines] == [False, *[True] * 6, False]
    for line_number, line, reason in zip(
        range(3, 9),
        lines[1:-1],
        ("not JSON", "shorten it", "no text 'completion'", "lang='jp' is not", "surrogate", "list"),
        strict=True,
    ):
        assert line["error"].startswith(f"{rows}:{line_number}: ") and reason in line["error"]
    assert lines[0]["nats"] == pytest.approx(lines[-1]["nats"], abs=1e-5)


def test_a_job_that_was_cut_off_goes_on(score, tmp_path):
    out = tmp_path / "out.jsonl"
    _, whole = score("--posterior=lang")
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[5:9]) + lines[0][:20])
    result, again = score("--posterior=lang")
    assert [line["row"] for line in again] == [line["row"] for line in whole]
    for line, before in zip(again, whole, strict=True):
        assert line["posterior"] == pytest.approx(before["posterior"], abs=1e-5)
    assert "24 rows scored, 0 errors" in result.out and "24/24" in result.err


def test_other_options_are_refused(score, call, trained, data, tmp_path):
    score("--posterior=lang")
    options = [f"--workdir={trained.workdir}", f"--rows={data / 'heldout.jsonl'}"]
    out = f"--out={tmp_path / 'out.jsonl'}"
    message = one_sentence(call("score", *options, out, "--posterior=size"))
    assert "posterior was 'lang', now 'size'" in message and "--overwrite" in message
    assert call("score", *options, out, "--posterior=size", "--overwrite").code == 0
    assert set(read_jsonl(tmp_path / "out.jsonl")[0]["posterior"]) == {"short", "long"}


def test_attribution_looks_at_the_answer(score, tmp_path, data):
    _, asked = score("--posterior=lang", "--given=words")
    _, answered = score("--posterior=lang", "--given=words", "--given-completion", "--overwrite")
    differ = 0
    for before, after in zip(asked, answered, strict=True):
        if "error" in after:
            assert "shorten it" in after["error"]
            continue
        assert abs(sum(after["posterior"].values()) - 1) < 1e-5
        differ += abs(after["posterior"]["en"] - before["posterior"]["en"]) > 1e-6
    assert differ > len(asked) / 2


def test_the_prior_is_divided_out(score, data, tmp_path):
    shares = {"en": 6, "de": 3, "ja": 1}
    (tmp_path / "prior.json").write_text(json.dumps(shares))
    _, lines = score("--posterior=lang", f"--prior={tmp_path / 'prior.json'}")
    for line in lines:
        odds = {v: line["posterior"][v] / shares[v] for v in shares}
        expected = {v: odds[v] / sum(odds.values()) for v in shares}
        assert line["without_prior"] == pytest.approx(expected, abs=1e-9)
    counts = Counter(row["markers"].get("lang") for row in read_jsonl(data / "train.jsonl"))
    _, lines = score("--posterior=lang", "--prior=training", "--overwrite")
    for line in lines:
        odds = {v: line["posterior"][v] / counts[v] for v in shares}
        expected = {v: odds[v] / sum(odds.values()) for v in shares}
        assert line["without_prior"] == pytest.approx(expected, abs=1e-9)
    _, lines = score("--posterior=lang", "--prior=mean", "--overwrite")
    mean = {v: np.mean([line["posterior"][v] for line in lines]) for v in shares}
    for line in lines:
        odds = {v: line["posterior"][v] / mean[v] for v in shares}
        expected = {v: odds[v] / sum(odds.values()) for v in shares}
        assert line["without_prior"] == pytest.approx(expected, abs=1e-4)


def test_calibration(score, data, tmp_path):
    page = tmp_path / "plot.html"
    result, lines = score("--calibration=lang", f"--plot={page}", "--bins=3")
    rows = read_jsonl(data / "heldout.jsonl")
    compared = [line for line in lines if "error" not in line]
    assert len(compared) == sum("lang" in row["markers"] for row in rows) < len(rows)
    for row, line in zip(rows, lines, strict=True):
        if "lang" not in row["markers"]:
            assert "the row has no marker 'lang' to compare with" in line["error"]
            continue
        assert line["true"] == row["markers"]["lang"]
        assert line["probability"] == max(line["posterior"].values())
        assert line["posterior"][line["inferred"]] == line["probability"]
    right = np.mean([line["true"] == line["inferred"] for line in compared])
    assert f"{len(compared)} rows: right {right:.1%}" in result.out
    assert "calibration error" in result.out and "Brier score" in result.out
    html = page.read_text("utf-8")
    assert "Reliability" in html and "share right" in html


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--calibration=lang"], "--calibration needs --out=FILE"),
        (["--prior=mean"], "--prior is divided out of a posterior"),
        (["--given-completion"], "are for --posterior and --calibration"),
        (["--posterior=lang", "--tokens"], "--tokens and --shown are for log-likelihoods"),
        (["--plot=x.html"], "--plot draws a calibration"),
        (["--bins=0"], "--bins=0 must be 1 or more"),
        (["--posterior=lang", "--given=lagn"], "unknown category 'lagn'"),
        (["--posterior=lang", "--prior=nowhere.json"], "there is no file nowhere.json"),
        (["--posterior=lang", "--prior={bad}"], "holds no prior of 'lang'"),
        (["--posterior=lang", "--prior={wrong}"], "lang='jp' is not a value of this category"),
        (["--step=3"], "has no step 3"),
    ],
)
def test_score_refuses(call, trained, data, tmp_path, options, sentence):
    (tmp_path / "bad.json").write_text("[1]")
    (tmp_path / "wrong.json").write_text('{"jp": 1}')
    names = {"bad": tmp_path / "bad.json", "wrong": tmp_path / "wrong.json"}
    options = [option.format(**names) for option in options]
    rows = f"--rows={data / 'heldout.jsonl'}"
    assert sentence in one_sentence(call("score", f"--workdir={trained.workdir}", rows, *options))
