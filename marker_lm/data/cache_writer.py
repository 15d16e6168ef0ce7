"""Writes a cache shard by shard, so that work that was broken off goes on where it stopped.

Shards are written in any order and by any process. Each appears under its name when it is whole,
and counts when its part of the index has appeared after it. The cache gets its name, and its
manifest, when all shards are there.
"""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from marker_lm.data.cache import READ_OPTIONS, VERSION, CacheError, is_remote
from marker_lm.data.index_file import join_columns
from marker_lm.data.marker_counts import Counts, join_counts
from marker_lm.data.spans import Index, Spans, build_index, encode_record
from marker_lm.data.whole_files import whole_file

ROWS_PER_SHARD = 8_192
_NAMED = 5  # changed rows whose ids a manifest has
_WRITE_OPTIONS = "group_size:1,zstd:3"  # one record a group: a plan reads rows in random order


@dataclasses.dataclass
class _Joined:
    """What is known of the parts of an index that have been joined so far.

    files: name, rows and bytes of each shard.
    tokens: of prompts, markers and completions.
    chat: conversations, and those whose tokens differ from those of their text as one piece.
    changed, first_changed: rows that the tokenizer does not give back, and the ids of some.
    seen: the values of the markers of each part.
    """

    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tokens: Counter[str] = dataclasses.field(default_factory=Counter)
    chat: Counter[str] = dataclasses.field(default_factory=Counter)
    changed: int = 0
    first_changed: list[str] = dataclasses.field(default_factory=list)
    seen: list[Counts] = dataclasses.field(default_factory=list)


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
                key, size, _ = str(arrays["key"]), int(arrays["bytes"]), arrays["seen"]
        except Exception:  # NumPy, zipfile and the system each raise their own
            return False
        shard = self.work / shard_name(number)
        return key == self.key and shard.exists() and shard.stat().length == size

    def write_shard(
        self,
        number: int,
        rows: Sequence[Spans],
        changed: Sequence[str] = (),
        seen: Counts | None = None,
    ) -> None:
        """Writes one shard and its part of the index.

        Args:
          changed: ids of the rows whose texts the tokenizer does not give back.
          seen: the values of their markers.

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
            apart = sum(one.apart for one in rows)
            facts = {"key": self.key, "bytes": size, "apart": apart}
            facts["changed"] = np.array(changed, np.str_)
            facts["seen"] = np.array(json.dumps(seen or {}))
            np.savez(out, **facts, **index.columns())

    def finish(self, shards: int, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Joins the first `shards` shards to a cache, in place of one of the same name.

        Returns its manifest, which has `manifest` in it. No more than one shard's part of the index
        is in memory.
        """
        if not shards:
            raise CacheError("there are no rows to write; see the rejects file")
        if is_remote(self.folder):
            (self.work / "manifest.json").unlink(missing_ok=True)
        joined = _Joined()
        with _put(self.work / "index.npz") as file:
            join_columns(self._parts(shards, joined), file, missing={"begins_N": True})
        if "chat" in manifest:
            manifest = {**manifest, "chat": {**manifest["chat"], **joined.chat}}
        manifest = {
            **manifest,
            "version": VERSION,
            "categories": list(self.categories),
            "rows": sum(shard["rows"] for shard in joined.files),
            "tokens": dict(joined.tokens),
            "changed": {"rows": joined.changed, "first": joined.first_changed},
            "seen": join_counts(joined.seen, self.categories),
            "shards": joined.files,
        }
        wanted = {"index.npz", *(shard["file"] for shard in joined.files)}
        for path in self.work.iterdir():
            if path.name not in wanted:
                path.rmtree() if path.is_dir() else path.unlink()
        with _put(self.work / "manifest.json") as file:
            file.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        if not is_remote(self.folder):
            final = epath.Path(self.folder)
            if final.exists():
                final.rmtree()
            self.work.rename(final)
        return manifest

    def _parts(self, shards: int, joined: _Joined) -> Iterator[dict[str, np.ndarray]]:
        """The columns of each part of the index; `joined` is told of each."""
        for number in range(shards):
            with (self.work / _part_name(number)).open("rb") as file, np.load(file) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
            size = int(columns.pop("bytes"))
            apart = int(columns.pop("apart"))
            changed = columns.pop("changed").tolist()
            joined.seen.append(json.loads(str(columns.pop("seen"))))
            del columns["key"]
            index = Index(self.categories, **columns)
            joined.files.append({"file": shard_name(number), "rows": len(index), "bytes": size})
            joined.tokens.update(_token_counts(index))
            joined.chat.update({"conversations": len(index.first_U), "tokenized_apart": apart})
            joined.changed += len(changed)
            joined.first_changed += changed[: _NAMED - len(joined.first_changed)]
            yield index.columns()


@contextlib.contextmanager
def _put(target: epath.Path) -> Iterator[Path]:
    """`whole_file` with an error of one sentence."""
    try:
        with whole_file(target) as file:
            yield file
    except (OSError, RuntimeError, ValueError) as error:
        raise CacheError(
            f"{target} could not be written ({' '.join(str(error).split())}); see that there is "
            "room, then run the same command again"
        ) from None


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
