"""Rows, files and rejects: every kind of bad input gets one clear sentence."""

import dataclasses
import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from marker_lm.data.blocks import read_lines
from marker_lm.data.example import RowError
from marker_lm.data.parse import parse_row
from marker_lm.data.row_format import RowFormat, lookup
from marker_lm.data.sources import (
    Rejects,
    RejectShareError,
    SourceError,
    find_files,
    read_examples,
)
from marker_lm.markers.taxonomy import Category, MarkerError, Taxonomy, load_taxonomy
from tests.data.small import ROWS, shared_data, taxonomy, write_rows

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"prompt": "p", "completion": "c", "markers": {"lang": "en"}}


def test_good_row():
    row = {**GOOD, "id": 7, "markers": {"words": "12", "lang": "de", "task": None}, "answer": [1]}
    example = parse_row(row, taxonomy(), line_id="f:1")
    assert (example.id, example.prompt, example.completion) == ("7", "p", "c")
    assert list(example.markers.items()) == [("lang", "de"), ("words", 12)]
    assert example.extra == {"answer": [1]}
    assert parse_row(GOOD, taxonomy(), line_id="f:1").id == "f:1"
    assert parse_row({"prompt": "p", "completion": "c"}, taxonomy()).markers == {}


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"prompt": None}, "prompt is missing", "no prompt"),
        ({"prompt": " \n"}, "prompt is blank", "blank"),
        ({"prompt": 3}, "prompt is not a string", "is a number, not a string: 3"),
        ({"completion": None}, "completion is missing", "no completion"),
        ({"completion": ["x"]}, "completion is not a string", "is a list"),
        ({"completion": True}, "completion is not a string", "is a boolean"),
        ({"prompt": "a\ud800"}, "lone surrogate", "U\\+D800"),
        ({"markers": ["lang"]}, "markers are not an object", "are a list"),
        ({"markers": "lang=en"}, "markers are not an object", "are a string"),
        ({"markers": {"lagn": "en"}}, "unknown category", "lagn.*lang"),
        ({"markers": {"lang": "dee"}}, "bad value of lang", "dee.*de"),
        ({"markers": {"lang": ["en"]}}, "bad value of lang", "lang"),
        ({"markers": {"words": "x"}}, "bad value of words", "words.*'x'"),
        ({"markers": {"words": 1.5}}, "bad value of words", "1.5"),
        ({"markers": {"words": True}}, "bad value of words", "True"),
        ({"id": ""}, "id is not usable", "id"),
        ({"id": {"x": 1}}, "id is not usable", "string or an integer"),
    ],
)
def test_bad_rows(change, kind, says):
    with pytest.raises(RowError, match=says) as caught:
        parse_row({**GOOD, **change}, taxonomy())
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def test_missing_field_names_the_nearest_one():
    with pytest.raises(RowError, match="the nearest is 'promt'"):
        parse_row({"promt": "p", "completion": "c"}, taxonomy())
    with pytest.raises(RowError, match="is a list, not an object"):
        parse_row([1], taxonomy())


MIX = RowFormat(
    prompt=("instruction", "input"),
    completion="output",
    markers={"lang": "language", "task": "tasks[0]", "words": "stats.words"},
    value_maps={"lang": {"English": "en", "German": "de"}},
    defaults={"task": "Answer"},
    unknown_values="leave_out",
)


def test_fields_can_be_joined_and_markers_mapped():
    row = {"instruction": "Do.", "input": " ", "output": "ok", "language": "German", "tasks": []}
    example = parse_row(row, taxonomy(), MIX)
    assert example.prompt == "Do."
    assert example.markers == {"lang": "de", "task": "Answer"}
    assert example.extra == {"language": "German", "tasks": []}
    row |= {"input": "x", "tasks": ["List", "Answer"], "stats": {"words": 3}}
    example = parse_row(row, taxonomy(), MIX)
    assert example.prompt == "Do.\n\nx"
    assert example.markers == {"lang": "de", "task": "List", "words": 3}


