"""Prompt files: what a row may hold, and one sentence with file and line for each that is wrong."""

import pytest

from marker_lm.data.example import RowError
from marker_lm.data.sources import SourceError
from marker_lm.decoding.rows import read_rows


def write(path, *lines):
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    return path


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
        ('{"prompt": "x", "ban": [1]}', "ban is [1], not a list"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, line, sentence):
    path = write(tmp_path / "p.jsonl", '{"prompt": "fine"}', line)
    [(first, fine), (second, error)] = read_rows(path, ("prompt",))
    assert (first, second) == (f"{path}:1", f"{path}:2")
    assert fine == {"prompt": "fine", "markers": {}, "ban": []}
    assert isinstance(error, RowError) and sentence in str(error) and "\n" not in str(error)


def test_missing_and_empty_files(tmp_path):
    write(tmp_path / "prompts.jsonl", "", "  ")
    with pytest.raises(SourceError, match="prompt.jsonl; the nearest name .* 'prompts.jsonl'"):
        list(read_rows(tmp_path / "prompt.jsonl", ()))
    with pytest.raises(SourceError, match="prompts.jsonl is empty"):
        list(read_rows(tmp_path / "prompts.jsonl", ()))
