"""The pipeline: what it writes, in parallel, after a kill, from and to every format."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marker_lm.annotate.learning import finish_learning
from marker_lm.annotate.pipeline import annotate_files, try_out
from marker_lm.annotate.plan import make_plan
from marker_lm.annotate.registry import AnnotateError
from marker_lm.annotate.work import Worker
from marker_lm.data.row_format import RowFormat
from marker_lm.data.sources import RejectShareError, SourceError, read_examples, read_rows
from marker_lm.markers.taxonomy import load_taxonomy
from tests.annotate.made import make_config, make_rows, run, shards, write_parquet, write_rows

ROOT = Path(__file__).resolve().parents[2]


def read(out: Path) -> list[dict]:
    return [row for _, _, row in read_rows(out / "rows")]


def test_rows_keep_their_fields_and_gain_markers(tmp_path):
    rows = make_rows(250)
    out, manifest = run(tmp_path, write_rows(tmp_path / "rows.jsonl", rows))
    written = read(out)
    assert [{k: v for k, v in row.items() if k in rows[0]} for row in written] == rows
    one = written[1]
    assert one["markers"] == {
        "lang": "de",
        "score": 9.19,
        "score_bucket": "high",
        "words": 2,
        "size": "short",
    }
    assert one["marker_info"] == {
        "lang": {"origin": "metadata", "confidence": 1.0},
        "score": {"origin": "quality", "confidence": 1.0},
        "score_bucket": {"origin": "quality", "confidence": 1.0},
        "words": {"origin": "lengths", "confidence": 1.0},
        "size": {"origin": "lengths", "confidence": 1.0},
    }
    assert [shard["file"] for shard in manifest["shards"]] == [
        "00000-00000.jsonl",
        "00000-00001.jsonl",
        "00000-00002.jsonl",
    ]
    assert [shard["rows"] for shard in manifest["shards"]] == [100, 100, 50]
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "rejects.jsonl", "rows"]


def test_the_counts_of_the_manifest_are_those_of_the_rows(tmp_path):
    out, manifest = run(tmp_path, write_rows(tmp_path / "rows.jsonl", make_rows(250)))
    written = read(out)
    assert manifest["rows"] == len(written) == 250
    for category, cell in manifest["categories"].items():
        have = [row for row in written if category in row["markers"]]
        assert cell["rows"] == len(have) == sum(cell["origins"].values())
        origins = {row["marker_info"][category]["origin"] for row in have}
        assert set(cell["origins"]) == origins
    assert manifest["categories"]["score"]["abstained"] == 23  # every eleventh has no rating
    assert manifest["categories"]["lang"]["abstained"] is None, "nobody was asked"
    klingon = sum(row["language"] == "Klingon" for row in written)
    assert manifest["rejects"]["left_out"] == {"lang": klingon}
    assert manifest["learned"]["quality"]["score_bucket"]["no score"] == 23


def test_what_is_written_does_not_depend_on_processes(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", make_rows(1500))
    one, first = run(tmp_path, file, "one", shard_rows=1000, workers=1)
    three, second = run(tmp_path, file, "three", shard_rows=1000, workers=3)
    assert shards(one) == shards(three) and len(shards(one)) == 2
    del first["created"], second["created"]
    assert first == second


@pytest.mark.parametrize("output", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("source", ["jsonl", "jsonl.gz", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, source, output):
    rows = make_rows(130)
    path = tmp_path / f"rows.{source}"
    write_parquet(path, rows) if source == "parquet" else write_rows(path, rows)
    plain, _ = run(tmp_path, write_rows(tmp_path / "plain.jsonl", rows), "plain")
    out, _ = run(tmp_path, path, "out", output=output)
    assert all(name.endswith("." + output) for name in shards(out))
    fields = RowFormat(), load_taxonomy(str(tmp_path / "taxonomy.yaml"))
    expected = list(read_examples(plain / "rows", fields[1], fields[0]))
    found = list(read_examples(out / "rows", fields[1], fields[0]))
    assert found == expected and found[1].marker_info["words"].origin == "lengths"


def test_parquet_keeps_the_types_of_its_columns(tmp_path):
    import datetime

    import pyarrow as pa
    from pyarrow import parquet

    day = datetime.date(2025, 3, 1)
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "completion": ["x", "y z w"],
            "day": pa.array([day, None], pa.date32()),
            "small": pa.array([1, 2], pa.int8()),
            "raw": pa.array([b"\xff", b""], pa.binary()),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "nothing": pa.nulls(2),
        }
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    out, _ = run(tmp_path, tmp_path / "rows.parquet", output="parquet")
    written = parquet.read_table(out / "rows" / "00000-00000.parquet")
    assert written.drop_columns(["markers", "marker_info"]).equals(table)
    assert written["markers"].to_pylist()[1]["size"] == "long"
    with pytest.raises(RejectShareError, match="holds bytes.*write Parquet"):
        run(tmp_path, tmp_path / "rows.parquet", "lines")


def test_columns_of_many_files_are_put_together(tmp_path):
    first = write_rows(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "n": 1}] * 3)
    second = write_rows(
        tmp_path / "b.jsonl", [{"prompt": "p", "completion": "c", "n": 1.5, "m": [1]}]
    )
    out, _ = run(tmp_path, [first, second], output="parquet")
    rows = read(out)
    assert [row["n"] for row in rows] == [1.0, 1.0, 1.0, 1.5]
    assert [row["m"] for row in rows] == [None, None, None, [1]]
    write_rows(second, [{"prompt": "p", "completion": "c", "n": "many"}])
    with pytest.raises(AnnotateError, match="the field 'n' has no one type"):
        run(tmp_path, [first, second], "other", output="parquet")


def test_what_is_done_is_not_done_again(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", make_rows(250))
    out, manifest = run(tmp_path, file)
    stamps = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    assert run(tmp_path, file)[1] == manifest
    assert {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()} == stamps
    with pytest.raises(AnnotateError, match="holds the rows of another config"):
        run(tmp_path, file, shard_rows=50)
    write_rows(file, make_rows(251))
    with pytest.raises(AnnotateError, match="another config, taxonomy or input"):
        run(tmp_path, file)


def test_a_folder_with_files_of_unknown_making_is_left_alone(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", make_rows(3))
    stray = write_rows(tmp_path / "out" / "rows" / "stray.jsonl", make_rows(1))
    with pytest.raises(AnnotateError, match="nothing says what they were made from"):
        run(tmp_path, file)
    assert stray.exists()


PROGRAM = """
import sys
from tests.annotate.made import run
from pathlib import Path
folder = Path(sys.argv[1])
run(folder, folder / "rows.jsonl", "killed", shard_rows=200, workers=int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_and_writes_the_same(tmp_path, workers):
    rows = make_rows(4_000)
    rows[3_000]["id"] = "row-3"  # a repeated id is found across the kill
    file = write_rows(tmp_path / "rows.jsonl", rows)
    whole, expected = run(tmp_path, file, "whole", shard_rows=200)
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(workers)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(list(killed.glob("rows/*.jsonl"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "it has ended before it could be killed"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = shards(killed)
    assert 3 <= len(before) < 20 and not (killed / "manifest.json").exists()
    assert all(data == shards(whole)[name] for name, data in before.items()), "only whole shards"
    stamps = {name: (killed / "rows" / name).stat().st_mtime_ns for name in sorted(before)[:-1]}
    _, manifest = run(tmp_path, file, "killed", shard_rows=200)
    assert shards(killed) == shards(whole)
    assert (killed / "rejects.jsonl").read_bytes() == (whole / "rejects.jsonl").read_bytes()
    del manifest["created"], expected["created"]
    assert manifest == expected and manifest["rejects"]["kinds"] == {"repeated id": 1}
    for name, stamp in stamps.items():
        assert (killed / "rows" / name).stat().st_mtime_ns == stamp, "was there and stays"


def test_rows_with_repeated_ids_do_not_teach(tmp_path):
    rows = [
        {"id": str(i), "prompt": "p", "completion": "c", "language": "German", "rating": i}
        for i in range(10)
    ]
    clean, _ = run(tmp_path, write_rows(tmp_path / "clean.jsonl", rows), "clean")
    again = [{**rows[0], "rating": 1000 + i} for i in range(30)]
    file = write_rows(tmp_path / "again.jsonl", rows + again)
    out, manifest = run(tmp_path, file, "again", max_reject_share=1.0)
    assert read(out) == read(clean)
    assert manifest["rejects"]["kinds"] == {"repeated id": 30}
    assert manifest["learned"]["quality"]["score_bucket"]["scored"] == {"de": 10}


def test_annotated_rows_can_be_annotated_again(tmp_path):
    out, _ = run(tmp_path, write_rows(tmp_path / "rows.jsonl", make_rows(120)))
    config = make_config(tmp_path, out / "rows").unlock()
    with config.rows.ignore_type():
        config.rows.markers = "markers"
    again = tmp_path / "again"
    manifest = annotate_files(make_plan(config.lock()), again)
    assert shards(again).keys() == {"00000-00000.jsonl", "00001-00000.jsonl"}
    assert read(again) == read(out), "origins and confidences stay"
    assert manifest["categories"]["words"]["origins"] == {"lengths": 120}


def test_untrusted_markers_are_found_anew(tmp_path):
    row = {"prompt": "p", "completion": "one two", "markers": {"words": 7, "lang": "de"}}
    row["marker_info"] = {"words": {"origin": "classifier", "confidence": 0.4}}
    config = make_config(tmp_path, write_rows(tmp_path / "rows.jsonl", [row])).unlock()
    with config.rows.ignore_type():
        config.rows.markers = "markers"
    config.rows.trust = {"classifier": 0.5}
    annotate_files(make_plan(config.lock()), tmp_path / "out")
    (written,) = read(tmp_path / "out")
    assert written["markers"] == {"lang": "de", "words": 2, "size": "short"}
    assert written["marker_info"]["words"] == {"origin": "lengths", "confidence": 1.0}


def test_a_dry_run_writes_nothing(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", [*make_rows(300), {"prompt": "p"}])
    before = sorted(p.name for p in tmp_path.iterdir())
    plan = make_plan(make_config(tmp_path, file))
    tally, lines, rejects = try_out(plan, 50)
    assert tally.rows == len(lines) == 50 and rejects == []
    assert json.loads(lines[1])["markers"]["size"] == "short"
    assert sorted(p.name for p in tmp_path.iterdir()) == [*before, "taxonomy.yaml"]
    assert [r.kind for r in try_out(plan, 1000)[2]] == ["completion is missing"]


def test_settings_that_cannot_be(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", make_rows(3))
    for settings, says in [
        ({"output": "parqet"}, "did you mean 'parquet'"),
        ({"shard_rows": 0}, "shard_rows is 0"),
        (
            {"annotators": {"lang": ("lnag",)}},
            "names 'lnag', which is no annotator; did you mean 'lang'",
        ),
        ({"annotators": {"lang": (), "lnag": ()}}, "unknown category 'lnag'"),
        ({"annotators": {"lang": ("lengths",)}}, "'lengths' cannot fill 'lang'; it fills words"),
    ]:
        with pytest.raises(ValueError, match=says):
            make_plan(make_config(tmp_path, file, **settings))
    with pytest.raises(SourceError, match="nearest name in that folder is 'rows.jsonl'"):
        make_plan(make_config(tmp_path, tmp_path / "row.jsonl"))


def test_what_was_found_on_the_way_to_the_learners_is_not_looked_for_again(tmp_path):
    rows = [{**row, "completion": f"{row['completion']} und so weiter"} for row in make_rows(700)]
    rows[5]["completion"] = " "  # a row less between the parsed ones
    file = write_rows(tmp_path / "rows.jsonl", rows)
    config = make_config(tmp_path, file, max_reject_share=0.1).unlock()
    with config.rows.ignore_type():
        config.rows.markers = "markers"
    config.annotators = {"lang": ("lang",)}
    plan = make_plan(config.lock())
    worker = Worker(plan.job)
    block = next(plan.read())
    seen = worker.learn(block)
    assert len(seen.found) == len(block) - 1 and all("lang" in found for found in seen.found)
    sped, plain = (Worker(finish_learning(plan.job, seen.learners)) for _ in range(2))
    lang = next(step for step in sped.steps if step.name == "lang")
    lang.annotator = Asked(lang.annotator)
    assert sped.annotate(block, seen.found).rows == plain.annotate(block).rows
    assert lang.annotator.rows == 0


class Asked:
    """An annotator that counts the rows that it is asked about."""

    def __init__(self, annotator):
        self.annotator, self.rows = annotator, 0
        self.name, self.categories = annotator.name, annotator.categories

    def annotate(self, examples):
        self.rows += len(examples)
        return self.annotator.annotate(examples)
