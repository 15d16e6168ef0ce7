"""Writes safetensors files tensor by tensor.

The `safetensors` package writes a file from arrays that are all in memory, and only to a local
path; here a file is streamed, so that memory holds one piece of one tensor.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from marker_lm.convert.safetensors_file import DTYPES, INDEX, SINGLE

LARGEST_FILE = 5 * 1000**3  # bytes, as transformers cuts them
_ALIGNMENT = 8  # of the data's start
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor that is going to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_files(tensors: Iterable[Planned], largest: int = LARGEST_FILE) -> dict[str, list[Planned]]:
    """Names of files, and what goes into each: as much as fits, in the order given."""
    groups: list[list[Planned]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(t.size for t in groups[-1]) + tensor.size > largest:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    total = len(groups)
    return {f"model-{i:05}-of-{total:05}.safetensors": group for i, group in enumerate(groups, 1)}


def write_file(
    path: epath.Path, tensors: Sequence[Planned], pieces: Callable[[Planned], Iterator[np.ndarray]]
) -> None:
    """Writes one file; `pieces` gives the consecutive parts of a tensor, in C order."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.size],
        }
        end += tensor.size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors:
            for piece in pieces(tensor):
                file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)


def write_index(folder: epath.Path, files: dict[str, list[Planned]]) -> None:
    """Writes the index of several files; one alone needs none."""
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(t.size for group in files.values() for t in group)},
            "weight_map": {t.name: file for file, group in files.items() for t in group},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
