"""`marker-lm benchmark`: from files and from a model to a table."""

import json

from tests.cli.conftest import one_sentence, read_jsonl
from tests.tiny import make_rows, write_rows

UAX = "unit=words (UAX 29)"


def test_answers_of_a_file(call, tmp_path):
    rows = [{"prompt": p, "max_len": 2} for p in ("a", "b", "c")]
    answers = [{"prompt": "a", "text": "one two"}, {"prompt": "b", "text": "one two three"}]
    data = write_rows(tmp_path / "data.jsonl", rows)
    given = write_rows(tmp_path / "answers.jsonl", answers)
    options = [f"--data={data}", f"--answers={given}", "--set", UAX, f"--out={tmp_path / 'out'}"]
    result = call("benchmark", "length", *options)
    assert result.code == 0, result.err
    assert "violation" in result.out and "50.0 %" in result.out
    assert "2 answers scored, 1 skipped\n  1 x there is no answer" in result.out
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["lines"][0]["absolute_error"]["mean"] == 0.5
    assert found["settings"]["unit"] == "words (UAX 29)"
    assert [row.get("skipped") for row in read_jsonl(tmp_path / "out" / "rows.jsonl")] == [
        None, None, "there is no answer",
    ]  # fmt: skip


def test_a_model_answers_and_a_foreign_unit_is_warned_about(call, data, trained, tmp_path):
    taxonomy = data / "taxonomy.yaml"
    rows = [{"prompt": f"{i}: say yes {i} times", "target": i} for i in (2, 3)]
    data = write_rows(tmp_path / "data.jsonl", [*rows, {"prompt": "x" * 200, "target": 2}])
    options = [f"--data={data}", f"--workdir={trained.workdir}", "--max-tokens=4"]
    settings = ["--set", UAX, "--set", "marker=words"]
    options += [*settings, f"--out={tmp_path / 'out'}"]
    result = call("benchmark", "length", *options, "--pin=lang=de")
    assert result.code == 0, result.err
    assert "the marker 'words' counts words, but" in result.err
    answers = read_jsonl(tmp_path / "out" / "answers.jsonl")
    assert [answer["id"] for answer in answers] == ["0", "1", "2"]
    assert [answer["markers"]["words"] for answer in answers[:2]] == [2, 3]
    assert set(answers[0]["pinned"]) == {"words", "lang"}
    assert "the model was made for sequences of 128" in answers[2]["error"]
    # The same answers once more, from the file.
    again = [f"--data={data}", f"--answers={tmp_path / 'out' / 'answers.jsonl'}", *settings]
    second = call("benchmark", "length", *again, f"--taxonomy={taxonomy}")
    assert "the marker 'words' counts words, but" in second.err
    assert second.out.splitlines()[:3] == result.out.splitlines()[1:4]  # the same table


def test_a_killed_benchmark_goes_on(call, trained, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": p, "max_len": 2} for p in "abc"])
    out = tmp_path / "out"
    command = ["benchmark", "length", f"--data={data}", f"--workdir={trained.workdir}"]
    command += ["--set", UAX, f"--out={out}"]
    assert call(*command, "--max-tokens=4").code == 0
    whole = read_jsonl(out / "answers.jsonl")
    kept = json.dumps(whole[1] | {"text": "kept"})
    (out / "answers.jsonl").write_text(kept + '\n{"row": 1, "te')
    assert call(*command, "--max-tokens=4").code == 0
    assert read_jsonl(out / "answers.jsonl") == [whole[0], json.loads(kept), whole[2]]
    says = one_sentence(call(*command, "--max-tokens=5"))
    assert "max_tokens was 4, now 5" in says and "--overwrite" in says
    assert call(*command, "--max-tokens=5", "--overwrite").code == 0


def test_markers_and_likelihoods_of_a_model(call, trained, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", make_rows(10, seed=5))
    for name, head in (("marker_inference", "accuracy"), ("likelihood", "nats_per_token")):
        for more in ((),) if name == "marker_inference" else ((), ("--set", "markers=own")):
            source = [f"--data={data}", f"--workdir={trained.workdir}", "--max-tokens=4"]
            result = call(
                "benchmark", name, *source, *more, "--overwrite", f"--out={tmp_path / name}"
            )
            assert result.code == 0, result.err
            assert head in result.out
    lines = json.loads((tmp_path / "likelihood" / "result.json").read_text())["lines"]
    assert 0 < lines[0]["nats_per_token"]["mean"] < 10 and lines[0]["nats_per_token"]["n"] == 10


def test_slips_are_told_in_one_sentence(call, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": "a", "max_len": 2}])
    for options, says in (
        (["lenght", f"--data={data}"], "did you mean 'length'"),
        (["length"], "--data is missing"),
        (["length", f"--data={data}", "--set", "unit"], "--set unit is not KEY=VALUE"),
        (["length", f"--data={data}", "--set", "units=x"], "did you mean 'unit'"),
        (["length", f"--data={data}", "--set", "unit=feet"], "no unit 'feet'"),
        (["length", f"--data={data}", "--pin=lang=de"], "add --workdir"),
        (["length", f"--data={tmp_path / 'no.jsonl'}"], "no.jsonl"),
    ):
        assert says in one_sentence(call("benchmark", *options)), options


def test_about_prints_the_definition(call):
    result = call("benchmark", "language_confusion", "--about")
    assert result.code == 0 and "LPR is the share" in result.out and "detector = " in result.out
