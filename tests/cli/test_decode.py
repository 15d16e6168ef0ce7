"""The verbs from rows to report, in this process, on a tiny run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import one_sentence, read_jsonl


@pytest.fixture
def workdir(trained):
    return f"--workdir={trained.workdir}"


def write_prompts(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return f"--prompts={path}"


def test_prepare_and_train_find_that_all_is_done(call, trained):
    result = call("prepare", *trained.options)
    assert result.code == 0 and "is prepared already" in result.out
    assert (trained.workdir / "data" / "train" / "manifest.json").exists()
    again = call("train", *trained.options)
    assert again.code == 0 and "trained to step" in again.out
    losses = [r["loss"] for r in read_jsonl(trained.workdir / "metrics.jsonl") if "loss" in r]
    assert losses and all(loss > 0 for loss in losses)


def test_decode_a_file(call, workdir, tmp_path):
    prompts = write_prompts(
        tmp_path / "p.jsonl",
        {"prompt": "1: say yes 2 times"},
        {"prompt": "2: say ja", "markers": {"lang": "de", "words": "4"}, "ban": ["task"]},
        {"prompt": ""},
        {"prompt": "x" * 500},
        {"prompt": "half a \ud800 pair"},
        {"prompt": "はい", "markers": {"lang": "jp"}},
        {"prompt": "two", "markers": {"task": ["Answer", "Repeat"], "lang": []}},
        {"prompt": "last"},
    )
    out = tmp_path / "answers.jsonl"
    result = call("decode", workdir, prompts, f"--out={out}", "--pin=size=long")
    assert result.code == 0, result.err
    assert result.out.strip() == f"4 answers, 4 errors: {out}"
    rows = read_jsonl(out)
    prompts = [row["prompt"][:3] for row in rows]
    assert prompts == ["1: ", "2: ", "", "xxx", "hal", "はい", "two", "las"]
    first, second, empty, long, broken, wrong, two, last = rows
    assert first["markers"]["size"] == "long" and first["pinned"] == ["size"]
    assert first["probability"]["size"] == 1 and set(first["probability"]) == set(first["markers"])
    assert second["markers"]["lang"] == "de" and second["markers"]["words"] == 4
    assert set(second["pinned"]) == {"lang", "words", "size"} and "task" not in second["markers"]
    assert two["markers"]["task"] == ["Repeat", "Answer"] and two["pinned"] == ["task", "size"]
    assert "text" in last and "error" not in last
    assert empty["error"] == "the prompt is empty." and "text" not in empty
    assert "takes 5" in long["error"] and "surrogate" in broken["error"]
    assert (
        "lang='jp' is not a value of this category; it must be one of 'en', 'de'" in wrong["error"]
    )


def test_bad_rows_beside_good_ones(call, workdir, tmp_path):
    lines = ['{"prompt": "1: say yes"}', "{oops", '{"promt": "x"}', '{"prompt": "x", "markers": 3}']
    lines += ['{"prompt": "x", "sampling": {"temprature": 1}, "id": "e"}', '{"prompt": "last"}']
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "answers.jsonl"
    result = call("decode", workdir, f"--prompts={tmp_path / 'p.jsonl'}", f"--out={out}")
    assert result.code == 0 and "2 answers, 4 errors" in result.out
    rows = read_jsonl(out)
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert "text" in rows[0] and "text" in rows[5]
    errors = [row["error"].removeprefix(f"{tmp_path}/") for row in rows[1:5]]
    assert errors[0].startswith("p.jsonl:2: the line is not JSON")
    assert errors[1] == "p.jsonl:3: the row has no text 'prompt'"
    assert errors[2] == "p.jsonl:4: the markers are 3, not an object"
    assert "did you mean 'temperature'" in errors[3] and rows[4]["id"] == "e"


def test_settings_of_a_row(call, workdir, tmp_path):
    """A row's own settings give what the options give to all."""
    free, short = {"prompt": "1: say yes 2 times"}, {"max_tokens": 3}
    drawn = {"temperature": 1.0, "top_k": 30, "seed": 11}
    prompts = write_prompts(
        tmp_path / "p.jsonl",
        free,
        free | {"sampling": short},
        free | {"sampling": drawn},
        free | {"ask": ["lang"], "ban": ["task"]},
        free | {"markers": {"lang": "de"}, "guidance": 2.0},
    )
    out = tmp_path / "answers.jsonl"
    assert call("decode", workdir, prompts, f"--out={out}").code == 0
    rows = read_jsonl(out)

    def one(*options):
        found = call("decode", workdir, f"--prompt={free['prompt']}", *options)
        return json.loads(found.out)

    same = ("text", "markers", "pinned", "reason")
    for row, options in zip(
        rows,
        [
            [],
            ["--max-tokens=3"],
            ["--temperature=1", "--top-k=30", "--seed=11"],
            ["--ask=lang", "--ban=task"],
            ["--pin=lang=de", "--guidance=2", "--guide=lang"],
        ],
        strict=True,
    ):
        alone = one(*options)
        assert {k: row[k] for k in same} == {k: alone[k] for k in same}
    assert "lang" in rows[3]["markers"] and "task" not in rows[3]["markers"]
    stop = rows[0]["text"][2:4]
    stopped = one(f"--stop={stop}")
    assert stopped["reason"] == "stop" and stopped["text"] == rows[0]["text"].split(stop)[0]


