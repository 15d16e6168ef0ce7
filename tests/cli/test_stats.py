"""`marker-lm stats`: what it writes, and strata that are frozen and then used."""

import json

import pytest

from marker_lm.evaluation.rows import rows_benchmark
from tests.cli.conftest import CONFIG, one_sentence, tiny_overrides
from tests.tiny import make_rows, tiny_config, write_data, write_rows


@pytest.fixture
def stats(call, data, tmp_path):
    def run(*more):
        options = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *tiny_overrides(data)]
        return call("stats", *options, "--workers=0", *more)

    return run


def test_files_and_summary(stats, tmp_path):
    result = stats()
    assert result.code == 0, result.err
    out = tmp_path / "run" / "stats"
    assert sorted(path.name for path in out.iterdir()) == ["stats.html", "stats.json"]
    found = json.loads((out / "stats.json").read_text("utf-8"))
    assert found["splits"]["train"]["rows"] == 160 and found["about"]["threshold"] == 0.05
    assert found["token_costs"]["compact_over_text"] < 0.25
    assert "160 train and 24 heldout rows" in result.out
    assert "The compact template adds" in result.out and str(out / "stats.html") in result.out


def test_frozen_strata_stay(stats, tmp_path):
    path = tmp_path / "run" / "stats" / "strata.json"
    assert f"strata: {path}" in stats("--freeze", "--threshold=0.2").out
    before = path.read_text()
    assert json.loads(before)["tail"] == ["ja"]
    assert "holds the same ones already" in stats("--freeze", "--threshold=0.2").out
    message = one_sentence(stats("--freeze", "--threshold=0.5"))
    assert "holds other strata" in message and "threshold is 0.2, was to be 0.5" in message
    assert path.read_text() == before
    other = tmp_path / "size.json"
    assert stats(f"--freeze={other}", "--category=size", "--threshold=0.2").code == 0
    assert json.loads(other.read_text())["category"] == "size"


def test_evaluation_uses_frozen_strata(stats, data, tmp_path):
    config = tiny_config(data).unlock()
    config.eval.update(tail_share=0.2, rows=10)
    counted = rows_benchmark(config)
    assert stats("--freeze", "--threshold=0.2").code == 0
    path = tmp_path / "run" / "stats" / "strata.json"
    config.eval.update(strata=str(path), tail_share=0.01, tail_category="task")
    frozen = rows_benchmark(config)
    assert frozen.items == counted.items
    assert {k: frozen.strata[k] for k in counted.strata} == counted.strata
    # They hold, whatever the training rows have become.
    moved = write_data(tmp_path / "moved")
    write_rows(moved / "train.jsonl", [r for r in make_rows(160) if r["id"] == "row-0-0"])
    config.data.tasks.rows.train = str(moved / "train.jsonl")
    assert rows_benchmark(config).strata == frozen.strata


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        ("--threshold=5", "--threshold=5 must be a share between 0 and 1"),
        ("--workers=-1", "--workers=-1 must be 0 or more"),
        ("--config.eval.tail_category=lagn", "unknown category 'lagn'"),
        ("--category=words", "words is a number and has no values to split"),
    ],
)
def test_slips(stats, slip, words):
    assert words in one_sentence(stats("--freeze", slip))
