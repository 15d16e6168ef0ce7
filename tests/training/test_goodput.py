"""Goodput over restarts: steps that were done again do not count."""

import pytest

from marker_lm.training.goodput import Attempt, History, goodput, read_history


def test_one_start():
    found = goodput([Attempt(began=100, first=0, step=10, step_seconds=30)], now=140)
    assert found == {"goodput": 0.75, "lost_steps": 0}


def test_steps_done_again_are_lost():
    attempts = [
        Attempt(began=0, first=0, step=10, step_seconds=100),  # saved at 8: two are lost
        Attempt(began=150, first=8, step=12, step_seconds=40),  # saved at 8 only: all are lost
        Attempt(began=250, first=8, step=20, step_seconds=120),
    ]
    assert goodput(attempts, now=400) == {"goodput": (80 + 120) / 400, "lost_steps": 2 + 4}


def test_going_back_behind_an_earlier_start():
    attempts = [
        Attempt(began=0, first=0, step=10, step_seconds=10),
        Attempt(began=20, first=10, step=20, step_seconds=10),
        Attempt(began=40, first=5, step=6, step_seconds=1),  # the checkpoint of step 10 is damaged
    ]
    assert goodput(attempts, now=60) == {"goodput": 6 / 60, "lost_steps": 15}


def test_the_history_outlives_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1030.0)
    first = History(tmp_path, began=1000.0, first=0)
    assert first.add(5, 10.0) == {"goodput": pytest.approx(10 / 30), "lost_steps": 0}
    first.add(7, 4.0)
    assert read_history(tmp_path) == [Attempt(1000.0, 0, 7, 14.0)]
    monkeypatch.setattr("time.time", lambda: 1050.0)
    second = History(tmp_path, began=1040.0, first=5)
    assert second.add(9, 8.0) == {"goodput": pytest.approx(18 / 50), "lost_steps": 2}
    assert [(one.first, one.step) for one in read_history(tmp_path)] == [(0, 7), (5, 9)]


def test_a_start_that_does_nothing_leaves_no_trace(tmp_path):
    History(tmp_path, began=1.0, first=0)
    assert read_history(tmp_path) == []
