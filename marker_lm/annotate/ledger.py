"""Answers of an endpoint on disk, and what they cost: nothing is asked twice, no limit is passed.

One SQLite file in WAL mode holds both. Threads and processes of one machine may share it, and a
process that is killed loses no answer that was stored.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS account (
  id INTEGER PRIMARY KEY CHECK (id = 0), spent INTEGER, next_request REAL, next_token REAL
);
INSERT OR IGNORE INTO account VALUES (0, 0, 0, 0);
"""
_MINUTE = 60.0
NANO = 1_000_000_000  # money is counted in whole billionths, so that sums are exact


class LedgerError(ValueError):
    """A file of answers that can't be used; one sentence."""


class BudgetError(ValueError):
    """The next request could pass the budget; one sentence."""


class Ledger:
    """Stored answers, the money spent on them, and the pace of requests.

    Money is reserved at its upper bound before a request is sent and corrected when its true cost
    is known, so the sum never passes the budget; a request whose end is not known (the process was
    killed, the connection broke) stays counted at its bound.
    The pace is even: a request is due 60 / requests_per_minute seconds after the one before, and
    its tokens push the next one back by their share of the minute. So no minute has more than the
    limits allow, which bursts at the start of each minute would not ensure for the endpoint's own,
    shifted minutes.

    Args:
      path: a local file; '' keeps all in the memory of this process.
      requests_per_minute, tokens_per_minute: 0 for no limit.
      budget: in billionths of the currency; 0 for none.
    Raises LedgerError for a file that is no such ledger or can't be opened.
    """

    def __init__(
        self,
        path: str = "",
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        budget: int = 0,
    ):
        self.path = path
        self.budget = budget
        self._request_seconds = _MINUTE / requests_per_minute if requests_per_minute else 0.0
        self._token_seconds = _MINUTE / tokens_per_minute if tokens_per_minute else 0.0
        self._lock = threading.Lock()
        if path and os.path.dirname(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with self._errors():
            # The lock lets one thread at a time use the connection; other processes wait in SQLite.
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=60, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(_TABLES)
            self._connection.execute("SELECT key, answer FROM answers LIMIT 1").fetchall()
            # A clock that was set back must not make anybody wait for long.
            self._connection.execute(
                "UPDATE account SET next_request = min(next_request, :soon),"
                " next_token = min(next_token, :soon)",
                {"soon": time.time() + _MINUTE},
            )

    def close(self) -> None:
        self._connection.close()

    def get(self, key: str) -> Any | None:
        """The stored answer, JSON-able; None where there is none."""
        with self._lock, self._errors():
            found = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,))
            row = found.fetchone()
        return None if row is None else json.loads(row[0])

    def admit(self, tokens: float, cost: int) -> float:
        """Reserves a request of so many tokens and cost at most; 0 when it may be sent now.

        Otherwise the seconds after which to try again. Raises BudgetError when it could pass the
        budget.
        """
        with self._transaction() as connection:
            spent, next_request, next_token = connection.execute(
                "SELECT spent, next_request, next_token FROM account"
            ).fetchone()
            if self.budget and spent + cost > self.budget:
                raise BudgetError(
                    f"{spent / NANO:.6f} of the budget of {self.budget / NANO:g} are spent or "
                    f"reserved, and the next request may cost {cost / NANO:.6f}"
                )
            now = time.time()
            wait = max(next_request, next_token) - now
            if wait > 0:
                return wait
            connection.execute(
                "UPDATE account SET spent = ?, next_request = ?, next_token = ?",
                (
                    spent + cost,
                    now + self._request_seconds,
                    now + tokens * self._token_seconds,
                ),
            )
        return 0.0

    def correct(self, tokens: float, cost: int) -> None:
        """Adds tokens and cost, both mostly negative, to what was reserved."""
        with self._transaction() as connection:
            self._correct(connection, tokens, cost)

    def store(self, key: str, answer: Any, tokens: float = 0, cost: int = 0) -> Any:
        """Stores an answer and corrects its reservation, both or neither; the answer that stands.

        When another process was faster, its answer stands, so all see the same.
        """
        with self._transaction() as connection:
            self._correct(connection, tokens, cost)
            connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, json.dumps(answer))
            )
            found = connection.execute("SELECT answer FROM answers WHERE key = ?", (key,))
            return json.loads(found.fetchone()[0])

    def totals(self) -> tuple[int, int]:
        """(stored answers, money spent or reserved in billionths)."""
        with self._lock, self._errors():
            return self._connection.execute(
                "SELECT (SELECT count(*) FROM answers), (SELECT spent FROM account)"
            ).fetchone()

    def _correct(self, connection: sqlite3.Connection, tokens: float, cost: int) -> None:
        connection.execute(
            "UPDATE account SET spent = spent + ?, next_token = next_token + ?",
            (cost, tokens * self._token_seconds),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(
                f"the file of answers {self.path} can't be used ({error}); "
                "name another, or a folder on a local disk that has room"
            ) from None
