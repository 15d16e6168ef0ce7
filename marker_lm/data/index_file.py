"""The file of a long index, written from its parts without holding more than one of them."""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def join_columns(
    parts: Iterable[Mapping[str, np.ndarray]], file: Path, missing: Mapping[str, Any]
) -> None:
    """Writes what `np.savez` would write of the parts' columns, joined: the same bytes.

    A .npz file has its columns one after the other and the parts come row by row, so each column
    is gathered in a file of its own first, beside `file`.

    Args:
      parts: column -> array [rows of the part, ...]; the same dtypes and further sizes.
      missing: columns that a part may lack -> their value in its rows. One that all parts lack is
        not written; the others stand last.
    """
    rows, found, heads, gathered = 0, set(), {}, {}
    with contextlib.ExitStack() as stack:
        for part in parts:
            length = len(next(iter(part.values())))
            lacking = {n: np.full(length, v) for n, v in missing.items() if n not in part}
            for name, column in {**part, **lacking}.items():
                if name not in gathered:
                    heads[name] = np.lib.format.header_data_from_array_1_0(column)
                    temporary = tempfile.TemporaryFile(dir=file.parent)
                    gathered[name] = stack.enter_context(temporary)
                gathered[name].write(column.tobytes())
            found |= part.keys()
            rows += length
        archive = stack.enter_context(zipfile.ZipFile(file, "w"))
        for name in (name for name in gathered if name in found):
            head = heads[name] | {"shape": (rows, *heads[name]["shape"][1:])}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, head)
                gathered[name].seek(0)
                shutil.copyfileobj(gathered[name], member, 1 << 20)
