"""The cache: token spans in ArrayRecord shards, a length index and a manifest.

    folder/manifest.json            written last: a folder without it is no cache
    folder/index.npz                lengths and id hashes of every row
    folder/spans-00000.array_record ...

Neither TensorFlow nor JAX is needed to write or to read one.
"""

import contextlib
import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from marker_lm.data.spans import Index, IndexBuilder, Spans, decode_record, encode_record

VERSION = 1
_WRITE = "group_size:1,zstd:3"  # one record a group: a plan reads rows in random order
_READ = "readahead_buffer_size:0,max_parallelism:0"


class CacheError(ValueError):
    """A cache that is missing, incomplete, damaged or of another version. One sentence."""


def is_cache(folder: epath.PathLike) -> bool:
    """Whether a complete cache lies there."""
    return (epath.Path(folder) / "manifest.json").exists()


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    """The manifest alone; raises CacheError where there is none, or one of another version."""
    path = epath.Path(folder) / "manifest.json"
    if not path.exists():
        raise CacheError(
            f"{folder} holds no complete cache (manifest.json is missing); "
            "write it with `marker-lm prepare`"
        )
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise CacheError(f"{path} is damaged ({error}); prepare the cache again") from None
    if manifest.get("version") != VERSION:
        raise CacheError(
            f"the cache {folder} has version {manifest.get('version')}, this program reads "
            f"version {VERSION}; prepare the cache again"
        )
    return manifest


