"""Rows of a JSONL file as prompts with controls."""

import json
from collections.abc import Iterator

from etils import epath

from marker_lm.data.example import RowError
from marker_lm.data.sources import read_lines
from marker_lm.decoding.controls import Controls


def read_rows(path: epath.PathLike, needed: tuple[str, ...]) -> Iterator[dict]:
    """JSON objects of a file, each with the text fields in `needed`. Raises RowError with file:line."""
    for number, line, size in read_lines(path):
        if line is not None and not line.strip():
            continue
        try:
            row = json.loads(line) if line is not None else None
        except ValueError as error:
            raise RowError(
                f"{path}:{number}: the line is not JSON: {error}", "invalid JSON"
            ) from None
        if not isinstance(row, dict):
            raise RowError(
                f"{path}:{number}: {size} bytes that are no JSON object.", "not an object"
            )
        for field in needed:
            if not isinstance(row.get(field), str):
                raise RowError(f"{path}:{number}: the row has no text '{field}'.", "missing field")
        yield row


def read_prompts(path: epath.PathLike, everywhere: Controls) -> list[tuple[str, Controls]]:
    """Prompts of a file with their controls.

    Args:
      path: JSONL of {"prompt", and optionally "markers": {category: value} to pin, "ban": [category]}.
      everywhere: holds for all rows; a row's own markers go first.
    """
    return [
        (
            row["prompt"],
            Controls(
                pinned={**everywhere.pinned, **row.get("markers", {})},
                banned=everywhere.banned | set(row.get("ban", ())),
            ),
        )
        for row in read_rows(path, ("prompt",))
    ]
