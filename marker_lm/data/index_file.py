"""The file of a long index, written from its parts without holding more than one of them."""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np


def join_columns(parts: Iterable[Mapping[str, np.ndarray]], file: Path) -> None:
    """Writes what `np.savez` would write of the parts' columns, joined: the same bytes.

    A .npz file has its columns one after the other and the parts come row by row, so each column
    is gathered in a file of its own first, beside `file`.

    Args:
      parts: column -> array [rows of the part, ...]; the same columns, dtypes and further sizes.
    """
    rows, heads, gathered = 0, {}, {}
    with contextlib.ExitStack() as stack:
        for part in parts:
            for name, column in part.items():
                if name not in gathered:
                    heads[name] = np.lib.format.header_data_from_array_1_0(column)
                    temporary = tempfile.TemporaryFile(dir=file.parent)
                    gathered[name] = stack.enter_context(temporary)
                gathered[name].write(column.tobytes())
            rows += len(column)
        archive = stack.enter_context(zipfile.ZipFile(file, "w"))
        for name, column_file in gathered.items():
            head = heads[name] | {"shape": (rows, *heads[name]["shape"][1:])}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, head)
                column_file.seek(0)
                shutil.copyfileobj(column_file, member, 1 << 20)
