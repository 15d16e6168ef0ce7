"""Writes a cache shard by shard, so that work that was broken off goes on where it stopped.

Shards are written in any order and by any process. Each appears under its name when it is whole,
and counts when its part of the index has appeared after it. The cache gets its name, and its
manifest, when all shards are there.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from marker_lm.data.cache import READ_OPTIONS, VERSION, CacheError, is_remote
from marker_lm.data.spans import Index, Spans, build_index, encode_record, join_indexes

ROWS_PER_SHARD = 8_192
_WRITE_OPTIONS = "group_size:1,zstd:3"  # one record a group: a plan reads rows in random order


@dataclasses.dataclass(frozen=True)
class CacheWriter:
    """The shards of a cache that is being written; can be sent to other processes.

    folder: of the finished cache. The shards stand in a hidden folder beside it until the end; on a
      remote file system, where folders cannot be renamed, in the folder itself, which is no cache
      before its manifest is there.
    key: of all that the rows depend on; a shard that was written under another key is not used.
    categories: of the taxonomy, in its order.
    """

    folder: str
    key: str
    categories: tuple[str, ...]

    @property
    def work(self) -> epath.Path:
        """Where the shards stand until the end."""
        final = epath.Path(self.folder)
        return final if is_remote(self.folder) else final.parent / f".{final.name}.partial"

    def has_shard(self, number: int) -> bool:
        """Whether this shard was written whole, by this or by an earlier run."""
        part = self.work / _part_name(number)
        if not part.exists():
            return False
        try:
            with part.open("rb") as file, np.load(file) as arrays:
                key, size = str(arrays["key"]), int(arrays["bytes"])
        except Exception:  # NumPy, zipfile and the system each raise their own
            return False
        shard = self.work / shard_name(number)
        return key == self.key and shard.exists() and shard.stat().length == size

    def write_shard(self, number: int, rows: Sequence[Spans], changed: Sequence[str] = ()) -> None:
        """Writes one shard and its part of the index.

        Args:
          changed: ids of the rows whose texts the tokenizer does not give back.

        Raises:
          CacheError: the file system takes no more.
        """
        column = {category: c for c, category in enumerate(self.categories)}
        index = build_index(rows, self.categories)
        self.work.mkdir(parents=True, exist_ok=True)
        with _put(self.work / shard_name(number)) as file:
            writer = ArrayRecordWriter(str(file), _WRITE_OPTIONS)
            for one in rows:
                writer.write(encode_record(one, column))
            writer.close()
            reader = ArrayRecordReader(str(file), READ_OPTIONS)
            if reader.num_records() != len(rows):
                raise OSError(f"{reader.num_records()} of {len(rows)} rows arrived")
            reader.close()
            size = file.stat().st_size
        with _put(self.work / _part_name(number)) as file, file.open("wb") as out:
            facts = {"key": self.key, "bytes": size, "apart": sum(one.apart for one in rows)}
            np.savez(out, **facts, **index.columns())

    def finish(self, shards: int, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Joins the first `shards` shards to a cache, in place of one of the same name.

        Returns its manifest, which has `manifest` in it.
        """
        if not shards:
            raise CacheError("there are no rows to write; see the rejects file")
        index, sizes, apart = self._join_parts(shards)
        if "chat" in manifest:
            about = {"conversations": len(index.first_U), "tokenized_apart": apart}
            manifest = {**manifest, "chat": {**manifest["chat"], **about}}
        manifest = {
            **manifest,
            "version": VERSION,
            "categories": list(index.categories),
            "rows": len(index),
            "tokens": _token_counts(index),
            "changed": {"rows": len(changed), "first": changed[:5]},
            "shards": [
                {"file": shard_name(number), "rows": rows, "bytes": size}
                for number, (rows, size) in enumerate(sizes)
            ],
        }
        if is_remote(self.folder):
            (self.work / "manifest.json").unlink(missing_ok=True)
        wanted = {shard["file"] for shard in manifest["shards"]}
        for path in self.work.iterdir():
            if path.name not in wanted:
                path.rmtree() if path.is_dir() else path.unlink()
        with _put(self.work / "index.npz") as file, file.open("wb") as out:
            np.savez(out, **index.columns())
        with _put(self.work / "manifest.json") as file:
            file.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        if not is_remote(self.folder):
            final = epath.Path(self.folder)
            if final.exists():
                final.rmtree()
            self.work.rename(final)
        return manifest

    def discard(self) -> None:
        """Removes the shards of a cache that is not to be finished."""
        if self.work.exists():
            self.work.rmtree()

    def _join_parts(self, shards: int) -> tuple[Index, list[tuple[int, int]], int]:
        """The index of all shards, rows and bytes of each, and the sum of `apart`."""
        parts, sizes, apart = [], [], 0
        for number in range(shards):
            with (self.work / _part_name(number)).open("rb") as file, np.load(file) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
            size = int(columns.pop("bytes"))
            apart += int(columns.pop("apart"))
            del columns["key"]
            parts.append(Index(self.categories, **columns))
            sizes.append((len(parts[-1]), size))
        return join_indexes(parts), sizes, apart


def write_cache(
    spans: Iterable[Spans],
    folder: epath.PathLike,
    manifest: Mapping[str, Any],
    *,
    finish: Callable[[], Mapping[str, Any]] | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a cache as a stream, in this process, and returns its manifest.

    Args:
      manifest: what is to be known of the cache; `categories` is needed.
      finish: called after the last row, for entries that are known only then, such as rejects.
      rows_per_shard: rows in a shard file.
      overwrite: replaces a cache that is there; else that is a CacheError.
    """
    folder = epath.Path(folder)
    if folder.exists() and not overwrite and any(folder.iterdir()):
        raise CacheError(f"{folder} is there already; remove it or choose another folder")
    writer = CacheWriter(os.fspath(folder), uuid.uuid4().hex, tuple(manifest["categories"]))
    rows, shards = iter(spans), 0
    try:
        while block := list(islice(rows, rows_per_shard)):
            writer.write_shard(shards, block)
            shards += 1
        return writer.finish(shards, {**manifest, **(finish() if finish else {})})
    except BaseException:
        writer.discard()
        raise


@contextlib.contextmanager
def _put(target: epath.Path) -> Iterator[Path]:
    """A local file to write to, which becomes `target` when the block ends well."""
    beside = None if is_remote(target) else os.fspath(target.parent)
    folder = Path(tempfile.mkdtemp(prefix=".writing.", dir=beside))
    try:
        yield folder / target.name
        if is_remote(target):
            epath.Path(folder / target.name).copy(target, overwrite=True)
        else:
            os.replace(folder / target.name, target)
    except (OSError, RuntimeError, ValueError) as error:
        raise CacheError(
            f"{target} could not be written ({' '.join(str(error).split())}); see that there is "
            "room, then run the same command again"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shard_name(number: int) -> str:
    return f"spans-{number:05d}.array_record"


def _part_name(number: int) -> str:
    return f"spans-{number:05d}.index.npz"


def _token_counts(index: Index) -> dict[str, int]:
    return {
        "prompt": int(index.prompt_len_N.sum(dtype=np.int64)),
        "markers": int(index.marker_len_NxC.sum(dtype=np.int64)),
        "completion": int(index.completion_len_N.sum(dtype=np.int64)),
    }