def test_a_hierarchical_value_is_cut():
    cut = RowFormat(markers={"task": "kind"}, cut_at={"task": " -> "})
    row = {"prompt": "p", "completion": "c", "kind": "List -> of -> names"}
    assert parse_row(row, taxonomy(), cut).markers == {"task": "List"}
    assert parse_row(row | {"kind": "Answer"}, taxonomy(), cut).markers == {"task": "Answer"}


def several():
    tasks = {"List": "d", "Answer": "d", "Ask": "d"}
    one = Category("task", "closed", "the task", "metadata", "prompt", tasks, several=True)
    return Taxonomy("several", {**taxonomy().categories, "task": one})


@pytest.mark.parametrize(
    ("kinds", "task"),
    [
        (["Answer -> short", "List", "Answer -> long"], ("List", "Answer")),
        ("List -> of names", ("List",)),
        (["both"], ("List", "Answer")),
        ([], ("Ask",)),
        (None, ("Ask",)),
        (["Nonsense", "Answer", "Nonsense"], ("Answer",)),
        (["Nonsense"], None),
    ],
)
def test_several_values_of_a_row_are_read_one_by_one(kinds, task):
    row_format = RowFormat(
        markers={"task": "kinds"},
        cut_at={"task": " -> "},
        value_maps={"task": {"both": ("Answer", "List")}},
        defaults={"task": "Ask"},
        unknown_values="leave_out",
    )
    left_out = Counter()
    row = {"prompt": "p", "completion": "c", "kinds": kinds}
    markers = parse_row(row, several(), row_format, left_out=left_out).markers
    assert markers == ({"task": task} if task else {})
    assert left_out["task='Nonsense'"] == (kinds or []).count("Nonsense")


@pytest.mark.parametrize("task", [["List", "Lst"], ["List", None], [["List", 3]], ["a\ud800"], {}])
def test_one_bad_value_among_several_rejects_the_row(task):
    with pytest.raises(RowError, match="task") as caught:
        parse_row({**GOOD, "markers": {"task": task}}, several())
    assert caught.value.kind in ("bad value of task", "lone surrogate")
    with pytest.raises(RowError, match="allows one value only"):
        parse_row({**GOOD, "markers": {"task": ["List", "Answer"]}}, taxonomy())


def test_buckets_follow_from_their_numbers():
    paper = load_taxonomy("paper")

    def markers(**given):
        return parse_row({"prompt": "p", "completion": "c", "markers": given}, paper).markers

    assert markers(length_tokens=299) == {"length_tokens": 299, "length_bucket": "concise"}
    assert markers(length_tokens=1000, length_bucket="long")["length_bucket"] == "long"
    assert markers(length_bucket="medium") == {"length_bucket": "medium"}
    assert markers(quality=0.3) == {"quality": 0.3}  # its quantiles come from the data
    with pytest.raises(RowError, match="'long', but length_tokens=5 makes it 'concise'"):
        markers(length_tokens=5, length_bucket="long")


def test_unknown_values_are_left_out_and_counted_only_when_asked():
    row = {"instruction": "Do.", "output": "ok", "language": "Lao", "tasks": ["List"]}
    left_out = Counter()
    for _ in range(2):
        assert parse_row(row, taxonomy(), MIX, left_out=left_out).markers == {"task": "List"}
    assert left_out == {"lang='Lao'": 2}
    rejects = Rejects(None)
    rejects.left_out = Counter({"lang='Lao'": 2, "lang='a=b'": 1, "task=3": 1})
    assert rejects.summary()["left_out"] == {"lang": 3, "task": 1}
    with pytest.raises(RowError, match="Lao"):
        parse_row(row, taxonomy(), RowFormat(**{**vars(MIX), "unknown_values": "reject"}))
    bad = RowFormat(markers={"lagn": "x"}, unknown_values="leave_out")
    with pytest.raises(MarkerError, match="lagn"):
        bad.check(taxonomy())