def test_a_sweep_of_every_prompt(call, workdir, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "a", "id": 1}, {"prompt": ""})
    out = tmp_path / "answers.jsonl"
    result = call("decode", workdir, prompts, f"--out={out}", "--sweep=lang", "--max-tokens=4")
    assert "3 answers, 3 errors" in result.out
    rows = read_jsonl(out)
    assert [row["sweep"]["lang"] for row in rows] == ["en", "de", "ja", "en", "de", "ja"]
    assert [row["markers"]["lang"] for row in rows[:3]] == ["en", "de", "ja"]
    message = one_sentence(call("decode", workdir, prompts, "--sweep=words"))
    assert "'words' is a number, so its values" in message


def test_the_best_of_several(call, workdir, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl", {"prompt": "1: say yes"}, {"prompt": ""})
    lines = {}
    options = ["--temperature=1", "--max-tokens=6", prompts]
    for by in ("likelihood", "total_likelihood", "lang=de", "pins"):
        out = tmp_path / f"{by}.jsonl"
        result = call(
            "decode",
            workdir,
            f"--out={out}",
            *options,
            "--best-of=6",
            f"--by={by}",
            "--pin=words=2",
        )
        assert result.code == 0 and "1 answers, 1 errors" in result.out, result.err
        lines[by] = read_jsonl(out)[0]
        assert lines[by]["best_of"] == 6 and lines[by]["markers"]["words"] == 2
    assert lines["total_likelihood"]["score"] == lines["total_likelihood"]["log_likelihood"]
    assert lines["total_likelihood"]["score"] >= lines["likelihood"]["log_likelihood"]
    assert 0 < lines["lang=de"]["score"] < 1
    assert lines["pins"]["score"] == max(1 - abs(len(lines["pins"]["text"].split()) - 2) / 2, 0)
    lone = tmp_path / "lone.jsonl"
    call("decode", workdir, f"--out={lone}", *options, "--best-of=2", "--by=pins")
    assert "what is pinned (nothing); pin one of lang" in read_jsonl(lone)[0]["error"]
    for slip, sentence in (
        (["--best-of=0"], "--best-of=0 must be 1 or more"),
        (["--best-of=2", "--temperature=0"], "at temperature 0 all answers are one"),
        (["--best-of=2", "--by=best"], "by='best' ranks nothing"),
        (["--best-of=2", "--by=words=3"], "'words' has no posterior"),
        (["--best-of=2", "--by=lang=fr"], "lang='fr' is not a value"),
    ):
        assert sentence in one_sentence(call("decode", workdir, *options, *slip))


def test_markers_of_an_annotator_are_pinned(call, workdir, tmp_path):
    german = "Bitte sage zweimal das Wort Haus."
    prompts = write_prompts(
        tmp_path / "p.jsonl",
        {"prompt": german},
        {"prompt": german, "markers": {"lang": "en"}},
        {"prompt": german, "ban": ["lang"]},
        {"prompt": "7"},
    )
    out = tmp_path / "answers.jsonl"
    options = [prompts, f"--out={out}", "--max-tokens=4"]
    result = call("decode", workdir, *options, "--annotate=lang")
    assert result.code == 0 and "annotated: lang\n" in result.err
    found, own, banned, unsure = read_jsonl(out)
    assert found["markers"]["lang"] == "de" and found["pinned"] == ["lang"]
    assert found["marker_info"]["lang"]["origin"] == "lang"
    assert 0.5 < found["marker_info"]["lang"]["confidence"] <= 1
    assert own["markers"]["lang"] == "en" and own["marker_info"] == {}
    assert "lang" not in banned["markers"] and unsure["pinned"] == []
    config = tmp_path / "mine.py"
    config.write_text(
        "from configs import annotate\n\n\ndef get_config(arg=''):\n"
        "    c = annotate.get_config(arg).unlock()\n"
        "    c.annotators.update(lang='lang', task=(), words=())\n    return c.lock()\n"
    )
    again = call("decode", workdir, *options, f"--annotate={config}", "--overwrite")
    assert again.code == 0 and read_jsonl(out)[0] == found
    message = one_sentence(call("decode", workdir, *options, "--annotate=lagn", "--overwrite"))
    assert "'lagn' is no annotator; did you mean 'lang'" in message


def test_a_dry_run_answers_nothing(call, workdir, tmp_path):
    prompts = write_prompts(
        tmp_path / "p.jsonl",
        {"prompt": "fine"},
        {"prompt": ""},
        {"prompt": "x", "markers": {"lang": "jp"}},
        {"prompt": "x", "ban": 3},
    )
    out = tmp_path / "answers.jsonl"
    result = call("decode", workdir, prompts, f"--out={out}", "--dry-run")
    assert result.code == 0 and not out.exists()
    *refused, count, memory = result.out.splitlines()
    assert refused[0] == "row 2: the prompt is empty."
    assert "row 3: lang='jp' is not a value" in refused[1]
    assert "p.jsonl:4: ban is 3, not a list" in refused[2]
    assert count == "4 rows, 3 of them refused"
    assert memory.startswith("memory: ") and "for 8 rows of up to" in memory


def test_a_killed_job_goes_on(call, workdir, tmp_path):
    rows = [{"prompt": f"{n}: say yes", "sampling": {"temperature": 1.0}} for n in range(80)]
    prompts = write_prompts(tmp_path / "p.jsonl", *rows, {"prompt": ""})
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert call("decode", workdir, prompts, f"--out={whole}").code == 0
    command = [sys.executable, "-m", "marker_lm", "decode", workdir, prompts, f"--out={out}"]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") > 4):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = out.read_bytes().count(b"\n")
    assert 4 < before < len(rows), "it was killed midway"
    result = call("decode", workdir, prompts, f"--out={out}")
    assert result.code == 0 and result.out.strip() == f"80 answers, 1 errors: {out}"
    assert f"/{len(rows) + 1} " in result.err
    found, expected = read_jsonl(out), read_jsonl(whole)
    assert [row["row"] for row in found] == list(range(1, 82))
    assert [row.get("text") for row in found] == [row.get("text") for row in expected]
    other = one_sentence(call("decode", workdir, prompts, f"--out={out}", "--seed=1"))
    assert "was written with other settings" in other and "--overwrite" in other


def test_a_damaged_checkpoint_is_one_sentence(call, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.workdir, run)
    files = [f for f in (run / "checkpoints").rglob("params/**/*") if f.is_file()]
    largest = max(files, key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-10])
    message = one_sentence(call("decode", f"--workdir={run}", "--prompt=x"))
    assert "is damaged" in message and "put the files back" in message


