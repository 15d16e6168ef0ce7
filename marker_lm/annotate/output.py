"""The folder that annotation writes: shards of rows, each whole under its name, and a manifest.

rows/00000-00000.jsonl   shard by shard: number of the input file, part of it
rejects.jsonl            rows that could not be used, with file, line and reason
manifest.json            written last: counts, and what the rows were made with
work                     folder of what an unfinished run knows; gone when it is finished
"""

import base64
import contextlib
import dataclasses
import datetime
import gzip
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from marker_lm.annotate.origin_counts import OriginCounts
from marker_lm.annotate.registry import AnnotateError
from marker_lm.annotate.work import Annotated, Job, Reject
from marker_lm.data.blocks import Block
from marker_lm.data.example import INFO_FIELD, MarkerInfo, lookup
from marker_lm.data.sources import repeated_id
from marker_lm.data.whole_files import write_whole
from marker_lm.progress import Progress

FORMATS = ("jsonl", "jsonl.gz", "parquet")
VERSION = 1


def shard_name(file: int, part: int) -> str:
    """Name of a shard, without its suffix: shards in the order of their names are in input order.

    file: number of the input file; part: number of the shard within it.
    """
    return f"{file:05d}-{part:05d}"


@dataclasses.dataclass
class ShardState:
    """What is known of a finished shard.

    file: number of the input file
    rows: input rows, the rejected ones too
    bytes: size of the shard's file; 0 where all rows were rejected, then there is no file
    ids: base64 of the little-endian 64-bit hashes of the ids written
    rejects: in the order of the input
    """

    file: int
    rows: int = 0
    bytes: int = 0
    ids: str = ""
    tally: OriginCounts = dataclasses.field(default_factory=OriginCounts)
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    untrusted: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def id_hash_N(self) -> np.ndarray:
        """uint64_N: hashes of the ids written."""
        return np.frombuffer(base64.b64decode(self.ids), "<u8")

    def to_json(self) -> str:
        """The state as text, for `from_dict` of its JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["tally"] = self.tally.to_dict()
        fields["rejects"] = [dataclasses.astuple(reject) for reject in self.rejects]
        return json.dumps(fields)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ShardState":
        """What `to_json` wrote."""
        fields = {**data, "tally": OriginCounts.from_dict(data["tally"])}
        fields["rejects"] = [Reject(*reject) for reject in fields["rejects"]]
        for name in ("left_out", "untrusted"):
            fields[name] = Counter(fields[name])
        return cls(**fields)


class OutputFolder:
    """The folder of one run. Raises AnnotateError for one that holds another run's files."""

    def __init__(self, folder: epath.PathLike, key: str):
        self.path = epath.Path(folder)
        self.key = key
        self.rows, self.work = self.path / "rows", self.path / "work"
        for path, what in ((self.path / "manifest.json", "rows"), (self._key, "unfinished run")):
            if path.exists() and (found := _read_json(path)["key"]) != key:
                raise AnnotateError(
                    f"{self.path} holds the {what} of another config, taxonomy or input ({found}, "
                    f"this is {key}); remove it or choose another folder"
                )

    @property
    def _key(self) -> epath.Path:
        return self.work / "key.json"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished run, None while there is none."""
        path = self.path / "manifest.json"
        return _read_json(path) if path.exists() else None

    def begin(self) -> None:
        """Makes the folders; raises AnnotateError where rows of unknown making lie."""
        if not self._key.exists() and self.rows.exists() and any(self.rows.iterdir()):
            raise AnnotateError(
                f"{self.rows} holds files and nothing says what they were made from; remove them "
                "or choose another folder"
            )
        self.rows.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        write_whole(self._key, json.dumps({"key": self.key}).encode())

    def finished(self, suffix: str) -> list[str]:
        """Names of the shards that are whole, in order."""
        names = []
        for name in sorted(path.stem for path in self.work.glob("[0-9]*.json")):
            path = self.rows / f"{name}.{suffix}"
            if (path.stat().length if path.exists() else 0) == self.state(name).bytes:
                names.append(name)
        return names

    def state(self, name: str) -> ShardState:
        """What is known of a finished shard."""
        return ShardState.from_dict(_read_json(self.work / f"{name}.json"))

    def finish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the manifest and clears the working folder."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        manifest = {"version": VERSION, "key": self.key, **manifest, "created": now}
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        write_whole(self.path / "manifest.json", text.encode("utf-8", "backslashreplace"))
        self.work.rmtree()
        return manifest


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise AnnotateError(
            f"{path} is damaged ({error}); remove the folder {path.parent} and annotate again"
        ) from None


class ShardWriter:
    """Writes one shard block by block. Use as a context manager; an error leaves no shard."""

    def __init__(self, folder: OutputFolder, name: str, job: Job):
        self.folder, self.name, self.job = folder, name, job
        self.state = ShardState(int(name.split("-")[0]))
        self._hashes: list[np.ndarray] = []
        self._path = folder.rows / f"{name}.{job.output}"
        self._partial = folder.work / f"{name}.{job.output}.partial"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "ShardWriter":
        raw = self._stack.enter_context(self._partial.open("wb"))
        if self.job.output == "parquet":
            from pyarrow import parquet

            from marker_lm.annotate.columns import read_schema

            writer = parquet.ParquetWriter(raw, read_schema(self.job.schema), compression="zstd")
            self._file = self._stack.enter_context(writer)
        elif self.job.output == "jsonl.gz":  # no time and no name inside: equal rows, equal bytes
            gz = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            self._file = self._stack.enter_context(gz)
        else:
            self._file = raw
        return self

    def add(self, rows: int, done: Annotated, is_first_N: np.ndarray) -> None:
        """Adds a block of `rows` input rows.

        is_first_N: bool, for each hash of `done` whether no row before has the same id; the others
          are rejected.
        """
        keep = is_first_N[done.is_written_N]
        rejects = [*done.rejects, *self._take_back(done, keep)]
        if self.job.output == "parquet":
            self._write_table(done.rows[0], keep)
        else:
            self._file.write(b"".join(itertools.compress(done.rows, keep)))
        self._hashes.append(done.id_hash_N[is_first_N])
        self.state.rows += rows
        self.state.tally.merge(done.tally)
        self.state.rejects += sorted(rejects, key=lambda reject: reject.number)
        self.state.left_out.update(done.left_out)
        self.state.untrusted.update(done.untrusted)

    def _write_table(self, table: bytes, keep: np.ndarray) -> None:
        import pyarrow as pa

        from marker_lm.annotate.columns import read_table

        self._file.write_batch(read_table(table).filter(pa.array(keep)))

    def _take_back(self, done: Annotated, keep: np.ndarray) -> Iterator[Reject]:
        numbers = list(itertools.compress(done.numbers, done.is_written_N))
        for i in np.flatnonzero(~keep):
            row = self._row(done, int(i))
            info = {c: MarkerInfo(**one) for c, one in row[INFO_FIELD].items() if one}
            done.tally.add(info, times=-1)
            error = repeated_id(lookup(row, self.job.row_format.id), row)
            yield Reject(numbers[i], str(error), error.kind, error.excerpt)

    def _row(self, done: Annotated, i: int) -> dict[str, Any]:
        if self.job.output != "parquet":
            return json.loads(done.rows[i])
        from marker_lm.annotate.columns import read_table

        return read_table(done.rows[0]).slice(i, 1).to_pylist()[0]

    def __exit__(self, kind, error, trace) -> None:
        self._stack.close()
        if kind is not None:
            self._partial.unlink(missing_ok=True)
            return
        hashes = np.concatenate(self._hashes) if self._hashes else np.zeros(0, np.uint64)
        self.state.ids = base64.b64encode(hashes.astype("<u8").tobytes()).decode()
        if self.state.tally.rows:
            self.state.bytes = self._partial.stat().length
            # The rows first: a state without its rows is not taken for a finished shard.
            self._partial.replace(self._path)
        else:  # a file without a row would be refused where the rows are read
            self._partial.unlink()
            self._path.unlink(missing_ok=True)
        state = self.folder.work / f"{self.name}.json"
        write_whole(state, self.state.to_json().encode())


def sizes(paths: Iterable[epath.PathLike]) -> dict[str, int]:
    """Bytes of each file."""
    return {os.fspath(path): epath.Path(path).stat().length for path in paths}


class FileProgress:
    """Progress in bytes of the input, with a count of rows. Use as a context manager."""

    def __init__(self, title: str, paths: Iterable[epath.PathLike]):
        of_file = sizes(paths)
        self._before = dict(
            zip(of_file, itertools.accumulate(of_file.values(), initial=0), strict=False)
        )
        self._progress = Progress(title, sum(of_file.values()))

    def __enter__(self) -> "FileProgress":
        self._progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._progress.__exit__(*error)

    def update(self, block: Block, rows: int) -> None:
        """Says that the input is done up to the end of this block."""
        self._progress.update(self._before[block.path] + block.done, f"{rows} rows")
