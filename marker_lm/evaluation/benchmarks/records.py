"""Rows of the files that benchmarks are published as: JSONL, a JSON list, CSV, Parquet."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from marker_lm.data.blocks import SourceError, block_rows, read_blocks
from marker_lm.data.example import RowError
from marker_lm.data.sources import find_files

# Where it stands, and the row or the reason why it is none.
Record = tuple[str, Mapping[str, Any] | RowError]


def read_records(path: epath.PathLike) -> Iterator[Record]:
    """The rows of a file, glob or folder; a `.json` file is a list of rows, a `.csv` file has a
    header, all else is as in `marker-lm prepare`.

    Raises SourceError for a file that is missing, empty or damaged as a whole.
    """
    for name, file in find_files(path).items():
        if file.suffix == ".json":
            yield from _from_list(file)
        elif file.suffix == ".csv":
            yield from _from_csv(file)
        else:
            for block in read_blocks(name, file):
                for number, row in block_rows(block):
                    yield _record(f"{file}:{number}", row)


def _record(place: str, row: Any) -> Record:
    if isinstance(row, Mapping | RowError):
        return place, row
    return place, RowError(f"the row is a {type(row).__name__}, not an object", "not an object")


def _from_list(file: epath.Path) -> Iterator[Record]:
    try:
        rows = json.loads(file.read_text())
    except ValueError as error:
        raise SourceError(f"{file} is not JSON ({error}); a .json file is a list of rows") from None
    if not isinstance(rows, list) or not rows:
        raise SourceError(f"{file} holds no list of rows; give one, or JSONL as .jsonl")
    for number, row in enumerate(rows, 1):
        yield _record(f"{file}:{number}", row)


def _from_csv(file: epath.Path) -> Iterator[Record]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # answers may be long
    number = 0
    reader = csv.DictReader(io.StringIO(file.read_text(), newline=""))
    for number, row in enumerate(reader, 1):
        if None in row or None in row.values():
            reason = f"the row has not the {len(reader.fieldnames)} fields of the header"
            yield f"{file}:{number}", RowError(reason, "bad CSV")
        else:
            yield f"{file}:{number}", row
    if not number:
        raise SourceError(f"the file {file} is empty; give a CSV file with a header and rows")
