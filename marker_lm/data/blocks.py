"""Rows as they stand in a file, in blocks: cheap to read, to send to a process, to parse there.

JSONL (plain or gzip) is read line by line, Parquet by record batches; either from any path that
etils.epath knows.
"""

import dataclasses
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from etils import epath

from marker_lm.data.example import RowError

_GZIP_MAGIC = b"\x1f\x8b"
_EXCERPT_BYTES = 800  # of at most 200 characters


class SourceError(ValueError):
    """A file that cannot be read as a whole: missing, empty or damaged. One sentence."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of one file, not parsed yet.

    name, path: the file's short name, and where it lies
    first: count of the file's rows before this block
    numbers: line of each row in a JSONL file, place of each in a Parquet file, both from 1
    lines: of JSONL, (line without its end, or None when it is too long; its bytes)
    table: of Parquet, the rows as an Arrow IPC stream
    done: bytes of the file that were read up to here
    """

    name: str
    path: str
    first: int
    numbers: tuple[int, ...]
    lines: tuple[tuple[bytes | None, int], ...] = ()
    table: bytes = b""
    done: int = 0

    def __len__(self) -> int:
        return len(self.numbers)


def is_parquet(path: epath.PathLike) -> bool:
    """Whether a file is read as Parquet: by its name."""
    return os.fspath(path).endswith(".parquet")


def read_blocks(
    name: str,
    path: epath.PathLike,
    max_line_bytes: int = 1_000_000,
    rows: int = 512,
    shard_rows: int = 0,
    block_bytes: int = 4_000_000,
) -> Iterator[Block]:
    """The rows of a file in blocks of at most `rows` rows.

    Blank lines are no rows. A block ends early when it holds `block_bytes`, and never reaches over
    a multiple of `shard_rows`. Raises SourceError for a file that is empty or damaged.
    """
    make = _parquet_blocks if is_parquet(path) else _line_blocks
    empty = True
    for block in make(name, epath.Path(path), max_line_bytes, rows, shard_rows, block_bytes):
        empty = False
        yield block
    if empty:
        kind = "a row" if is_parquet(path) else "one JSON row a line"
        raise SourceError(f"the file {path} is empty; give a file with {kind}")


def block_rows(block: Block, max_line_bytes: int = 1_000_000) -> Iterator[tuple[int, Any]]:
    """(number, the row or the RowError that says why there is none) of each row of a block."""
    if block.table:
        yield from _parquet_rows(block, max_line_bytes)
        return
    for number, (line, size) in zip(block.numbers, block.lines, strict=True):
        try:
            yield number, _decode(line, size, number, max_line_bytes)
        except RowError as error:
            error.excerpt = (line or b"")[:_EXCERPT_BYTES].decode("utf-8", errors="replace")
            yield number, error


def read_lines(
    raw: Any, path: epath.PathLike, max_line_bytes: int
) -> Iterator[tuple[int, bytes | None, int]]:
    """Yields (line number from 1, line without its end, its bytes) of a plain or gzip file.

    A line over `max_line_bytes` comes as None and is never held in memory as a whole.
    Raises SourceError for a damaged gzip file.

    Args:
      raw: the file, open for reading bytes; path: for messages.
    """
    number = 0
    file = io.BufferedReader(raw) if not hasattr(raw, "peek") else raw
    is_gzip = file.peek(2)[:2] == _GZIP_MAGIC
    file = gzip.GzipFile(fileobj=file) if is_gzip else file
    try:
        while line := file.readline(max_line_bytes + 1):
            number += 1
            size, tail = len(line), line
            while not tail.endswith(b"\n") and (tail := file.readline(1 << 16)):
                size += len(tail)
            size -= tail.endswith(b"\n")
            yield number, (line[:size] if size <= max_line_bytes else None), size
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(
            f"the gzip file {path} is damaged after {number} whole lines ({error}); "
            "copy or download it again"
        ) from None


