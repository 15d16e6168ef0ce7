"""Damaged input: one sentence, or a reject with its reason; counts add up, no file is half."""

import gzip
import json
import multiprocessing
import threading
import time

import pyarrow as pa
import pytest
from pyarrow import parquet

from marker_lm.annotate.pipeline import annotate_files
from marker_lm.annotate.plan import make_plan
from marker_lm.annotate.registry import AnnotateError
from marker_lm.data.sources import RejectShareError, SourceError, read_rows
from tests.annotate.made import make_config, make_rows, run, write_parquet, write_rows

GOOD = {"prompt": "p", "completion": "c d", "markers": {"lang": "en"}, "rating": 1.5}
NULL = None


def line(**change) -> bytes:
    return json.dumps({**GOOD, **change}).encode()


def info(**entry) -> dict:
    return {"marker_info": {"lang": {"origin": "lang", "confidence": 0.5} | entry}}


REJECTED = [
    (b'{"prompt": "gr\xc3", "completion": "c"}', "invalid UTF-8", "byte 0xC3 at position 14"),
    (line().decode().encode("utf-16-le"), "invalid JSON", "not JSON"),
    (b"\xff\xfe" + line().decode().encode("utf-16-le"), "invalid UTF-8", "byte 0xFF"),
    (b"\xef\xbb\xbf" + line(), "invalid JSON", "BOM"),
    (line()[:-9], "invalid JSON", "not JSON: "),
    (line() + line(), "invalid JSON", "Extra data"),
    (b"{'prompt': 'p'}", "invalid JSON", "double quotes"),
    (b"[" * 100_000, "invalid JSON", "recursion"),
    (b'{"n": 1' + b"0" * 5000 + b"}", "invalid JSON", "digits"),
    (b"null", "not an object", "is a null, not an object"),
    (b'["prompt"]', "not an object", "is a list, not an object"),
    (line(prompt=NULL), "prompt is missing", "no prompt"),
    (line(completion=[NULL]), "completion is not a string", "is a list"),
    (line(completion="\n"), "completion is blank", "is blank"),
    (line(completion="\ud83d"), "lone surrogate", "U+D83D"),
    (line(completion="x" * 50_000_000), "line too long", "more than max_line_bytes"),
    (line(id="row-1"), "repeated id", "the id 'row-1' was used by a row before"),
    (line(id=[1]), "id is not usable", "the id (field 'id') is [1]"),
    (line(markers="en"), "markers are not an object", "are a string"),
    (line(markers={"lagn": "en"}), "unknown category", "did you mean 'lang'"),
    (line(markers={"lang": [NULL]}), "bad value of lang", "lang="),
    (line(markers={"words": float("nan")}), "bad value of words", "words=nan is not an integer"),
    (line(markers={"score": float("inf")}), "bad value of score", "score=inf"),
    (line(markers={"score": "NaN"}), "bad value of score", "score='NaN'"),
    (line(markers={"size": "long", "words": 2}), "bad value of size", "makes it 'short'"),
    (line(markers={"size": "long"}), "bad value of size", "words=2 makes it 'short'"),
    (line(**info(confidence=float("nan"))), "bad marker_info", "a number from 0 to 1"),
    (line(**info(origin=NULL)), "bad marker_info", "'origin', a string"),
    (line(marker_info=[[NULL]]), "bad marker_info", "is a list"),
]


def config_of(tmp_path, files, **settings):
    config = make_config(tmp_path, files, max_reject_share=0.5, **settings).unlock()
    with config.rows.ignore_type():
        config.rows.markers = "markers"
    config.rows.unknown_values = "reject"
    return config.lock()


def good_rows():
    return [{**GOOD, "id": f"row-{i}"} for i in range(6)]


def nothing_half(out):
    """No partial file, and under rows/ only files that can be read to their end."""
    assert not list(out.rglob("*.partial"))
    if list(out.glob("rows/*")):
        list(read_rows(out / "rows"))


