"""The whole loop, as `make demo` runs it, on a small Atlas and a tiny model."""

import json
from pathlib import Path

import pytest

from marker_lm.__main__ import main
from marker_lm.cli.common import load_config
from marker_lm.cli.demo import prepare_data
from marker_lm.data.cache import read_manifest
from marker_lm.data.cache_writer import ROWS_PER_SHARD

CONFIG = Path(__file__).parents[2] / "configs" / "atlas.py"
TINY = (
    *("model.width=16", "model.layers=1", "model.head_size=8", "model.ff=16"),
    *("data.vocab_size=900", "decode.batch=8", "decode.max_tokens=8"),
    "train.epochs=4",  # after less, the likeliest answer is empty, and in no language
    *("eval.rows=4", "eval.samples=1"),
)


@pytest.mark.slow
def test_demo_ends_with_a_report_and_goes_on_from_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # a relative workdir, as in the Makefile
    overrides = [f"--config.{override}" for override in TINY]
    command = ["demo", "--workdir=run", "--rows=900", f"--config={CONFIG}", *overrides]
    assert main(command) == 0
    assert "report: run/report/report.html" in capsys.readouterr().out.replace("\n", "")

    results = json.loads(Path("run/report/report.json").read_text())
    arms = {arm["name"]: arm["curve"]["step"] for arm in results["arms"]}
    assert set(arms) == {"markers", "baseline"} and arms["markers"] == arms["baseline"]
    bars = {(r["category"], r["bar"]) for r in results["control"] if r["bar"]}
    assert bars >= {("lang", 0.95), ("format", 0.95), ("length_bucket", 0.9)}
    assert results["posterior"]["max_error_of_sum"] < 1e-5
    assert set(results["meta"]["seconds"]) == {"write the Atlas", "prepare", "train", "evaluate"}

    before = Path("run/markers/metrics.jsonl").read_text()
    assert main(command) == 0, "everything is there already"
    assert Path("run/markers/metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_the_demo_prepares_more_rows_than_one_shard_holds(tmp_path):
    """Its process for that must be one that may start others."""
    rows = ROWS_PER_SHARD + 1
    with (tmp_path / "rows.jsonl").open("w") as file:
        for n in range(rows):
            file.write(json.dumps({"prompt": f"Say {n}.", "completion": str(n)}) + "\n")
    config = load_config(f"{CONFIG}", []).unlock()
    task = {"train": str(tmp_path / "rows.jsonl"), "heldout": "", "rate": 1.0}
    config.data.tasks = {"atlas": task}
    config.data.update(tokenizer="bytes", workers=2)
    prepare_data(config, str(tmp_path / "data"))
    manifest = read_manifest(tmp_path / "data" / "train")
    assert manifest["rows"] == rows and len(manifest["shards"]) == 2