def _line_blocks(name, path, max_line_bytes, rows, shard_rows, block_bytes) -> Iterator[Block]:
    first, held, numbers, lines = 0, 0, [], []
    with path.open("rb") as raw:
        for number, line, size in read_lines(raw, path, max_line_bytes):
            if line is not None and not line.strip():
                continue
            numbers.append(number)
            lines.append((line, size))
            held += len(line or b"")
            at_shard = shard_rows and (first + len(lines)) % shard_rows == 0
            if len(lines) == rows or held >= block_bytes or at_shard:
                file = os.fspath(path)
                yield Block(name, file, first, tuple(numbers), tuple(lines), done=raw.tell())
                first, held, numbers, lines = first + len(lines), 0, [], []
    if lines:
        size = path.stat().length
        yield Block(name, os.fspath(path), first, tuple(numbers), tuple(lines), done=size)


def _decode(line: bytes | None, size: int, number: int, max_line_bytes: int) -> Any:
    if line is None:
        raise RowError(
            f"the line has {size} bytes, more than max_line_bytes={max_line_bytes}", "line too long"
        )
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            f"the line is not UTF-8: byte 0x{line[error.start]:02X} at position {error.start}",
            "invalid UTF-8",
        ) from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RowError(
            f"the line is not JSON: {error.msg} at character {error.pos + 1}", "invalid JSON"
        ) from None
    except (RecursionError, ValueError) as error:
        raise RowError(f"the line is not JSON that can be read: {error}", "invalid JSON") from None


def _parquet_blocks(name, path, max_line_bytes, rows, shard_rows, block_bytes) -> Iterator[Block]:
    import pyarrow as pa  # a third of a second, and half of all runs have no Parquet
    from pyarrow import parquet

    first, size = 0, path.stat().length
    with path.open("rb") as raw:
        try:
            file = parquet.ParquetFile(raw)
            _check_columns(file.schema_arrow, path)
            total = file.metadata.num_rows
            groups = range(file.metadata.num_row_groups)
            held = sum(file.metadata.row_group(g).total_byte_size for g in groups)
            rows = max(1, min(rows, block_bytes * total // max(held, 1)))
            for batch in file.iter_batches(batch_size=rows):
                while len(batch):
                    room = shard_rows - first % shard_rows if shard_rows else len(batch)
                    part, batch = batch.slice(0, room), batch.slice(room)
                    numbers = tuple(range(first + 1, first + 1 + len(part)))
                    done = size * numbers[-1] // total
                    # IPC writes the rows of a slice alone; pickling one sends all it is cut from.
                    table = _to_ipc(part)
                    yield Block(name, os.fspath(path), first, numbers, table=table, done=done)
                    first += len(part)
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            raise SourceError(
                f"the Parquet file {path} is damaged after {first} rows ({said}); "
                "copy or download it again"
            ) from None


def _check_columns(schema: Any, path: epath.PathLike) -> None:
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise SourceError(
            f"the Parquet file {path} has two columns named '{twice[0]}'; rename one of them"
        )


def _to_ipc(batch: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _parquet_rows(block: Block, max_row_bytes: int) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa

    batch = pa.ipc.open_stream(block.table).read_next_batch()
    small = batch.nbytes <= max_row_bytes  # then each of its rows is
    for i, number in enumerate(block.numbers):
        one = batch.slice(i, 1)
        try:
            if not small and one.nbytes > max_row_bytes:
                raise RowError(
                    f"the row has {one.nbytes} bytes, more than max_line_bytes={max_row_bytes}",
                    "line too long",
                )
            yield number, _to_row(one)
        except RowError as error:
            yield number, error


def _to_row(one: Any) -> dict[str, Any]:
    """The only row of a record batch as plain Python."""
    row = {}
    for name, column in zip(one.schema.names, one.columns, strict=True):
        try:
            row[name] = column[0].as_py(maps_as_pydicts="strict")
        except UnicodeDecodeError as error:
            raise RowError(
                f"the field '{name}' is not UTF-8: byte 0x{error.object[error.start]:02X} at "
                f"position {error.start}",
                "invalid UTF-8",
            ) from None
        except (KeyError, ValueError) as error:
            raise RowError(f"the field '{name}' cannot be read: {error}", "not readable") from None
    return row