def write_cache(
    spans: Iterable[Spans],
    folder: epath.PathLike,
    manifest: Mapping[str, Any],
    *,
    finish: Callable[[], Mapping[str, Any]] | None = None,
    rows_per_shard: int = 65536,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a cache as a stream and returns its manifest.

    The folder appears under its name when everything is in it. On a remote file system, where
    folders cannot be renamed, manifest.json comes last instead.

    Args:
      manifest: what is to be known of the cache; `categories` is needed.
      finish: called after the last row, for entries that are known only then, such as rejects.
      rows_per_shard: rows in a shard file.
      overwrite: replaces a cache that is there; else that is a CacheError.
    """
    folder = epath.Path(folder)
    if folder.exists() and not overwrite and any(folder.iterdir()):
        raise CacheError(f"{folder} is there already; remove it or choose another folder")
    with _new_folder(folder) as work:
        builder = IndexBuilder(manifest["categories"])
        shards = _write_shards(spans, work, builder, rows_per_shard)
        index = builder.build()
        np.savez(work / "index.npz", **_index_arrays(index))
        complete = {
            **manifest,
            **(finish() if finish else {}),
            "version": VERSION,
            "categories": list(index.categories),
            "rows": len(index),
            "tokens": _token_counts(index),
            "shards": shards,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        (work / "manifest.json").write_text(json.dumps(complete, indent=1, ensure_ascii=False))
    return complete


@contextlib.contextmanager
def _new_folder(folder: epath.Path) -> Iterator[Path]:
    """A local folder to write to, which becomes `folder` when the block ends well."""
    if _is_remote(folder):
        with tempfile.TemporaryDirectory() as work:
            yield Path(work)
            (folder / "manifest.json").unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            names = sorted(os.listdir(work), key=lambda name: (name == "manifest.json", name))
            for name in names:
                epath.Path(os.path.join(work, name)).copy(folder / name, overwrite=True)
        return
    final = Path(os.fspath(folder))
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    work.chmod(0o755)
    try:
        yield work
        if final.exists():
            shutil.rmtree(final)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_remote(folder: epath.PathLike) -> bool:
    return "://" in str(folder)


def _write_shards(
    spans: Iterable[Spans], work: Path, builder: IndexBuilder, rows_per_shard: int
) -> list[dict[str, Any]]:
    column = {category: c for c, category in enumerate(builder.categories)}
    shards: list[dict[str, Any]] = []
    writer = None
    for one in spans:
        if writer is None or shards[-1]["rows"] == rows_per_shard:
            if writer is not None:
                writer.close()
            shards.append({"file": f"spans-{len(shards):05d}.array_record", "rows": 0})
            writer = ArrayRecordWriter(str(work / shards[-1]["file"]), _WRITE)
        builder.add(one)
        writer.write(encode_record(one, column))
        shards[-1]["rows"] += 1
    if writer is None:
        raise CacheError("there are no rows to write; see the rejects file")
    writer.close()
    for shard in shards:
        shard["bytes"] = (work / shard["file"]).stat().st_size
    return shards


def _index_arrays(index: Index) -> dict[str, np.ndarray]:
    names = ("example_hash_N", "prompt_len_N", "completion_len_N", "marker_len_NxC")
    return {name: getattr(index, name) for name in names}


def _token_counts(index: Index) -> dict[str, int]:
    return {
        "prompt": int(index.prompt_len_N.sum(dtype=np.int64)),
        "markers": int(index.marker_len_NxC.sum(dtype=np.int64)),
        "completion": int(index.completion_len_N.sum(dtype=np.int64)),
    }


class Cache:
    """A cache that is open for random reading; can be sent to other processes.

    manifest: dict of manifest.json; index: Index of all rows.
    A cache on a remote file system is copied to a temporary folder of this machine first.
    Raises CacheError when something is missing or does not have the size it was written with.
    """

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder)
        self.manifest = read_manifest(self.folder)
        self._copy = None
        local = Path(os.fspath(self.folder)) if not _is_remote(folder) else self._fetch()
        self._files = [local / shard["file"] for shard in self.manifest["shards"]]
        self._readers: dict[tuple[int, int], ArrayRecordReader] = {}
        for file, shard in zip(self._files, self.manifest["shards"], strict=True):
            self._check_shard(file, shard)
        self._ends = np.cumsum([shard["rows"] for shard in self.manifest["shards"]])
        self.index = self._load_index(local / "index.npz")

    def _fetch(self) -> Path:
        self._copy = tempfile.TemporaryDirectory()
        for name in ["index.npz", *(shard["file"] for shard in self.manifest["shards"])]:
            if (self.folder / name).exists():
                (self.folder / name).copy(os.path.join(self._copy.name, name))
        return Path(self._copy.name)

    def _check_shard(self, file: Path, shard: Mapping[str, Any]) -> None:
        mend = "copy the cache again or prepare it again"
        if not file.exists():
            raise CacheError(f"the shard {file} is missing; {mend}")
        if file.stat().st_size != shard["bytes"]:
            raise CacheError(
                f"the shard {file} has {file.stat().st_size} bytes instead of {shard['bytes']}; "
                f"{mend}"
            )
        try:
            reader = ArrayRecordReader(str(file), _READ)
            rows = reader.num_records()
            reader.close()
        except (ValueError, RuntimeError) as error:
            raise CacheError(f"the shard {file} cannot be read ({error}); {mend}") from None
        if rows != shard["rows"]:
            raise CacheError(f"the shard {file} has {rows} rows instead of {shard['rows']}; {mend}")

    def _load_index(self, file: Path) -> Index:
        try:
            with np.load(file) as arrays:
                index = Index(tuple(self.manifest["categories"]), **arrays)
        except Exception as error:  # NumPy, zipfile and the system each raise their own
            raise CacheError(
                f"the index {file} cannot be read ({error}); prepare the cache again"
            ) from None
        if len(index) != self.manifest["rows"] or len(index) != self._ends[-1]:
            raise CacheError(
                f"the index {file} has {len(index)} rows, the manifest {self.manifest['rows']} "
                f"and the shards {self._ends[-1]}; prepare the cache again"
            )
        return index

    def __len__(self) -> int:
        return self.manifest["rows"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_copy": None}

    def read(self, i: int) -> Spans:
        """The spans of row i, 0 <= i < len(self)."""
        return self.read_many([i])[0]

    def read_many(self, indices: Sequence[int] | np.ndarray) -> list[Spans]:
        """The spans of many rows, in the order given; a row may be asked for more than once."""
        wanted = np.asarray(indices, np.int64)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(
                f"row {wanted.min() if wanted.min() < 0 else wanted.max()} is outside the cache "
                f"{self.folder} with its {len(self)} rows"
            )
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        result: list[Spans] = [None] * wanted.size  # type: ignore[list-item]
        for shard in np.unique(shard_of):
            places = np.flatnonzero(shard_of == shard)
            first = self._ends[shard] - self.manifest["shards"][shard]["rows"]
            records = self._reader(int(shard)).read((wanted[places] - first).tolist())
            for place, record in zip(places, records, strict=True):
                result[place] = decode_record(record, self.index.categories)
        return result

    def _reader(self, shard: int) -> ArrayRecordReader:
        """Opened on first use and per process: an open reader does not survive a fork."""
        key = (os.getpid(), shard)
        if key not in self._readers:
            self._readers[key] = ArrayRecordReader(str(self._files[shard]), _READ)
        return self._readers[key]
