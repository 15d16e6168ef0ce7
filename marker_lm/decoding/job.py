"""The JSONL file that a command writes its results to; killed at any time, it goes on where it was.

Each line has the number of its row, so results may come in any order; when all are there, the file
is put in the order of the rows. Beside it stands FILE.job.json with the settings that it was
written with: results of two commands never mix.

A file that is reached by URL can't be appended to. Its results go to FILE.parts, a new part every
`PART_SECONDS`, and become FILE when all are there.
"""

import fcntl
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from marker_lm.data.cache import is_remote
from marker_lm.data.whole_files import write_whole

PART_SECONDS = 60.0


class JobError(ValueError):
    """An output file that this command can't go on with. One sentence."""


class Job:
    """Results of the rows 1 to `rows`, one JSON object a line. Use as a context manager.

      with Job(out, settings, len(rows)) as job:
          for number in job.left():
              job.add(number, result_of(rows[number - 1]))

    Args:
      out: the file, local or gs://; None prints the lines, in the order of the rows.
      settings: JSON-able: all that the results depend on (checkpoint and step, options, a hash of
        the rows), by names that a person knows.
      rows: how many there are.
      overwrite: begin anew whatever is there.

    Attributes:
      errors: results so far, also of earlier calls, that are an error.

    Raises:
      JobError: the file was written with other settings, by no job, by one that still runs, or is
        damaged.
    """

    def __init__(
        self,
        out: epath.PathLike | None,
        settings: Mapping[str, Any],
        rows: int,
        overwrite: bool = False,
    ):
        self.rows, self.errors = rows, 0
        self._done: set[int] = set()
        self._printed, self._waiting = 0, {}
        self.out = None if out is None else epath.Path(out)
        if self.out is None:
            return
        self._settings_file = self.out.parent / f"{self.out.name}.job.json"
        self._parts = self.out.parent / f"{self.out.name}.parts"
        self._remote = is_remote(self.out)
        self._held: list[bytes] = []
        self._written = time.monotonic()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._file = None if self._remote else self._open_locked()
        try:
            if overwrite:
                self._clear()
            self._check_settings(json.loads(json.dumps(dict(settings))))
            for line in self._lines(mend=True):
                self._take(line)
        except BaseException:
            if self._file is not None:
                self._file.close()
            raise

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def done(self) -> int:
        """How many rows have their result."""
        return len(self._done)

    def left(self) -> list[int]:
        """The numbers of the rows without a result, rising."""
        return [number for number in range(1, self.rows + 1) if number not in self._done]

    def add(self, number: int, result: Mapping[str, Any]) -> None:
        """Writes the result of a row, which outlives this process from here on.

        By URL it does so when its part is written. A result with an "error" is one too: it is not
        tried again. One with a number that JSON has not (nan, infinite) becomes an error. Text that
        is no Unicode (half a surrogate pair) is written escaped.
        """
        if not 1 <= number <= self.rows or number in self._done:
            raise ValueError(f"row {number} of 1..{self.rows} is none, or has its result.")
        try:
            line = _line({"row": number, **result})
        except ValueError as error:
            result = {"error": f"the result can't be written as JSON: {error}"}
            line = _line({"row": number, **result})
        self._done.add(number)
        self.errors += "error" in result
        if self.out is None:
            self._print(number, line)
        elif self._remote:
            self._held.append(line)
            if time.monotonic() - self._written > PART_SECONDS:
                self._write_part()
        else:
            self._file.write(line)
            self._file.flush()

    def results(self) -> Iterator[dict[str, Any]]:
        """The results in the file, as it stands."""
        return map(json.loads, self._lines())

    def close(self) -> None:
        """Ends the file, in the order of the rows where all have their result."""
        if self.out is None:
            return
        if self._remote:
            self._write_part()
        if self.done == self.rows:
            self._sort()
        if self._file is not None:
            self._file.close()

    def _open_locked(self):
        file = self.out.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise JobError(
                f"{self.out} is being written by another process; wait for it, or give another "
                "--out."
            ) from None
        except OSError:
            pass  # a file system without locks
        return file

    def _clear(self) -> None:
        if self._remote:
            self.out.unlink(missing_ok=True)
        else:
            self._file.truncate(0)
        if self._parts.exists():
            self._parts.rmtree()
        self._settings_file.unlink(missing_ok=True)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings beside an empty output, before the first result."""
        if not self._settings_file.exists():
            if self._parts.exists() or (self.out.exists() and self.out.stat().length):
                raise JobError(
                    f"{self.out} holds something already, and no {self._settings_file.name} beside "
                    "it says what; give another --out, or --overwrite."
                )
            write_whole(self._settings_file, (json.dumps(settings, indent=1) + "\n").encode())
            return
        try:
            before = json.loads(self._settings_file.read_text())
        except ValueError:
            raise JobError(
                f"{self._settings_file} is damaged; give another --out, or --overwrite."
            ) from None
        other = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        if other:
            what = "; ".join(f"{k} was {before.get(k)!r}, now {settings.get(k)!r}" for k in other)
            raise JobError(
                f"{self.out} was written with other settings ({what}); give another --out, or "
                "--overwrite to begin anew."
            )

    def _lines(self, mend: bool = False) -> Iterator[bytes]:
        """The whole lines of results; a last one without its end was cut off, and is removed."""
        if self._remote and not self.out.exists():
            for part in sorted(self._parts.glob("*.jsonl")) if self._parts.exists() else ():
                yield from part.read_bytes().splitlines(keepends=True)
            return
        size = 0
        with self.out.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    size += len(line)
                    yield line
        if mend and not self._remote:
            self._file.truncate(size)

    def _take(self, line: bytes) -> None:
        """Counts a result that is there."""
        try:
            result = json.loads(line)
            number = result["row"]
            if not 1 <= number <= self.rows or number in self._done:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise JobError(
                f"{self.out} is damaged: after {self.done} results comes {line[:60]!r}; give "
                "another --out, or --overwrite."
            ) from None
        self._done.add(number)
        self.errors += "error" in result

    def _write_part(self) -> None:
        if self._held:
            self._parts.mkdir(parents=True, exist_ok=True)
            count = len(list(self._parts.glob("*.jsonl")))
            write_whole(self._parts / f"{count:06}.jsonl", b"".join(self._held))
        self._held, self._written = [], time.monotonic()

    def _sort(self) -> None:
        lines = list(self._lines())
        numbers = [result["row"] for result in self.results()]
        if self._parts.exists() or numbers != sorted(numbers):
            order = sorted(range(len(lines)), key=numbers.__getitem__)
            write_whole(self.out, b"".join(lines[i] for i in order))
        if self._parts.exists():
            self._parts.rmtree()

    def _print(self, number: int, line: bytes) -> None:
        self._waiting[number] = line.decode()
        while self._printed + 1 in self._waiting:
            self._printed += 1
            sys.stdout.write(self._waiting.pop(self._printed))
        sys.stdout.flush()


def _line(result: Mapping[str, Any]) -> bytes:
    text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(result, allow_nan=False).encode() + b"\n"


def hash_rows(rows: Iterable[Any]) -> str:
    """A name for the content of a job's rows, for its settings; JSON-able, or errors."""
    digest = hashlib.sha256()
    for row in rows:
        text = str(row) if isinstance(row, Exception) else json.dumps(row, sort_keys=True)
        digest.update(text.encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()[:16]
