"""The Beam job writes what a local run writes, byte by byte."""

import gzip
import itertools
import json

import pytest

from marker_lm.annotate.output import OutputFolder
from marker_lm.annotate.pipeline import annotate_files
from marker_lm.annotate.plan import make_plan
from marker_lm.data.sources import RejectShareError
from tests.annotate.made import make_config, make_rows, shards, write_rows
from tests.data.small import shared_data

pytest.importorskip("apache_beam", reason="apache-beam is not installed")
pytestmark = pytest.mark.extra


def both(tmp_path, config):
    from marker_lm.annotate.beam import annotate_with_beam

    plan = make_plan(config)
    local = annotate_files(plan, tmp_path / "local")
    job = annotate_with_beam(plan, tmp_path / "beam", ["--runner=DirectRunner"])
    assert shards(tmp_path / "local") == shards(tmp_path / "beam")
    rejects = [(tmp_path / name / "rejects.jsonl").read_bytes() for name in ("local", "beam")]
    assert rejects[0] == rejects[1]
    del local["created"], job["created"]
    assert local == job
    assert sorted(p.name for p in (tmp_path / "beam").iterdir()) == [
        "manifest.json",
        "rejects.jsonl",
        "rows",
    ]
    return job


@pytest.mark.slow
@pytest.mark.parametrize("output", ["jsonl.gz", "parquet"])
def test_small_files_with_all_kinds_of_rows(tmp_path, output):
    rows = make_rows(700)
    rows[300]["id"] = rows[650]["id"] = "row-7"  # repeated within a file and in another
    rows[400] = {"prompt": "p"}
    files = [
        write_rows(tmp_path / "a.jsonl", rows[:500]),
        write_rows(tmp_path / "b.jsonl.gz", rows[500:]),
    ]
    manifest = both(tmp_path, make_config(tmp_path, files, output=output, max_reject_share=0.1))
    assert manifest["rejects"]["kinds"] == {"repeated id": 2, "completion is missing": 1}
    assert manifest["rows"] == 697 and len(manifest["shards"]) == 7


@pytest.mark.slow
def test_twenty_thousand_rows_of_the_mix(tmp_path):
    lines: list[bytes] = []
    for name in ("train-ni", "train-other"):
        with gzip.open(shared_data() / "mix" / f"{name}.jsonl.gz") as file:
            lines += itertools.islice(file, 10_000)
    (tmp_path / "mix.jsonl").write_bytes(b"".join(lines))
    config = make_config(tmp_path, tmp_path / "mix.jsonl", shard_rows=4096, workers=2).unlock()
    with config.rows.ignore_type():
        config.rows.prompt = ("instruction", "input")
    config.rows.completion = "output"
    config.rows.value_maps = {"lang": {"en": "en", "de": "de", "ja": "ja"}}
    config.quality.field = "words"
    manifest = both(tmp_path, config.lock())
    assert manifest["rows"] == 20_000 and manifest["categories"]["words"]["rows"] == 20_000
    assert manifest["categories"]["score_bucket"]["rows"] > 5_000
    assert json.dumps(manifest["learned"])


def test_too_many_bad_rows(tmp_path):
    from marker_lm.annotate.beam import annotate_with_beam

    file = write_rows(tmp_path / "rows.jsonl", [*make_rows(5), {"prompt": "p"}])
    plan = make_plan(make_config(tmp_path, file))
    with pytest.raises(RejectShareError, match="1 of 6 rows were rejected"):
        annotate_with_beam(plan, tmp_path / "out", [])
    assert OutputFolder(tmp_path / "out", plan.key).manifest() is None