def test_decode_one_prompt_to_the_terminal(call, workdir):
    options = ["--temperature=1", "--top-k=20", "--top-p=0.9", "--max-tokens=8", "--seed=5"]
    result = call("decode", workdir, "--prompt=say はい", "--ban=lang", *options)
    row = json.loads(result.out)
    assert result.code == 0 and row["prompt"] == "say はい" and "lang" not in row["markers"]
    assert call("decode", workdir, "--prompt=say はい", "--ban=lang", *options).out == result.out


def test_an_answer_is_held_to_its_words(call, workdir):
    options = ["--prompt=say ja 3 times", "--pin=words=1", "--temperature=1", "--max-tokens=60"]
    free, held = (
        [
            json.loads(call("decode", workdir, *options, f"--seed={seed}", *more).out)
            for seed in range(4)
        ]
        for more in ((), ("--hold=words",))
    )
    # A model that hardly learned to end: once it has a word, its end is pulled.
    assert sum(row["finished"] for row in held) > sum(row["finished"] for row in free)
    assert all(row["text"].split() for row in held)
    result = call("decode", workdir, "--prompt=a", "--hold=words")
    assert "hold=words: it is not pinned" in json.loads(result.out)["error"]


def test_several_values_are_pinned_by_repeating_the_option(call, workdir):
    options = ["--pin=task=Answer", "--pin=lang=de", "--max-tokens=8"]
    one = json.loads(call("decode", workdir, "--prompt=x", *options).out)
    two = json.loads(call("decode", workdir, "--prompt=x", "--pin=task=Repeat", *options).out)
    assert one["markers"]["task"] == ["Answer"] and one["markers"]["lang"] == "de"
    assert two["markers"]["task"] == ["Repeat", "Answer"] and two["probability"]["task"] == 1


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            ["--pin=lang=de", "--pin=lang=en"],
            "lang=['de', 'en'] is not a value of this category but",
        ),
        (["--pin=task=Answer", "--pin=task=Ask"], "task='Ask' is not a value of this category"),
        (["--pin=lang"], "--pin=lang is not CATEGORY=VALUE"),
        (["--pin=lagn=de"], "unknown category 'lagn' in taxonomy 'tiny'; did you mean 'lang'?"),
        (["--pin=lang=d"], "lang='d' is not a value of this category; did you mean 'de'?"),
        (["--pin=words=two"], "words='two' is not an integer"),
        (["--pin=lang=de", "--ban=lang"], "'lang' is banned and wanted at once"),
        (["--ban=size_"], "no lever 'size_'; did you mean 'size'?"),
        (["--temperature=-1"], "temperature is -1.0; it must be 0"),
        (["--top-p=2"], "top_p is 2.0"),
        (["--repetition-penalty=0.5"], "repetition_penalty is 0.5"),
        (["--hold=size"], "hold=size: nothing counts that; it must be one of 'words'"),
        (["--step=3"], "has no step 3"),
    ],
)
def test_decode_refuses(call, workdir, options, sentence):
    assert sentence in one_sentence(call("decode", workdir, "--prompt=x", *options))


