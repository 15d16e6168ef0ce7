"""Progress in a log and in a terminal."""

import sys

import pytest

from marker_lm import progress as progress_module
from marker_lm.progress import Progress, clock


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves."""
    time = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: time[0])
    return time


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (36_061, "10:01:01")],
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def test_lines_in_a_log_come_now_and_then(now, capsys):
    with Progress("read", 200, seconds=10) as progress:
        progress.update(1, "first")
        now[0] += 9
        progress.update(50, "too early")
        now[0] += 11
        progress.update(100, "half")
        progress.update(101, "too early")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "read 1/200 (0 %) 0:00 spent, ? to go  first",
        "read 100/200 (50 %) 0:20 spent, 0:20 to go  half",
        "read 101/200 (50 %) 0:20 spent, 0:19 to go  too early",
    ]


def test_a_log_has_the_last_line_once(now, capsys):
    with Progress("read", 2) as progress:
        progress.update(2)
        now[0] += 1
    assert capsys.readouterr().err == "read 2/2 (100 %) 0:00 spent, ? to go  \n"


def test_a_resumed_job_counts_only_its_own_units(now, capsys):
    with Progress("train", 100, done=80) as progress:
        now[0] += 30
        progress.update(90)
    assert "train 90/100 (90 %) 0:30 spent, 0:30 to go" in capsys.readouterr().err


def test_nothing_to_do(now, capsys):
    with Progress("train", 0):
        pass
    assert capsys.readouterr().err == "train 0/0 (0 %) 0:00 spent, ? to go  \n"


def test_a_terminal_line_rewrites_itself(now, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("read", 2) as progress:
        progress.update(1)
        now[0] += 1
        progress.update(2, "done")
    out = capsys.readouterr().err
    assert out.count("\r\x1b[2K") == 3
    assert out.endswith("read 2/2 (100 %) 0:01 spent, 0:00 to go  done\n")
