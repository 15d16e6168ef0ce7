"""Safetensors files: single or sharded by an index, local or gs://, read in parts.

The format (https://huggingface.co/docs/safetensors/index#format): the header's size as 8 bytes,
little endian; the header, JSON of {name: {dtype, shape, data_offsets}}; the data.
"""

import dataclasses
import difflib
import json
import math
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.source import PIECE, Index

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
LARGEST_HEADER = 100_000_000  # bytes; the reference implementation has the same limit
# Runs of bytes at least so long are read alone; shorter ones together with what lies between.
SHORTEST_RUN = 256 * 1024


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies: in which file, from which byte."""

    path: epath.Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype


class SafetensorsSource:
    """The tensors of a Hugging Face folder, or of one file; a TensorSource.

    Raises ConvertError: no such file, a damaged header, a truncated file, a dtype that is no
    float of ours, an index that does not fit its files.
    """

    def __init__(self, path: epath.PathLike):
        path = epath.Path(path)
        self._files: dict[epath.Path, Any] = {}
        if path.name.endswith(".safetensors"):
            self._entries = read_header(path)
        elif (path / INDEX).exists():
            self._entries = _read_index(path)
        else:
            self._entries = read_header(path / SINGLE)

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> np.dtype:
        return self._entry(name).dtype

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        entry = self._entry(name)
        index = tuple(slice(None) for _ in entry.shape) if index is None else index
        ranges = [range(n)[part] for n, part in zip(entry.shape, index, strict=True)]
        out = np.empty([len(r) for r in ranges], entry.dtype)
        if out.size:
            self._read_into(out, entry, ranges, entry.start)
        return out

    def _read_into(self, out: np.ndarray, entry: Entry, ranges: list[range], start: int) -> None:
        """Fills `out` with the part `ranges` of the array that begins at byte `start`."""
        shape = entry.shape[len(entry.shape) - len(ranges) :]
        if all(len(r) == n for r, n in zip(ranges[1:], shape[1:], strict=True)):
            row = math.prod(shape[1:]) * entry.dtype.itemsize
            self._read_bytes(out, entry.path, start + (ranges[0].start * row if ranges else 0))
            return
        row = math.prod(shape[1:]) * entry.dtype.itemsize
        inner = math.prod(len(r) for r in ranges[1:]) * entry.dtype.itemsize
        if inner >= SHORTEST_RUN:
            for i, at in enumerate(ranges[0]):
                self._read_into(out[i], entry, ranges[1:], start + at * row)
            return
        step = max(PIECE // row, 1)
        for i in range(0, len(ranges[0]), step):
            rows = np.empty((min(step, len(ranges[0]) - i), *shape[1:]), entry.dtype)
            self._read_bytes(rows, entry.path, start + ranges[0][i] * row)
            out[i : i + len(rows)] = rows[
                (slice(None), *(slice(r.start, r.stop) for r in ranges[1:]))
            ]

    def _read_bytes(self, out: np.ndarray, path: epath.Path, start: int) -> None:
        """Fills a contiguous array from one run of bytes."""
        if path not in self._files:
            self._files[path] = path.open("rb")
        file = self._files[path]
        file.seek(start)
        left = memoryview(out.reshape(-1).view(np.uint8))
        while left:
            got = file.readinto(left)
            if not got:
                raise ConvertError(f"{path} ended while it was read; has it been replaced?")
            left = left[got:]

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.0)
            raise ConvertError(f"there is no tensor '{name}'; the nearest is {near}.")
        return self._entries[name]


def _read_index(folder: epath.Path) -> dict[str, Entry]:
    """The tensors of a sharded checkpoint."""
    index = read_json(folder / INDEX)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConvertError(f"{folder / INDEX} has no 'weight_map'; download the checkpoint again.")
    entries: dict[str, Entry] = {}
    for file in sorted(set(places.values())):
        if not (folder / file).exists():
            lost = sorted(name for name, place in places.items() if place == file)
            raise ConvertError(
                f"{folder / INDEX} names the file {file}, which is not there ({len(lost)} tensors, "
                f"such as {lost[0]}); download it, too."
            )
        for name, entry in read_header(folder / file).items():
            if name in entries:
                raise ConvertError(f"the tensor {name} is in {entries[name].path} and in {file}.")
            entries[name] = entry
    for name, file in places.items():
        if name not in entries or entries[name].path != folder / file:
            raise ConvertError(
                f"{folder / INDEX} says that the tensor {name} is in {file}, which does not hold "
                "it; download the index and the files of one version."
            )
    return entries


def read_header(path: epath.Path) -> dict[str, Entry]:
    """The tensors of one file, checked against its size."""
    if not path.exists():
        names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise ConvertError(
            f"there is no {path}; the folder holds {', '.join(names) or 'nothing'}."
            + (
                " Only safetensors are read."
                if any(n.endswith((".bin", ".pt")) for n in names)
                else ""
            )
        )
    length = path.stat().length
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if length < 8 or size > min(length - 8, LARGEST_HEADER):
            raise ConvertError(
                f"{path} has {length} bytes and says that its header has {size}; it is truncated "
                "or no safetensors file: download it again."
            )
        raw = file.read(size)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        return _check_header(path, header, 8 + size, length)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConvertError):
            raise
        raise ConvertError(
            f"the header of {path} is damaged ({type(error).__name__}: {error}); download the file "
            "again."
        ) from None


def _check_header(path: epath.Path, header: dict, data: int, length: int) -> dict[str, Entry]:
    entries = {}
    for name, about in header.items():
        shape, (start, end) = tuple(about["shape"]), about["data_offsets"]
        if about["dtype"] not in DTYPES:
            raise ConvertError(
                f"the tensor {name} in {path} has dtype {about['dtype']}; only "
                f"{', '.join(DTYPES)} are read: convert the checkpoint to one of them."
            )
        dtype = DTYPES[about["dtype"]]
        if start < 0 or end - start != math.prod(shape) * dtype.itemsize:
            raise ConvertError(
                f"the header of {path} is damaged: the tensor {name} of shape {shape} takes "
                f"{end - start} bytes; download the file again."
            )
        if data + end > length:
            raise ConvertError(
                f"{path} is truncated: the tensor {name} ends at byte {data + end} and the file "
                f"has {length}; download it again."
            )
        entries[name] = Entry(path, data + start, shape, dtype)
    return entries


def read_json(path: epath.Path) -> dict:
    """A JSON object. Raises ConvertError for a missing or damaged file."""
    if not path.exists():
        raise ConvertError(f"there is no {path}; a Hugging Face folder has one.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConvertError(f"{path} is no JSON ({error}); download it again.") from None
    if not isinstance(data, dict):
        raise ConvertError(f"{path} is no JSON object; download it again.")
    return data