def test_decode_with_the_taxonomy_of_the_run_and_another(call, data, workdir, tmp_path):
    own = f"--taxonomy={data / 'taxonomy.yaml'}"
    assert call("decode", workdir, "--prompt=x", own, "--max-tokens=8").code == 0
    text = (data / "taxonomy.yaml").read_text("utf-8").replace("      ja: Japanese\n", "")
    (tmp_path / "other.yaml").write_text(text)
    message = one_sentence(
        call("decode", workdir, "--prompt=x", f"--taxonomy={tmp_path / 'other.yaml'}")
    )
    assert "was trained with another taxonomy" in message
    assert "lang: value 'ja' is removed" in message


def test_score(call, data, workdir, tmp_path):
    out = tmp_path / "scores.jsonl"
    rows = f"--rows={data / 'heldout.jsonl'}"
    result = call("score", workdir, rows, f"--out={out}", "--shown=lang")
    # With its language shown too, one of the rows is longer than the model's sequences.
    assert result.code == 0 and "23 rows scored, 1 errors" in result.out
    scores = read_jsonl(out)
    assert ["shorten it" in score.get("error", "") for score in scores].count(True) == 1
    for given, score in zip(read_jsonl(data / "heldout.jsonl"), scores, strict=True):
        if "error" in score:
            continue
        assert score["tokens"]["COMPLETION"] == len(given["completion"].encode()) + 1
        assert (score["tokens"]["PROMPT_MARKERS"] > 0) == ("lang" in given["markers"])
        assert score["nats"]["COMPLETION"] > 0


