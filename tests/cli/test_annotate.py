"""`marker-lm annotate`: from rows to rows with markers, and on to training."""

import json

import pytest

from tests.annotate.made import make_rows
from tests.cli.conftest import CONFIG, one_sentence, read_jsonl, tiny_overrides
from tests.tiny import write_data, write_rows

PROGRAM = """
from configs import annotate

def get_config(arg=""):
    c = annotate.get_config(arg).unlock()
    c.taxonomy = {taxonomy!r}
    c.annotators = {{"lang": (), "task": ()}}
    c.workers = 1
    return c.lock()
"""


@pytest.fixture
def config(tmp_path):
    """A config for rows of tests/tiny.py; their words are counted, their languages given."""
    folder = write_data(tmp_path / "data", train=120)
    text = (folder / "taxonomy.yaml").read_text("utf-8")
    (folder / "taxonomy.yaml").write_text(text.replace("unit: words", "unit: words (UAX 29)"))
    path = tmp_path / "annotate.py"
    path.write_text(PROGRAM.format(taxonomy=str(folder / "taxonomy.yaml")))
    return f"{path}:{folder}"


def test_from_rows_to_a_cache(call, config, tmp_path):
    out = tmp_path / "annotated"
    (tmp_path / "data" / "heldout.jsonl").rename(tmp_path / "heldout.jsonl")
    result = call("annotate", f"--config={config}", f"--out={out}")
    assert result.code == 0, result.err
    assert "120 rows annotated" in result.out and "words: metadata, lengths" in result.out
    rows = read_jsonl(out / "rows" / "00000-00000.jsonl")
    given = read_jsonl(tmp_path / "data" / "train.jsonl")
    assert all("words" in row["markers"] for row in rows)
    for row, before in zip(rows, given, strict=True):
        for category in before["markers"].keys() - {"task"}:
            assert row["markers"][category] == before["markers"][category]
        origin = "row" if "words" in before["markers"] else "lengths"
        assert row["marker_info"]["words"] == {"origin": origin, "confidence": 1.0}
    overrides = [*tiny_overrides(tmp_path / "data"), "--config.data.tasks.rows.heldout="]
    overrides += [f"--config.data.tasks.rows.train={out / 'rows'}"]
    done = call("prepare", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *overrides)
    assert done.code == 0, done.err
    assert "train: 120 rows" in done.out


def test_untrusted_markers_show_in_prepares_summary(call, tmp_path):
    folder = write_data(tmp_path / "data", train=30)
    rows = read_jsonl(folder / "train.jsonl")
    sure = {"origin": "classifier", "confidence": 0.3}
    write_rows(folder / "train.jsonl", [r | {"marker_info": {"task": sure}} for r in rows])
    program = "from configs import default\n\ndef get_config(arg=''):\n"
    program += "    c = default.get_config(arg).unlock()\n"
    program += "    c.data.rows.trust = {'classifier': 0.5}\n    return c.lock()\n"
    (tmp_path / "trusting.py").write_text(program)
    options = [f"--config={tmp_path / 'trusting.py'}", f"--workdir={tmp_path / 'run'}"]
    result = call("prepare", *options, *tiny_overrides(folder))
    assert result.code == 0, result.err
    count = sum("task" in row["markers"] for row in rows)
    assert f"train: {count} values of task are not sure enough" in result.out


def test_a_dry_run(call, config, tmp_path):
    result = call("annotate", f"--config={config}", "--dry-run")
    assert result.code == 0, result.err
    assert "nothing was written" in result.out and '"origin": "row"' in result.out
    assert not (tmp_path / "annotated").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing says where the rows go; give --out, or --dry-run"),
        (["--out={tmp}/x", "--config.files={tmp}/dta"], "nearest name in that folder is 'data'"),
        (["--out={tmp}/x", "--config.output=csv"], "output is 'csv'; it must be one of 'jsonl'"),
        (["--out={tmp}/x", "--config.taxonomy=papr"], "did you mean 'paper'?"),
        (["--out={tmp}/x", "--config.lenghts.tokenizer=bytes"], "did you mean 'lengths.tokenizer'"),
        (["--out={tmp}/annotate.py"], "annotate.py"),
    ],
)
def test_slips(call, config, tmp_path, options, says):
    options = [option.format(tmp=tmp_path) for option in options]
    assert says in one_sentence(call("annotate", f"--config={config}", *options))


def test_a_runners_options_need_beam(call, config, tmp_path):
    result = call("annotate", f"--config={config}", f"--out={tmp_path}/x", "--runner=DirectRunner")
    assert result.code == 2 and "unknown argument '--runner=DirectRunner'" in result.err


@pytest.mark.extra
def test_the_beam_job(call, config, tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    result = call(
        "annotate", f"--config={config}", f"--out={tmp_path}/x", "--beam", "--runner=DirectRunner"
    )
    assert result.code == 0, result.err
    assert "144 rows annotated" in result.out
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert manifest["rows"] == 144 and len(manifest["shards"]) == 2


def test_too_many_bad_rows(call, config, tmp_path):
    write_rows(tmp_path / "data" / "train.jsonl", [{"prompt": "p"}, *make_rows(1)])
    message = one_sentence(call("annotate", f"--config={config}", f"--out={tmp_path}/x"))
    assert "1 of 26 rows were rejected, more than the share allowed (0.01)" in message
    assert f"all of them are in {tmp_path}/x/rejects.jsonl" in message
    assert not (tmp_path / "x" / "manifest.json").exists()
