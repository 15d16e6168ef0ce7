"""Bad input: one clear sentence and exit code 2, or a reject with file, line and reason."""

import json

import pytest

from tests.cli.conftest import CONFIG, one_sentence, read_jsonl, tiny_overrides
from tests.tiny import make_rows

GOOD = {"prompt": "say yes", "completion": "yes", "markers": {"lang": "en"}}
BAD = [
    (json.dumps({"completion": "x"}), "the row has no prompt (field 'prompt')"),
    (json.dumps(GOOD | {"prompt": " "}), "the prompt (field 'prompt') is blank"),
    (json.dumps(GOOD | {"markers": {"lagn": "en"}}), "unknown category 'lagn'"),
    (json.dumps(GOOD | {"markers": {"lang": "fr"}}), "lang='fr' is not a value of this category"),
    (json.dumps(GOOD | {"markers": {"words": "two"}}), "words='two' is not an integer"),
    (json.dumps(GOOD | {"markers": {"words": 1.5}}), "words=1.5 is not an integer"),
    (b'{"prompt": "\xff", "completion": "x"}', "the line is not UTF-8: byte 0xFF at position 12"),
    (json.dumps(GOOD | {"prompt": "x" * 2_000_000}), "more than max_line_bytes=1000000"),
    ("{oops", "the line is not JSON"),
]


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    return path


@pytest.fixture
def prepare(call, data, tmp_path):
    def run(train, *more):
        options = [*tiny_overrides(data), f"--config.data.tasks.rows.train={train}", *more]
        options += ["--config.data.tasks.rows.heldout="]
        return call("prepare", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *options)

    return run


def test_bad_rows_are_rejected_counted_and_the_run_goes_on(prepare, tmp_path):
    lines = [json.dumps(row) for row in make_rows(20)]
    for at, (bad, _) in enumerate(BAD):
        lines.insert(2 * at + 1, bad)
    path = write(tmp_path / "train.jsonl", lines)
    result = prepare(path, "--config.data.max_reject_share=0.5")
    assert result.code == 0, result.err
    summary = result.out
    assert "train: 20 rows" in summary and "9 of 29 rows rejected" in summary
    assert "invalid UTF-8: 1" in summary and "bad value of words: 2" in summary
    rejects = read_jsonl(tmp_path / "run" / "data" / "rejects.train.jsonl")
    assert [r["line"] for r in rejects] == [2 * at + 2 for at in range(len(BAD))]
    assert {r["file"] for r in rejects} == {str(path)}
    for reject, (_, reason) in zip(rejects, BAD, strict=True):
        assert reason in reject["reason"] and "\n" not in reject["reason"]
    manifest = json.loads((tmp_path / "run" / "data" / "train" / "manifest.json").read_text())
    assert manifest["rows"] == 20 and manifest["rejects"]["rejected"] == 9


def test_too_many_bad_rows_end_the_run(prepare, tmp_path):
    lines = [json.dumps(row) for row in make_rows(20)]
    path = write(tmp_path / "train.jsonl", [*lines, BAD[0][0]])
    message = one_sentence(prepare(path, "--config.data.max_reject_share=0.01"))
    assert "1 of 21 rows were rejected, more than the share allowed (0.01)" in message
    assert f"{path}:21: the row has no prompt" in message
    rejects = read_jsonl(tmp_path / "run" / "data" / "rejects.train.jsonl")
    assert [r["line"] for r in rejects] == [21]
    assert not (tmp_path / "run" / "data" / "train").exists(), "no cache of a run that failed"


def test_empty_and_missing_files(prepare, tmp_path):
    assert "is empty" in one_sentence(prepare(write(tmp_path / "train.jsonl", [])))
    message = one_sentence(prepare(tmp_path / "trian.jsonl"))
    assert (
        "there is no" in message and "the nearest name in that folder is 'train.jsonl'" in message
    )
    assert "no file matches" in one_sentence(prepare(tmp_path / "none-*.jsonl"))


def test_a_taxonomy_that_is_not_there_or_wrong(prepare, data, tmp_path):
    message = one_sentence(prepare(data / "train.jsonl", "--config.taxonomy=papr"))
    assert "papr" in message and "paper" in message
    text = (data / "taxonomy.yaml").read_text("utf-8").replace("type: integer", "type: integr")
    (tmp_path / "wrong.yaml").write_text(text, "utf-8")
    message = one_sentence(
        prepare(data / "train.jsonl", f"--config.taxonomy={tmp_path / 'wrong.yaml'}")
    )
    assert "wrong.yaml:4" in message and "'integer'" in message


def test_a_workdir_without_a_run(call, tmp_path):
    message = one_sentence(call("decode", f"--workdir={tmp_path}", "--prompt=x"))
    assert "holds no checkpoint; train first or mend --workdir" in message


def test_prompt_files(call, trained, tmp_path):
    path = write(tmp_path / "prompts.jsonl", [])
    workdir = f"--workdir={trained.workdir}"
    assert "prompts.jsonl is empty" in one_sentence(call("decode", workdir, f"--prompts={path}"))
    missing = one_sentence(call("decode", workdir, f"--prompts={tmp_path / 'promts.jsonl'}"))
    assert "the nearest name in that folder is 'prompts.jsonl'" in missing