@pytest.mark.parametrize("option", [(), ("--posterior=lang",)])
def test_rows_that_are_too_long_are_counted(call, workdir, tmp_path, option):
    out, rows = tmp_path / "scores.jsonl", tmp_path / "rows.jsonl"
    texts = ["say yes 3 times", "x" * 5000, "say ja 2 times"]
    lines = [json.dumps({"prompt": text, "completion": "yes"}) + "\n" for text in texts]
    rows.write_text("".join(lines))
    result = call("score", workdir, f"--rows={rows}", f"--out={out}", *option)
    assert result.code == 0 and "2 rows scored, 1 errors" in result.out
    first, long, last = read_jsonl(out)
    assert "error" not in first and "error" not in last
    assert "the model was made for sequences of" in long["error"] and "shorten" in long["error"]


def test_score_posterior(call, data, workdir, tmp_path):
    out = tmp_path / "posterior.jsonl"
    rows = f"--rows={data / 'heldout.jsonl'}"
    assert call("score", workdir, rows, f"--out={out}", "--posterior=lang").code == 0
    for row in read_jsonl(out):
        assert set(row["posterior"]) == {"en", "de", "ja"}
        assert abs(sum(row["posterior"].values()) - 1) < 1e-5


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--posterior=words"], "'words' has no posterior; closed categories are: size, lang."),
        (["--posterior=task"], "'task' allows several values, so it has no posterior"),
        (["--shown=lagn"], "unknown category 'lagn'"),
    ],
)
def test_score_refuses(call, data, workdir, options, sentence):
    result = call("score", workdir, f"--rows={data / 'heldout.jsonl'}", *options)
    assert sentence in one_sentence(result)


def test_evaluate_and_report(call, trained, tmp_path):
    out = tmp_path / "report"
    options = [o for o in trained.options if not o.startswith("--workdir")]
    arm = f"--arm=markers={trained.workdir}"
    result = call("evaluate", *options, arm, f"--out={out}")
    assert result.code == 0, result.err
    assert f"report: {out / 'report.html'}" in result.out
    results = json.loads((out / "report.json").read_text("utf-8"))
    assert results["strata"]["tail"] == [] or results["strata"]["category"] == "lang"
    quality = {(r["mode"], r["stratum"]): r["n"] for r in results["quality"]}
    assert quality["inferred", "all"] == quality["pinned", "all"] > 0
    assert {r["category"] for r in results["inference"]} <= {"lang", "size", "task", "words"}
    answers = sorted(p.name for p in (out / "answers").iterdir())
    assert answers == [f"markers.{mode}.jsonl" for mode in ("inferred", "moved", "pinned")]
    page = tmp_path / "page"
    again = call("report", f"--results={out / 'report.json'}", f"--out={page}")
    assert (
        again.code == 0
        and (page / "report.html").read_bytes() == (out / "report.html").read_bytes()
    )
    table = call("report", f"--results={out / 'report.json'}", "--markdown")
    assert table.code == 0 and table.out.startswith("| check")


def test_strata_need_a_category_of_one_value(call, trained, tmp_path):
    options = [o for o in trained.options if not o.startswith("--workdir")]
    arm = f"--arm=markers={trained.workdir}"
    result = call(
        "evaluate", *options, "--config.eval.tail_category=task", arm, f"--out={tmp_path}"
    )
    assert "'task' allows several values" in one_sentence(result)
    assert one_sentence(result).endswith("choose one of size, lang.")


@pytest.mark.parametrize(
    "arms, sentence",
    [
        (["baseline=x"], "--arm=markers=WORKDIR is missing"),
        (["markers"], "is not NAME=WORKDIR"),
        (["markers=nowhere"], "holds no checkpoint"),
        (["markers={run}", "shufled={run}"], "did you mean 'shuffled'"),
        (["markers={run}", "baseline={run}"], "is a run of arm 'markers'"),
    ],
)
def test_evaluate_refuses(call, trained, tmp_path, arms, sentence):
    options = [o for o in trained.options if not o.startswith("--workdir")]
    arms = [f"--arm={arm.format(run=trained.workdir)}" for arm in arms]
    assert sentence in one_sentence(call("evaluate", *options, *arms, f"--out={tmp_path}"))