def test_row_format_from_config():
    made = RowFormat.from_config({"prompt": ["a", "b"], "markers": {"lang": "language"}})
    assert made == RowFormat(prompt=("a", "b"), markers={"lang": "language"})
    with pytest.raises(ValueError, match="did you mean 'completion'"):
        RowFormat.from_config({"completoin": "x"})
    with pytest.raises(ValueError, match="'reject' or 'leave_out'"):
        RowFormat(unknown_values="drop")
    with pytest.raises(ValueError, match="no field for the prompt"):
        RowFormat(prompt=())


def test_lookup():
    row = {"a": [{"b": 1}, 2], "a[0]": "named so", "s": "text"}
    assert lookup(row, "a[1]") == 2
    assert lookup(row, "a[0].b") == 1
    assert lookup(row, "a[0]") == "named so"
    assert lookup(row, "a[-1]") == 2
    for nothing in ("a[2]", "a.b", "b", "s[0]", "s.x"):
        assert lookup(row, nothing, "none") == "none"


def read(paths, tmp_path, max_share=1.0, **more):
    with Rejects(tmp_path / "out" / "rejects.jsonl", max_share) as rejects:
        examples = list(read_examples(paths, taxonomy(), None, rejects, **more))
    lines = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    return examples, [json.loads(line) for line in lines], rejects


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_plain_and_gzip(tmp_path, name):
    examples, rejected, rejects = read(write_rows(tmp_path / name, ROWS), tmp_path)
    assert [e.id for e in examples] == list("abcd")
    assert [e.completion for e in examples] == [row["completion"] for row in ROWS]
    assert rejected == [] and rejects.summary()["rows"] == 4


def test_bad_lines_are_rejected_with_file_line_and_reason(tmp_path):
    good = [json.dumps({**GOOD, "id": str(i)}).encode() for i in range(4)]
    long = json.dumps({**GOOD, "completion": "x" * 2_000_000}).encode()
    lines = [
        b"\xef\xbb\xbf" + good[0],
        b"",
        b"  \r",
        good[1] + b"\r",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": ',
        b"[1, 2]",
        long,
        good[2],
        good[1],
        b"[" * 200_000,
        b"1" * 10_000,
        good[3],
    ]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(lines))
    examples, rejected, rejects = read(file, tmp_path)
    assert [e.id for e in examples] == list("0123")
    assert [row["line"] for row in rejected] == [5, 6, 7, 8, 10, 11, 12]
    assert {row["file"] for row in rejected} == {str(file)}
    said = [row["reason"] for row in rejected]
    assert "not UTF-8: byte 0xFF at position 12" in said[0]
    assert "not JSON" in said[1]
    assert "is a list, not an object" in said[2]
    assert f"has {len(long)} bytes, more than max_line_bytes=1000000" in said[3]
    assert "id '1' was used" in said[4]
    assert rejects.kinds["invalid JSON"] == 3
    assert (rejects.rows, rejects.rejected) == (11, 7)
    assert all(len(row["excerpt"]) <= 200 for row in rejected)


def test_line_limit_is_exact(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"a" * 10 + b"\n" + b"b" * 11 + b"\n\n" + b"c" * 200_000 + b"\n" + b"d" * 10)
    with file.open("rb") as raw:
        found = list(read_lines(raw, file, 10))
    assert found == [
        (1, b"a" * 10, 10),
        (2, None, 11),
        (3, b"", 0),
        (4, None, 200_000),
        (5, b"d" * 10, 10),
    ]


def test_a_long_line_is_not_held_in_memory(tmp_path):
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b"x" * 30_000_000 + b"\n"))
    tracemalloc.start()
    with file.open("rb") as raw:
        assert [line for _, line, _ in read_lines(raw, file, 10_000)] == [None]
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


