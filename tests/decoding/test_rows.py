"""Prompt files: what a row may hold, and one sentence with file and line for each that is wrong."""

import json

import pytest

from marker_lm.data.example import RowError
from marker_lm.data.sources import SourceError
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.rows import read_prompts, read_rows


def write(path, *lines):
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    return path


def test_a_rows_markers_go_before_those_for_all_rows(tmp_path):
    rows = [
        {"prompt": "a\u2028b", "markers": {"lang": "German"}},
        {"prompt": "c", "ban": ["style"], "other": 1},
        {"prompt": "d", "markers": None, "ban": None},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = write(tmp_path / "p.jsonl", lines[0], "", *lines[1:])
    everywhere = Controls({"lang": "English", "words": 3}, frozenset({"score"}), frozenset({"x"}))
    first, second, third = read_prompts(path, everywhere)
    assert first[0] == "a\u2028b" and first[1].pinned == {"lang": "German", "words": 3}
    assert second[1].pinned == everywhere.pinned
    assert second[1].banned == {"score", "style"} and first[1].banned == {"score"}
    assert third[1] == everywhere and first[1].asked == {"x"}


@pytest.mark.parametrize(
    "line, sentence",
    [
        ('{"promt": "x"}', "the row has no text 'prompt'"),
        ('{"prompt": 3}', "the row has no text 'prompt'"),
        ("[1]", "the row is a list, not an object"),
        ("{oops", "the line is not JSON"),
        ("[" * 100_000, "the line is not JSON"),
        (b'{"prompt": "\xff"}', "the line is not UTF-8: byte 0xFF at position 12"),
        ('{"prompt": "' + "x" * 2_000_000 + '"}', "the line has 2000014 bytes"),
        ('{"prompt": "x", "markers": "lang"}', "the markers are 'lang', not an object"),
        ('{"prompt": "x", "ban": "lang"}', "ban is 'lang', not a list"),
        ('{"prompt": "x", "ban": [1]}', "ban is .1., not a list"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, line, sentence):
    path = write(tmp_path / "p.jsonl", '{"prompt": "fine"}', line)
    with pytest.raises(RowError, match=sentence) as caught:
        read_prompts(path, Controls())
    assert str(caught.value).startswith(f"{path}:2: ") and "\n" not in str(caught.value)


def test_missing_and_empty_files(tmp_path):
    write(tmp_path / "prompts.jsonl", "", "  ")
    with pytest.raises(SourceError, match="prompt.jsonl; the nearest name .* 'prompts.jsonl'"):
        list(read_rows(tmp_path / "prompt.jsonl", ()))
    with pytest.raises(SourceError, match="prompts.jsonl is empty"):
        list(read_rows(tmp_path / "prompts.jsonl", ()))