@pytest.mark.parametrize(("bad", "kind", "says"), REJECTED, ids=[r[1] + r[2] for r in REJECTED])
def test_a_bad_line_is_rejected(tmp_path, bad, kind, says):
    lines = [json.dumps(row).encode() for row in good_rows()]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join([*lines[:3], bad, *lines[3:]]) + b"\n")
    manifest = annotate_files(make_plan(config_of(tmp_path, file)), tmp_path / "out")
    assert manifest["rows"] == 6 and manifest["rejects"]["rows"] == 7
    assert manifest["rejects"]["kinds"] == {kind: 1}
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert (reject["file"], reject["line"]) == (str(file), 4)
    assert says in reject["reason"] and "\n" not in reject["reason"]
    assert [row["id"] for _, _, row in read_rows(tmp_path / "out" / "rows")] == [
        row["id"] for row in good_rows()
    ]
    nothing_half(tmp_path / "out")


ODD = [
    {"rating": float("nan")},
    {"rating": float("-inf")},
    {"rating": "high"},
    {"rating": {"value": None}},
    {"other": {"a": [None, {"b": None}], "": None}},
    {"markers": {"lang": None, "words": None}},
    {"markers": None, "marker_info": {"lang": None}},
    {"note": "half a pair \ud83d"},
    {"note": "null \x00 and \u2028"},
    {"big": 10**30},
]


