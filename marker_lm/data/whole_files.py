"""Files that appear under their name when they are whole, local or reached by URL."""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from marker_lm.data.cache import is_remote


@contextlib.contextmanager
def whole_file(target: epath.PathLike) -> Iterator[Path]:
    """A local file to write, which becomes `target` when the block ends well.

    It stands beside `target`, whose folder must be there, under a name of its own, so that two may
    write at once; for a target that is reached by URL in a temporary folder. Where the block fails,
    it is removed.
    """
    target = epath.Path(target)
    with contextlib.ExitStack() as stack:
        if is_remote(target):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = Path(target.parent)
        partial = folder / f".{target.name}.{uuid.uuid4().hex}.partial"
        stack.callback(partial.unlink, missing_ok=True)
        yield partial
        if is_remote(target):
            epath.Path(partial).copy(target, overwrite=True)
        else:
            os.replace(partial, target)


def write_whole(target: epath.PathLike, data: bytes) -> None:
    """Writes a file in one piece."""
    with whole_file(target) as file:
        file.write_bytes(data)
