"""Sizes and checksums of a folder's files, by which a damaged one is known.

They are written when all else of a checkpoint is on disk: a folder without them is not finished.
Several processes share the work: each writes the sums of its part of the files, and later each
checks a part, of however many processes wrote them.
"""

import json
import re
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from marker_lm.data.whole_files import write_whole

_NAME = re.compile(r"sums\.(\d+)-of-(\d+)\.json")
_BLOCK = 1 << 24  # bytes read at once
_THREADS = 8  # that read; zlib and the file system let others work meanwhile


def write_sums(folder: epath.Path, process: int = 0, processes: int = 1) -> None:
    """Writes `sums.PROCESS-of-PROCESSES.json`: name -> [bytes, CRC-32] of its part of the files."""
    # Spread by size, so that no process reads much more than another.
    files = sorted(_files(folder), key=lambda file: (-file[1], file[0]))[process::processes]
    with ThreadPoolExecutor(_THREADS) as pool:
        checksums = pool.map(lambda file: _checksum(folder / file[0]), files)
        sums = {
            name: [size, checksum] for (name, size), checksum in zip(files, checksums, strict=True)
        }
    text = json.dumps({"files": sums, "crc32": _of_files(sums)})
    # Whole or not at all: half of them would look like damage.
    write_whole(folder / f"sums.{process}-of-{processes}.json", text.encode())


def is_finished(folder: epath.Path) -> bool:
    """Whether the sums of all processes are there; looks at names only."""
    return not _missing(folder)


def find_faults(
    folder: epath.Path, parts: Collection[str] = (), process: int = 0, processes: int = 1
) -> list[str]:
    """What is wrong with a finished folder's files, a phrase for each; [] where nothing is.

    Sizes are compared of all files and checksums of a part of them: the work of one of `processes`.

    Args:
      folder: local or by URL.
      parts: subfolders whose checksums are compared, with those of files that lie in none; () is
        all.
      process, processes: which part of the work to do.
    """
    if missing := _missing(folder):
        return [f"{name} is missing" for name in missing]
    expected = {}
    for name in sorted(_sums(folder)):
        try:
            sums = json.loads((folder / name).read_text())
            sound = sums["crc32"] == _of_files(sums["files"])
        except (ValueError, TypeError, KeyError):  # no JSON, no text, not of this form
            sound = False
        if not sound:
            return [f"{name} can't be read"]
        expected |= sums["files"]
    sizes = dict(_files(folder))
    faults = {}
    for name, (size, _) in expected.items():
        if name not in sizes:
            faults[name] = "is missing"
        elif sizes[name] != size:
            faults[name] = f"has {sizes[name]} bytes, not {size}"

    def of_parts(name: str) -> bool:
        return not parts or "/" not in name or name.split("/", 1)[0] in parts

    ours = [name for name in expected if name not in faults and of_parts(name)]
    ours = sorted(ours, key=lambda name: (-sizes[name], name))[process::processes]
    with ThreadPoolExecutor(_THREADS) as pool:
        checksums = pool.map(lambda name: _checksum(folder / name), ours)
        for name, checksum in zip(ours, checksums, strict=True):
            if checksum != expected[name][1]:
                faults[name] = "has changed: its checksum is another"
    return [f"{name} {fault}" for name, fault in sorted(faults.items())]


def _of_files(sums: dict) -> int:
    """The checksum of sums themselves."""
    return zlib.crc32(json.dumps(sums).encode())


def _sums(folder: epath.Path) -> dict[str, int]:
    """Name of each file of sums -> how many processes wrote such files."""
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return {match[0]: int(match[2]) for match in found if match}


def _missing(folder: epath.Path) -> list[str]:
    """Names of the files of sums that are not there."""
    found = _sums(folder)
    processes = max(found.values(), default=1)
    return [
        name for i in range(processes) if (name := f"sums.{i}-of-{processes}.json") not in found
    ]


def _files(folder: epath.Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Name below `folder` and size of every file but those of sums."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
        elif prefix or not path.name.startswith(("sums.", ".sums.")):  # also those half written
            yield prefix + path.name, path.stat().length


def _checksum(path: epath.Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
