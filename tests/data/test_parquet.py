"""Parquet files give the same rows as JSONL, and say what is wrong with them."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from marker_lm.data.blocks import block_rows, read_blocks
from marker_lm.data.example import RowError
from marker_lm.data.sources import Rejects, SourceError, find_files, read_examples, read_rows
from tests.data.small import ROWS, taxonomy, write_rows


def write(path, rows, **more):
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    parquet.write_table(table, path, **more)
    return path


def read(path, **more):
    with Rejects(None, 1.0) as rejects:
        return list(read_examples(path, taxonomy(), None, rejects, **more)), rejects


def test_the_same_examples_as_from_jsonl(tmp_path):
    names = dict.fromkeys(key for row in ROWS for key in row)
    rows = [{name: row.get(name) for name in names} for row in ROWS]
    from_parquet, rejects = read(write(tmp_path / "rows.parquet", rows, row_group_size=2))
    from_lines, _ = read(write_rows(tmp_path / "rows.jsonl", rows))
    assert [e.markers for e in from_parquet] == [e.markers for e in from_lines]
    assert [(e.id, e.prompt, e.completion) for e in from_parquet] == [
        (e.id, e.prompt, e.completion) for e in from_lines
    ]
    assert from_parquet[2].extra["answer"] == [1, 2] and rejects.rejected == 0


def test_a_folder_holds_all_kinds(tmp_path):
    rows = [{"prompt": "p", "completion": "c"}]
    write_rows(tmp_path / "a.jsonl", rows)
    write_rows(tmp_path / "b.jsonl.gz", rows)
    write(tmp_path / "c.parquet", rows)
    assert list(find_files(tmp_path)) == ["a.jsonl", "b.jsonl.gz", "c.parquet"]
    assert [e.id for e in read(tmp_path)[0]] == ["a.jsonl:1", "b.jsonl.gz:1", "c.parquet:1"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_blocks_end_at_shards_and_hold_every_row_once(tmp_path, kind):
    rows = [{"prompt": "p" * i, "completion": "c"} for i in range(1, 101)]
    path = tmp_path / f"rows.{kind}"
    write(path, rows, row_group_size=33) if kind == "parquet" else write_rows(path, rows)
    blocks = list(read_blocks("rows", path, rows=16, shard_rows=40))
    assert [n for block in blocks for n in block.numbers] == list(range(1, 101))
    assert all(len(block) <= 16 for block in blocks)
    for block in blocks:
        assert block.first // 40 == (block.first + len(block) - 1) // 40
    assert [row for block in blocks for _, row in block_rows(block)] == rows
    done = [block.done for block in blocks]
    assert done == sorted(done) and done[-1] == path.stat().st_size
    by_size = list(read_blocks("rows", path, block_bytes=2000))
    assert len(by_size) > 2 and sum(map(len, by_size)) == 100


def test_bad_rows_are_rejected_with_their_place(tmp_path):
    bad = pa.array([b"fine", b"half \xe4", b"fine"], pa.binary()).view(pa.string())
    table = pa.table({"id": ["a", "b", "a"], "prompt": ["p"] * 3, "completion": bad})
    examples, rejects = read(write(tmp_path / "rows.parquet", table))
    assert [e.id for e in examples] == ["a"]
    assert rejects.kinds == {"invalid UTF-8": 1, "repeated id": 1}
    with pytest.raises(RowError, match="rows.parquet:2: the field 'completion' is not UTF-8: byte"):
        list(read_examples(tmp_path / "rows.parquet", taxonomy()))


def test_a_long_row_is_rejected(tmp_path):
    rows = [{"prompt": "p", "completion": "x" * n} for n in (10, 50_000_000, 10)]
    examples, rejects = read(write(tmp_path / "rows.parquet", rows))
    assert len(examples) == 2 and rejects.kinds == {"line too long": 1}
    raw = [row for _, _, row in read_rows(tmp_path / "rows.parquet")]
    assert isinstance(raw[1], RowError) and "more than max_line_bytes=1000000" in str(raw[1])


def test_nested_nulls_are_absent(tmp_path):
    markers = pa.struct([("lang", pa.string()), ("words", pa.int64())])
    info = pa.struct([("lang", pa.struct([("origin", pa.string()), ("confidence", pa.float64())]))])
    table = pa.table(
        {
            "prompt": ["p"] * 3,
            "completion": ["c"] * 3,
            "markers": pa.array([None, {"lang": None, "words": None}, {"words": 2}], markers),
            "marker_info": pa.array([None, {"lang": None}, None], info),
        }
    )
    examples, rejects = read(write(tmp_path / "rows.parquet", table))
    assert [e.markers for e in examples] == [{}, {}, {"words": 2}] and rejects.rejected == 0


@pytest.mark.parametrize("cut", [0, 1, 40, 0.5, -1])
def test_a_file_cut_short(tmp_path, cut):
    path = write(tmp_path / "rows.parquet", ROWS[:2] * 500)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(SourceError, match=r"rows.parquet is damaged after \d+ rows .*download it"):
        read(path)


def test_damage_within_a_file(tmp_path):
    rows = [{"prompt": f"p{i}", "completion": f"c{i * 7919}"} for i in range(50_000)]
    path = write(tmp_path / "rows.parquet", rows, row_group_size=5000, compression="zstd")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is damaged after [0-9]+ rows"):
        read(path)


def test_files_that_are_no_table(tmp_path):
    path = write(tmp_path / "rows.parquet", pa.table({"prompt": pa.array([], pa.string())}))
    with pytest.raises(SourceError, match="rows.parquet is empty; give a file with a row"):
        read(path)
    path.write_text(json.dumps(ROWS[0]))
    with pytest.raises(SourceError, match="magic bytes"):
        read(path)
    twice = pa.Table.from_arrays([pa.array(["p"]), pa.array(["c"])], ["prompt", "prompt"])
    with pytest.raises(SourceError, match="two columns named 'prompt'"):
        read(write(path, twice))
