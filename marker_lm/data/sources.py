"""Finds data files and reads their rows; what cannot be used is rejected with its reason."""

import difflib
import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from marker_lm.data.blocks import Block, SourceError, block_rows, read_blocks
from marker_lm.data.chat import Chat
from marker_lm.data.example import Example, RowError, RowFormat, parse_row
from marker_lm.data.rejects import EXCERPT, Rejects, RejectShareError
from marker_lm.data.seen import SeenIds
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy

__all__ = [
    "Rejects",
    "RejectShareError",
    "SourceError",
    "excerpt",
    "find_files",
    "parse_block",
    "read_examples",
    "read_rows",
    "repeated_id",
]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def find_files(paths: epath.PathLike | Iterable[epath.PathLike]) -> dict[str, epath.Path]:
    """Files named by paths, globs and folders: short name -> path, in a stable order.

    A folder stands for its .jsonl, .jsonl.gz and .parquet files. The short name is the path below
    the folder that all files share, so that it does not depend on where the data lies.
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
            raise SourceError(
                f"the folder {path} holds no {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file"
            )
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


def read_rows(
    paths: epath.PathLike | Iterable[epath.PathLike], max_line_bytes: int = 1_000_000
) -> Iterator[tuple[str, int, Any]]:
    """(short name of the file, line or row number from 1, the row as it stands or a RowError).

    Rows of JSONL (plain or gzip) and Parquet files, in the order of the files and rows; a row need
    not be an object. Nothing is checked but that it can be read.
    Raises SourceError for a missing, empty or damaged file.
    """
    for name, path in find_files(paths).items():
        for block in read_blocks(name, path, max_line_bytes):
            for number, row in block_rows(block, max_line_bytes):
                yield name, number, row


def parse_block(
    block: Block,
    taxonomy: Taxonomy,
    row_format: RowFormat,
    max_line_bytes: int = 1_000_000,
    left_out: Counter[str] | None = None,
    untrusted: Counter[str] | None = None,
    chat: Chat | None = None,
) -> list[tuple[int, Any, Example | RowError]]:
    """(number, row, its Example or the RowError that says why there is none) of each row."""
    parsed = []
    for number, row in block_rows(block, max_line_bytes):
        try:
            if isinstance(row, RowError):
                raise row
            name = f"{block.name}:{number}"
            example = parse_row(row, taxonomy, row_format, name, left_out, untrusted, chat)
            parsed.append((number, row, example))
        except RowError as error:
            error.excerpt = error.excerpt or excerpt(row)
            parsed.append((number, row, error))
    return parsed


def excerpt(row: Any) -> str:
    """The beginning of a row, for people."""
    if isinstance(row, RowError):
        return row.excerpt
    try:
        return json.dumps(row, ensure_ascii=False, default=str)[:EXCERPT]
    except (TypeError, ValueError, RecursionError):  # keys that are no texts
        return repr(row)[:EXCERPT]


def read_examples(
    paths: epath.PathLike | Iterable[epath.PathLike],
    taxonomy: Taxonomy,
    fields: RowFormat | Mapping[str, Any] | None = None,
    rejects: Rejects | None = None,
    max_line_bytes: int = 1_000_000,
    chat: Chat | None = None,
) -> Iterator[Example]:
    """Examples of JSONL (plain or gzip) and Parquet files, in the order of the files and rows.

    Blank lines are skipped. A row that is wrong in itself, too long, not UTF-8, not JSON, or whose
    id came before, goes to `rejects`, and reading goes on. Memory hardly grows
    with the rows (see SeenIds).
    Raises SourceError (missing, empty or damaged file), RejectShareError (by `rejects`),
    and RowError at the first bad row where `rejects` is None.
    """
    row_format = fields if isinstance(fields, RowFormat) else RowFormat.from_config(fields or {})
    row_format.check(taxonomy)
    seen = SeenIds()
    left_out = None if rejects is None else rejects.left_out
    untrusted = None if rejects is None else rejects.untrusted
    for name, path in find_files(paths).items():
        for block in read_blocks(name, path, max_line_bytes):
            counters = left_out, untrusted
            parsed = parse_block(block, taxonomy, row_format, max_line_bytes, *counters, chat)
            good = [example.id for _, _, example in parsed if isinstance(example, Example)]
            is_first = iter(seen.add(hash_ids(good)))
            for number, row, example in parsed:
                error = example if isinstance(example, RowError) else None
                if error is None and not next(is_first):
                    error = repeated_id(example.id, row)
                if error is None:
                    if rejects is not None:
                        rejects.accept()
                    yield example
                elif rejects is None:
                    raise RowError(f"{path}:{number}: {error}", error.kind)
                else:
                    file = os.fspath(path)
                    rejects.reject(file, number, str(error), error.kind, error.excerpt)


def repeated_id(name: str, row: Any) -> RowError:
    """What is said of a row whose id, `name`, a row before has."""
    reason = f"the id '{name}' was used by a row before"
    return RowError(reason, "repeated id", excerpt(row))