@pytest.mark.parametrize("odd", ODD, ids=[ascii(odd) for odd in ODD])
def test_an_odd_field_stays_as_it_is_and_is_not_guessed_from(tmp_path, odd):
    rows = [*good_rows(), {**GOOD, "id": "odd", **odd}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = annotate_files(make_plan(config_of(tmp_path, file)), tmp_path / "out")
    assert manifest["rows"] == 7 and manifest["rejects"]["rejected"] == 0
    *_, (_, _, last) = read_rows(tmp_path / "out" / "rows")
    for name, value in odd.items():
        if name not in ("markers", "marker_info"):
            assert repr(last[name]) == repr(value)
    assert ("score" in last["markers"]) == ("rating" not in odd)
    scores = manifest["learned"]["quality"]["score_bucket"]
    assert scores["not a number"] == ("rating" in odd)


def cut_gzip(path):
    data = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in make_rows(5000)))
    path = path.with_suffix(".jsonl.gz")
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def flipped_gzip(path):
    path = cut_gzip(path)
    data = bytearray(write_rows(path, make_rows(5000)).read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    return path


def wrong_length_gzip(path):
    path = write_rows(path.with_suffix(".jsonl.gz"), make_rows(300))
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    return path


def cut_parquet(path):
    path = write_parquet(path.with_suffix(".parquet"), make_rows(300))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def holed_parquet(path):
    path = write_parquet(path.with_suffix(".parquet"), make_rows(3000), 1000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    path.write_bytes(data)
    return path


def no_parquet(path):
    path = path.with_suffix(".parquet")
    path.write_bytes(line())
    return path


def parquet_without_rows(path):
    path = path.with_suffix(".parquet")
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    return path


def twice_the_same_column(path):
    path = path.with_suffix(".parquet")
    table = pa.Table.from_arrays([pa.array(["p"]), pa.array(["c"])], ["prompt", "prompt"])
    parquet.write_table(table, path)
    return path


def with_bytes(data):
    def make(path):
        path.write_bytes(data)
        return path

    return make


DAMAGED = [
    (cut_gzip, "is damaged after [0-9]+ whole lines"),
    (flipped_gzip, "is damaged after [0-9]+ whole lines"),
    (wrong_length_gzip, "is damaged after 300 whole lines"),
    (with_bytes(b""), "rows.jsonl is empty"),
    (with_bytes(b" \n\r\n"), "rows.jsonl is empty"),
    (with_bytes(gzip.compress(b"")), "rows.jsonl is empty"),
    (with_bytes(b"\x1f\x8bno gzip"), "is damaged after 0 whole lines"),
    (cut_parquet, "rows.parquet is damaged after 0 rows"),
    (holed_parquet, "rows.parquet is damaged after [0-9]+ rows"),
    (no_parquet, "rows.parquet is damaged after 0 rows"),
    (parquet_without_rows, "rows.parquet is empty"),
    (twice_the_same_column, "two columns named 'prompt'"),
]


@pytest.mark.parametrize("output", ["jsonl", "parquet"])
@pytest.mark.parametrize(("damage", "says"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_one_sentence(tmp_path, damage, says, output):
    file = damage(tmp_path / "rows.jsonl")
    with pytest.raises(SourceError, match=says) as caught:
        run(tmp_path, file, output=output)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    nothing_half(tmp_path / "out")


def test_damage_behind_whole_shards_and_its_mend(tmp_path):
    good = write_rows(tmp_path / "a.jsonl", make_rows(250))
    bad = cut_gzip(tmp_path / "b.jsonl")
    names = {"lang": (), "score": (), "score_bucket": ()}
    config = make_config(tmp_path, [good, bad], annotators=names, max_reject_share=0.5)
    with pytest.raises(SourceError, match="b.jsonl.gz is damaged"):
        annotate_files(make_plan(config), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("rows/00000-*.jsonl"))) == 3
    nothing_half(tmp_path / "out")


def test_a_shard_of_which_nothing_is_left(tmp_path):
    rows = make_rows(300)
    rows[100:200] = rows[:100]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    config = make_config(tmp_path, file, max_reject_share=0.5)
    manifest = annotate_files(make_plan(config), tmp_path / "out")
    names = ["00000-00000.jsonl", "00000-00002.jsonl"]
    assert [shard["file"] for shard in manifest["shards"]] == names
    assert sorted(path.name for path in (tmp_path / "out" / "rows").iterdir()) == names
    assert manifest["rejects"]["kinds"] == {"repeated id": 100}
    nothing_half(tmp_path / "out")


def test_rows_that_do_not_fit_json(tmp_path):
    table = pa.table({"prompt": ["p"] * 3, "completion": ["c"] * 3, "raw": [b"\xff"] * 3})
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(RejectShareError, match="3 of 3 rows .*holds bytes"):
        run(tmp_path, tmp_path / "rows.parquet")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["work/key.json", "work/learned.pickle", "work/00000-00000.json"])
def test_a_damaged_working_folder(tmp_path, name):
    good = write_rows(tmp_path / "a.jsonl", make_rows(250))
    bad = write_rows(tmp_path / "b.jsonl", [{"prompt": "p"}] * 250)
    config = make_config(tmp_path, [good, bad], max_reject_share=0.1)
    with pytest.raises(RejectShareError):
        annotate_files(make_plan(config), tmp_path / "out")
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(AnnotateError, match=f"{path.name} is damaged .*remove"):
        annotate_files(make_plan(config), tmp_path / "out")


def test_a_shard_cut_short_is_written_again(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [*make_rows(250), *[{"prompt": "p"}] * 50])
    config = make_config(tmp_path, file, max_reject_share=0.1)
    with pytest.raises(RejectShareError):
        annotate_files(make_plan(config), tmp_path / "out")
    shard = tmp_path / "out" / "rows" / "00000-00000.jsonl"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    with pytest.raises(RejectShareError):
        annotate_files(make_plan(config), tmp_path / "out")
    assert shard.read_bytes() == whole


@pytest.mark.slow
def test_a_worker_that_is_killed(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", make_rows(12_000))
    plan = make_plan(make_config(tmp_path, file, workers=2, shard_rows=600))

    def kill():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if len(list((tmp_path / "out").glob("rows/*.jsonl"))) >= 2:
                multiprocessing.active_children()[0].kill()
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(AnnotateError, match="a worker process has ended .*goes on"):
        annotate_files(plan, tmp_path / "out")
    killer.join()
    nothing_half(tmp_path / "out")
    assert annotate_files(plan, tmp_path / "out")["rows"] == 12_000
