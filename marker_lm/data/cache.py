"""The cache: token spans in ArrayRecord shards, a length index and a manifest.

    folder/manifest.json            written last: a folder without it is no cache
    folder/index.npz                lengths, id hashes and closed values of every row
    folder/spans-00000.array_record ...

Neither TensorFlow nor JAX is needed to write or to read one. cache_writer.py writes it.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from marker_lm.data.spans import FlatSpans, Index, Spans, decode_record, flatten_records

VERSION = 2
READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_MEND = "copy the cache again or prepare it again"
_NEEDED = {"rows": int, "categories": list, "shards": list, "tokens": dict}


class CacheError(ValueError):
    """A cache that is missing, incomplete, damaged or of another version. One sentence."""


def is_cache(folder: epath.PathLike) -> bool:
    """Whether a complete cache lies there."""
    return (epath.Path(folder) / "manifest.json").exists()


def is_remote(folder: epath.PathLike) -> bool:
    """Whether the folder is on a file system that this machine reaches by URL only."""
    return "://" in str(folder)


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    """The manifest alone; raises CacheError where there is none, or one of another version."""
    path = epath.Path(folder) / "manifest.json"
    if not path.exists():
        raise CacheError(
            f"{folder} holds no complete cache (manifest.json is missing); "
            "write it with `marker-lm prepare`"
        )
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise CacheError(f"{path} is damaged ({error}); prepare the cache again") from None
    if not isinstance(manifest, dict):
        raise CacheError(f"{path} is damaged (it holds no object); prepare the cache again")
    if manifest.get("version") != VERSION:
        raise CacheError(
            f"the cache {folder} has version {manifest.get('version')}, this program reads "
            f"version {VERSION}; prepare the cache again"
        )
    for key, kind in _NEEDED.items():
        if not isinstance(manifest.get(key), kind) or not manifest[key]:
            raise CacheError(f"{path} is damaged (it has no {key}); prepare the cache again")
    if not all(
        isinstance(s, dict) and {"file", "rows", "bytes"} <= set(s) for s in manifest["shards"]
    ):
        raise CacheError(
            f"{path} is damaged (it has no whole list of shards); prepare the cache again"
        )
    return manifest


def _check_shard(file: Path, shard: Mapping[str, Any]) -> None:
    if not file.exists():
        raise CacheError(f"the shard {file} is missing; {_MEND}")
    if file.stat().st_size != shard["bytes"]:
        raise CacheError(
            f"the shard {file} has {file.stat().st_size} bytes instead of {shard['bytes']}; {_MEND}"
        )
    try:
        reader = ArrayRecordReader(str(file), READ_OPTIONS)
        rows = reader.num_records()
        reader.close()
    except (ValueError, RuntimeError) as error:
        raise CacheError(f"the shard {file} cannot be read ({_one_line(error)}); {_MEND}") from None
    if rows != shard["rows"]:
        raise CacheError(f"the shard {file} has {rows} rows instead of {shard['rows']}; {_MEND}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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
        local = Path(os.fspath(self.folder)) if not is_remote(folder) else self._fetch()
        self._files = [local / shard["file"] for shard in self.manifest["shards"]]
        self._readers: dict[tuple[int, int], ArrayRecordReader] = {}
        for file, shard in zip(self._files, self.manifest["shards"], strict=True):
            _check_shard(file, shard)
        self._ends = np.cumsum([shard["rows"] for shard in self.manifest["shards"]])
        self.index = self._load_index(local / "index.npz")

    def _fetch(self) -> Path:
        self._copy = tempfile.TemporaryDirectory()
        for name in ["index.npz", *(shard["file"] for shard in self.manifest["shards"])]:
            if (self.folder / name).exists():
                (self.folder / name).copy(os.path.join(self._copy.name, name))
        return Path(self._copy.name)

    def _load_index(self, file: Path) -> Index:
        try:
            with np.load(file) as arrays:
                index = Index(tuple(self.manifest["categories"]), **arrays)
        except Exception as error:  # NumPy, zipfile and the system each raise their own
            raise CacheError(
                f"the index {file} cannot be read ({error}); prepare the cache again"
            ) from None
        if len({len(column) for column in index.columns().values()}) > 1:
            raise CacheError(
                f"the columns of the index {file} differ in length; prepare the cache again"
            )
        if not len(index) == self.manifest["rows"] == self._ends[-1]:
            raise CacheError(
                f"the index {file} has {len(index)} rows, the manifest {self.manifest['rows']} and "
                f"the shards {self._ends[-1]}; prepare the cache again"
            )
        if {index.marker_len_NxC.shape[1], index.value_NxC.shape[1]} != {len(index.categories)}:
            raise CacheError(
                f"the index {file} has {index.marker_len_NxC.shape[1]} categories, the manifest "
                f"{len(index.categories)}; prepare the cache again"
            )
        return index

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_copy": None}

    def read(self, i: int) -> Spans:
        """The spans of one row, 0 <= i < len(self)."""
        return self.read_many([i])[0]

    def read_many(self, indices: Sequence[int] | np.ndarray) -> list[Spans]:
        """The spans of many rows, in the order given; a row may be asked for more than once."""
        categories = self.index.categories
        return [decode_record(record, categories) for record in self._records(indices)]

    def read_flat(self, indices: Sequence[int] | np.ndarray) -> FlatSpans:
        """The same in one buffer, many times faster."""
        wanted = np.asarray(indices, np.int64)
        records = self._records(wanted)
        try:
            return flatten_records(records, self.index.take(wanted))
        except ValueError as error:
            raise CacheError(f"the cache {self.folder} is damaged: {error}; {_MEND}") from None

    def _records(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        wanted = np.asarray(indices, np.int64)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(
                f"row {wanted.min() if wanted.min() < 0 else wanted.max()} is outside the cache "
                f"{self.folder} with its {len(self)} rows"
            )
        # In the order of the files: neighbours are read together.
        order = np.argsort(wanted, kind="stable")
        edges = np.searchsorted(wanted[order], [0, *self._ends])
        result: list[bytes] = [b""] * wanted.size
        for shard in np.flatnonzero(np.diff(edges)).tolist():
            places = order[edges[shard] : edges[shard + 1]]
            first = self._ends[shard] - self.manifest["shards"][shard]["rows"]
            try:
                found = self._reader(shard).read((wanted[places] - first).tolist())
            except (ValueError, RuntimeError, IndexError) as error:
                raise CacheError(
                    f"the shard {self._files[shard]} cannot be read ({_one_line(error)}); {_MEND}"
                ) from None
            for place, record in zip(places.tolist(), found, strict=True):
                result[place] = record
        return result

    def _reader(self, shard: int) -> ArrayRecordReader:
        """Opened on first use and per process: an open reader does not survive a fork."""
        key = (os.getpid(), shard)
        if key not in self._readers:
            self._readers[key] = ArrayRecordReader(str(self._files[shard]), READ_OPTIONS)
        return self._readers[key]
