"""Rows that cannot be used: a file with the reason of each, counts, and a limit to their share."""

import json
from collections import Counter
from typing import Any

from etils import epath

EXCERPT = 200  # characters of a row that are kept


class RejectShareError(ValueError):
    """Too large a share of the rows was rejected."""


class Rejects:
    """Collects rejected rows; a context manager.

    path: where rejects.jsonl goes ({file, line, reason, excerpt} a line), or None for no file.
      It appears under this name when the block ends, also when it ends by an error.
    max_share: RejectShareError when more than this share of all rows was rejected, at the end,
      or as soon as `min_rows` rows were seen.
    After the block (and during it): rows (seen), rejected, kinds (Counter of reasons' kinds),
    left_out (Counter of the "category='value'" of markers that were left out), untrusted (Counter
    of the categories of markers that were left out since they are not sure enough).
    """

    def __init__(
        self, path: epath.PathLike | None = None, max_share: float = 0.01, min_rows: int = 1000
    ):
        self.path = None if path is None else epath.Path(path)
        self.max_share = max_share
        self.min_rows = min_rows
        self.rows = 0
        self.rejected = 0
        self.kinds: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.untrusted: Counter[str] = Counter()
        self._first = ""
        self._file: Any = None

    def __enter__(self) -> "Rejects":
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = self.path.parent / (self.path.name + ".partial")
            self._file = self._partial.open("w")
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._file is not None:
            self._file.close()
            self._partial.replace(self.path)
        if kind is None:
            self._check_share()

    def accept(self, rows: int = 1) -> None:
        """Counts good rows."""
        self.rows += rows

    def reject(self, file: str, line: int, reason: str, kind: str, excerpt: str) -> None:
        """Records one bad row; may raise RejectShareError."""
        self.rows += 1
        self.rejected += 1
        self.kinds[kind] += 1
        self._first = self._first or f"{file}:{line}: {reason}"
        if self._file is not None:
            row = {"file": file, "line": line, "reason": reason, "excerpt": excerpt[:EXCERPT]}
            self._file.write(json.dumps(row) + "\n")
        if self.rows >= self.min_rows:
            self._check_share()

    def summary(self) -> dict[str, Any]:
        """Counts for a manifest; of the values left out, by category and the commonest hundred."""
        left_out: Counter[str] = Counter()
        for value, count in self.left_out.items():
            left_out[value.partition("=")[0]] += count
        return {
            "rows": self.rows,
            "rejected": self.rejected,
            "kinds": dict(self.kinds.most_common()),
            "left_out": dict(left_out.most_common()),
            "left_out_values": dict(self.left_out.most_common(100)),
            "untrusted": dict(self.untrusted.most_common()),
        }

    def _check_share(self) -> None:
        if self.rejected <= self.max_share * self.rows:
            return
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.kinds.most_common(5))
        where = f"all of them are in {self.path}" if self.path else "no rejects file was asked for"
        raise RejectShareError(
            f"{self.rejected} of {self.rows} rows were rejected, more than the share allowed "
            f"({self.max_share:g}) [{kinds}]; the first: {self._first}; {where}"
        )