def test_share_of_rejects(tmp_path):
    bad = {"prompt": "p"}
    few = write_rows(tmp_path / "few.jsonl", [{**GOOD, "id": i} for i in range(98)] + [bad] * 2)
    assert len(read(few, tmp_path, max_share=0.02)[0]) == 98
    with pytest.raises(RejectShareError, match="2 of 100 rows .*completion is missing: 2.*:99:"):
        read(few, tmp_path, max_share=0.01)
    assert len((tmp_path / "out" / "rejects.jsonl").read_text().splitlines()) == 2
    assert not list((tmp_path / "out").glob("*.partial"))
    many = write_rows(tmp_path / "many.jsonl", [bad] * 3000)
    with pytest.raises(RejectShareError, match="1000 of 1000 rows"):
        read(many, tmp_path, max_share=0.5)


def test_without_rejects_the_first_bad_row_is_an_error(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", [GOOD, {"prompt": "p"}])
    with pytest.raises(RowError, match="rows.jsonl:2: the row has no completion"):
        list(read_examples(file, taxonomy()))


def test_missing_paths_name_the_nearest(tmp_path):
    write_rows(tmp_path / "train.jsonl", ROWS)
    for wrong, says in [
        ("trian.jsonl", "nearest name in that folder is 'train.jsonl'"),
        ("none/train.jsonl", "the folder .*none does not exist either"),
        ("*.jsonl.gz", "no file matches"),
    ]:
        with pytest.raises(SourceError, match=says):
            find_files(tmp_path / wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no .jsonl, .jsonl.gz or .parquet"):
        find_files(tmp_path / "empty")
    with pytest.raises(SourceError, match="no data files were given"):
        find_files([])


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_empty_file(tmp_path, content):
    file = tmp_path / "empty.jsonl"
    file.write_bytes(content)
    with pytest.raises(SourceError, match="empty.jsonl is empty"):
        read(file, tmp_path)


def test_damaged_gzip(tmp_path):
    rows = [{**GOOD, "id": i, "completion": f"{i * 7919} {i**7}"} for i in range(3000)]
    file = write_rows(tmp_path / "rows.jsonl.gz", rows)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"rows.jsonl.gz is damaged after [1-9]\d+ whole lines"):
        read(file, tmp_path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    file.write_bytes(flipped)
    with pytest.raises(SourceError, match="damaged"):
        read(file, tmp_path)


def test_globs_folders_and_names_that_do_not_depend_on_the_place(tmp_path):
    for place in ("here", "there/deeper"):
        root = tmp_path / place
        rows = [{"prompt": "p", "completion": "c"}]
        write_rows(root / "x" / "a.jsonl", rows)
        write_rows(root / "y" / "a.jsonl.gz", rows)
        (root / "x" / "notes.txt").write_text("no rows")
        for paths in ([root / "x", root / "y"], str(root / "*" / "a.jsonl*"), root / "**/a.*"):
            ids = [example.id for example in read_examples(paths, taxonomy())]
            assert ids == ["x/a.jsonl:1", "y/a.jsonl.gz:1"]
    odd = write_rows(tmp_path / "rows[1].jsonl", rows)
    assert list(find_files(odd)) == ["rows[1].jsonl"]


def test_mix_rows():
    row_format = RowFormat(prompt=("instruction", "input"), completion="output", markers="none")
    with Rejects(None, 0.0) as rejects:
        file = shared_data() / "mix" / "heldout-dev.jsonl.gz"
        examples = list(read_examples(file, taxonomy(), row_format, rejects))
    assert len(examples) == rejects.rows > 7000
    assert {"language", "source"} <= set(examples[0].extra)


def test_mix_rows_of_several_domains():
    file = shared_data() / "mix" / "heldout-dev.jsonl.gz"
    mix = load_taxonomy(str(ROOT / "configs" / "mix.yaml"))
    domain = dataclasses.replace(mix.categories["domain"], several=True)
    row_format = RowFormat(
        prompt=("instruction", "input"),
        completion="output",
        markers={"domain": "domain"},
        cut_at={"domain": " -> "},
        unknown_values="leave_out",
    )
    found = Counter(
        len(example.markers.get("domain", ()))
        for example in read_examples(
            file, Taxonomy("mix", {"domain": domain}), row_format, Rejects(None)
        )
    )
    assert found[1] > 6000 and found[2] > 100
