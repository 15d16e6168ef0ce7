"""The Beam job writes the cache that a local run writes, byte by byte."""

import gzip
import itertools
import json

import pytest

from marker_lm.data import prepare as prepare_module
from marker_lm.data import shards as shards_module
from marker_lm.data.prepare import prepare
from marker_lm.data.setup import SetupError
from marker_lm.data.sources import RejectShareError
from tests.benchmarks.mix import mix_config
from tests.data.small import shared_data
from tests.tiny import make_rows, tiny_config, write_data, write_rows

pytest.importorskip("apache_beam", reason="apache-beam is not installed")
pytestmark = pytest.mark.extra

OPTIONS = ["--runner=DirectRunner"]


def files_of(folder):
    """Relative name -> bytes of everything below a folder, but for the lock."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def both(tmp_path, config):
    """The manifests of a local run, after a check that a Beam job does the same."""
    manifests = {}
    for name, beam in (("local", None), ("beam", OPTIONS)):
        manifests[name] = prepare(config, tmp_path / name, lambda line: None, beam)
    local, job = files_of(tmp_path / "local"), files_of(tmp_path / "beam")
    assert local.keys() == job.keys()
    assert [name for name in local if local[name] != job[name]] == []
    assert manifests["local"] == manifests["beam"]
    return manifests["local"]


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards_module.blocks, "__defaults__", (40,))
    monkeypatch.setattr(prepare_module, "ROWS_PER_SHARD", 40)


@pytest.mark.slow
def test_small_files_with_all_kinds_of_rows(tmp_path, small_shards):
    write_data(tmp_path, 5, 6)
    rows = make_rows(700)
    rows[300]["id"] = rows[650]["id"] = "row-0-7"  # repeated within a file and in another
    rows[400] = {"prompt": "p"}
    rows[401]["markers"] = {"lang": "xx", "task": "Answer"}
    rows[402]["markers"] = {"lang": "yy"}
    write_rows(tmp_path / "train" / "a.jsonl", rows[:500])
    data = "".join(json.dumps(row) + "\n" for row in rows[500:]).encode()
    (tmp_path / "train" / "b.jsonl.gz").write_bytes(gzip.compress(data))
    config = tiny_config(tmp_path).unlock()
    task = config.data.tasks.rows.to_dict() | {"train": str(tmp_path / "train")}
    more = {"train": str(tmp_path / "train.jsonl"), "heldout": "", "rate": 2.0}
    config.data.tasks = {"rows": task, "more": more}
    config.data.update(share=0.8, max_reject_share=0.1, workers=1)
    config.data.rows.unknown_values = "leave_out"
    train = both(tmp_path, config)["train"]
    assert train["rejects"]["kinds"] == {"repeated id": 2, "completion is missing": 1}
    assert train["rejects"]["left_out"] == {"lang": 2}
    assert [task["name"] for task in train["tasks"]] == ["more", "rows"]
    assert [shard["rows"] for shard in train["shards"][:2]] == [train["tasks"][0]["rows"], 40]
    assert len(train["shards"]) > 10


@pytest.mark.slow
def test_twenty_thousand_rows_of_the_mix(tmp_path):
    lines: list[bytes] = []
    for name in ("train-ni", "train-other"):
        with gzip.open(shared_data() / "mix" / f"{name}.jsonl.gz") as file:
            lines += itertools.islice(file, 10_000)
    (tmp_path / "mix.jsonl").write_bytes(b"".join(lines))
    config = mix_config(tmp_path, share=1.0, tokenizer="bytes")
    config.data.tasks.mix.train = str(tmp_path / "mix.jsonl")
    train = both(tmp_path, config)["train"]
    assert train["rows"] > 19_900
    assert [shard["rows"] for shard in train["shards"][:2]] == [8192, 8192]


def test_too_many_bad_rows_and_tfds_are_refused(tmp_path):
    config = tiny_config(write_data(tmp_path, 30, 6)).unlock()
    config.data.max_reject_share = 0.05
    write_rows(tmp_path / "train.jsonl", [*make_rows(10), {"id": "x"}])
    with pytest.raises(RejectShareError, match="1 of 11 rows"):
        prepare(config, tmp_path / "beam", lambda line: None, OPTIONS)
    assert not (tmp_path / "beam" / "train").exists()
    assert len((tmp_path / "beam" / "rejects.train.jsonl").read_text().splitlines()) == 1
    task = {"train": "train", "heldout": "", "rate": 1.0, "tfds": "x"}
    config.data.tasks = {"rows": task}
    with pytest.raises(SetupError, match="data.tasks.rows is of TFDS"):
        prepare(config, tmp_path / "beam", lambda line: None, OPTIONS)


def test_places_of_rows_in_shards():
    from marker_lm.data.beam import number_rows

    counts = [((1, 0, 0), 5), ((0, 1, 0), 4), ((0, 0, 512), 3), ((0, 0, 0), 0)]
    assert number_rows(counts, rows=3) == {
        (0, 0, 0): (0, 0),
        (0, 0, 512): (0, 0),
        (0, 1, 0): (0, 3),
        (1, 0, 0): (3, 0),
    }
