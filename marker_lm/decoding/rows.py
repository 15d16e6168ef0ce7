"""Rows of a file, with the fields that a command needs."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from marker_lm.data.blocks import block_rows, read_blocks
from marker_lm.data.chat import ChatError, check_messages
from marker_lm.data.example import RowError
from marker_lm.data.sources import find_files


def read_rows(
    path: epath.PathLike, needed: tuple[str, ...]
) -> Iterator[tuple[str, dict | RowError]]:
    """Rows of JSONL or Parquet, a file, glob or folder, each with the text fields in `needed`.

    A row has "markers", a mapping, and "ban", a list; both are empty where the file has none. A row
    with "messages" that end with what is asked has them as its "prompt".

    Yields:
      Where a row stands ('FILE:LINE'), and the row, or why it can't be used.

    Raises:
      SourceError: there is no such file, or it is empty.
    """
    for name, file in find_files(path).items():
        for block in read_blocks(name, file):
            for number, row in block_rows(block):
                try:
                    row = row if isinstance(row, RowError) else _check(row, needed)
                except RowError as error:
                    row = error
                yield f"{file}:{number}", row


def _check(row: Any, needed: tuple[str, ...]) -> dict:
    if not isinstance(row, dict):
        raise RowError(f"the row is a {type(row).__name__}, not an object", "not an object")
    if "prompt" in needed and row.get("messages") is not None:
        row = row | {"prompt": _messages(row)}
        needed = [field for field in needed if field != "prompt"]
    for field in needed:
        if not isinstance(row.get(field), str):
            raise RowError(f"the row has no text '{field}'", "missing field")
    row = row | {"markers": row.get("markers") or {}, "ban": row.get("ban") or []}
    if not isinstance(row["markers"], dict):
        raise RowError(f"the markers are {row['markers']!r}, not an object", "bad markers")
    if not isinstance(row["ban"], list) or not all(isinstance(c, str) for c in row["ban"]):
        raise RowError(f"ban is {row['ban']!r}, not a list of categories", "bad ban")
    return row


def _messages(row: dict) -> list[dict]:
    if row.get("prompt") is not None:
        raise RowError(
            "the row has messages and a prompt; leave one of the two out", "messages and a prompt"
        )
    try:
        return check_messages(row["messages"], asked=True)
    except ChatError as error:
        raise RowError(str(error), error.kind) from None
