"""Reads JSONL files row by row; what cannot be used goes to a rejects file with its reason."""

import difflib
import glob
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from marker_lm.data.example import Example, RowError, RowFormat, parse_row
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy

_SUFFIXES = (".jsonl", ".jsonl.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_EXCERPT = 200


class SourceError(ValueError):
    """A file that cannot be read as a whole: missing, empty or damaged. One sentence."""


class RejectShareError(ValueError):
    """Too large a share of the rows was rejected."""


class Rejects:
    """Collects rejected rows; a context manager.

    path: where rejects.jsonl goes ({file, line, reason, excerpt} a line), or None for no file.
      It appears under this name when the block ends, also when it ends by an error.
    max_share: RejectShareError when more than this share of all rows was rejected, at the end,
      or as soon as `min_rows` rows were seen.
    After the block (and during it): rows (seen), rejected, kinds (Counter of reasons' kinds),
    left_out (Counter of the "category='value'" of markers that were left out).
    """

    def __init__(
        self, path: epath.PathLike | None = None, max_share: float = 0.01, min_rows: int = 1000
    ):
        self.path = None if path is None else epath.Path(path)
        self.max_share = max_share
        self.min_rows = min_rows
        self.rows = 0
        self.rejected = 0
        self.kinds: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self._first = ""
        self._file: Any = None

    def __enter__(self) -> "Rejects":
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = self.path.parent / (self.path.name + ".partial")
            self._file = self._partial.open("w")
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._file is not None:
            self._file.close()
            self._partial.replace(self.path)
        if kind is None:
            self._check_share()

    def accept(self) -> None:
        """Counts one good row."""
        self.rows += 1

    def reject(self, file: str, line: int, reason: str, kind: str, excerpt: str) -> None:
        """Records one bad row; may raise RejectShareError."""
        self.rows += 1
        self.rejected += 1
        self.kinds[kind] += 1
        self._first = self._first or f"{file}:{line}: {reason}"
        if self._file is not None:
            row = {"file": file, "line": line, "reason": reason, "excerpt": excerpt[:_EXCERPT]}
            self._file.write(json.dumps(row) + "\n")
        if self.rows >= self.min_rows:
            self._check_share()

    def summary(self) -> dict[str, Any]:
        """Counts for a manifest; of the values left out, by category and the commonest hundred."""
        left_out: Counter[str] = Counter()
        for value, count in self.left_out.items():
            left_out[value.partition("=")[0]] += count
        return {
            "rows": self.rows,
            "rejected": self.rejected,
            "kinds": dict(self.kinds.most_common()),
            "left_out": dict(left_out.most_common()),
            "left_out_values": dict(self.left_out.most_common(100)),
        }

    def _check_share(self) -> None:
        if self.rejected <= self.max_share * self.rows:
            return
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.kinds.most_common(5))
        where = f"all of them are in {self.path}" if self.path else "no rejects file was asked for"
        raise RejectShareError(
            f"{self.rejected} of {self.rows} rows were rejected, more than the share allowed "
            f"({self.max_share:g}) [{kinds}]; the first: {self._first}; {where}"
        )


def find_files(paths: epath.PathLike | Iterable[epath.PathLike]) -> dict[str, epath.Path]:
    """Files named by paths, globs and folders: short name -> path, in a stable order.

    A folder stands for its .jsonl and .jsonl.gz files. The short name is the path below the
    folder that all files share, so that it does not depend on where the data lies.
    Raises SourceError for what is not there, with the nearest name that is.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files: dict[str, epath.Path] = {}
    for path in paths:
        for file in _expand(epath.Path(path)):
            files[os.fspath(file)] = file
    if not files:
        raise SourceError("no data files were given; name a file, a folder or a glob")
    root = os.path.commonpath([os.path.dirname(name) for name in files])
    return {os.path.relpath(name, root): file for name, file in files.items()}


def _expand(path: epath.Path) -> list[epath.Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.name.endswith(_SUFFIXES) and p.is_file())
        if not found:
            raise SourceError(f"the folder {path} holds no {' or '.join(_SUFFIXES)} file")
        return found
    if path.exists():
        return [path]
    parts = path.parts
    wild = next((i for i, part in enumerate(parts) if glob.has_magic(part)), None)
    if wild is not None:
        if "://" in str(path):
            matches = epath.Path(*parts[:wild]).glob("/".join(parts[wild:]))
        else:  # epath knows no `**`
            matches = map(epath.Path, glob.glob(str(path), recursive=True))
        found = sorted(p for p in matches if p.is_file())
        if not found:
            raise SourceError(f"no file matches {path}")
        return found
    raise SourceError(f"there is no {path}; {_nearest(path)}")


def _nearest(path: epath.Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either" if parent != path else "check the path"
    names = sorted(p.name for p in parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    if near:
        return f"the nearest name in that folder is '{near[0]}'"
    return f"the folder {parent} holds {', '.join(names[:8]) or 'nothing'}"


def read_lines(
    path: epath.PathLike, max_line_bytes: int = 1_000_000
) -> Iterator[tuple[int, bytes | None, int]]:
    """Yields (line number from 1, line without its end, its bytes) of a plain or gzip file.

    A line over `max_line_bytes` comes as None and is never held in memory as a whole.
    Raises SourceError for a damaged gzip file.
    """
    number = 0
    with epath.Path(path).open("rb") as raw:
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


def read_examples(
    paths: epath.PathLike | Iterable[epath.PathLike],
    taxonomy: Taxonomy,
    fields: RowFormat | Mapping[str, Any] | None = None,
    rejects: Rejects | None = None,
    max_line_bytes: int = 1_000_000,
) -> Iterator[Example]:
    """Examples of JSONL files (plain or gzip), in the order of the files and lines.

    Blank lines are skipped. A row that is wrong in itself, too long, not UTF-8, not JSON, or whose
    id came before, goes to `rejects`, and reading goes on.
    Raises SourceError (missing, empty or damaged file), RejectShareError (by `rejects`),
    and RowError at the first bad row where `rejects` is None.
    """
    row_format = fields if isinstance(fields, RowFormat) else RowFormat.from_config(fields or {})
    row_format.check(taxonomy)
    seen: set[int] = set()
    left_out = None if rejects is None else rejects.left_out
    for name, path in find_files(paths).items():
        rows = 0
        for number, line, size in read_lines(path, max_line_bytes):
            if line is not None and not line.strip():
                continue
            rows += 1
            try:
                row = _decode(line, size, number, max_line_bytes)
                example = parse_row(row, taxonomy, row_format, f"{name}:{number}", left_out)
                key = int(hash_ids([example.id])[0])
                if key in seen:
                    raise RowError(f"the id '{example.id}' was used by a row before", "repeated id")
            except RowError as error:
                if rejects is None:
                    raise RowError(f"{path}:{number}: {error}", error.kind) from None
                excerpt = (line or b"")[: 4 * _EXCERPT].decode("utf-8", errors="replace")
                rejects.reject(os.fspath(path), number, str(error), error.kind, excerpt)
                continue
            seen.add(key)
            if rejects is not None:
                rejects.accept()
            yield example
        if rows == 0:
            raise SourceError(f"the file {path} is empty; give a file with one JSON row a line")
