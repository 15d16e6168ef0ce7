"""Means and rates between two records."""

import numpy as np
import pytest

from marker_lm.training import window as module
from marker_lm.training.guard import TrainingDiverged
from marker_lm.training.window import Window, describe
from tests.tiny import tiny_config


def make_metrics(loss=1.0, **changes):
    return {
        **{"loss": loss, "grad_norm": 2.0, "tokens": 100.0, "spike": 0.0, "skipped_in_row": 0.0},
        **{"completion_tokens": 10.0, "completion_nats": 10 * loss, "flops": 6e9},
        **{"completion_markers_tokens": 0.0, "completion_markers_nats": 0.0},
        **changes,
    }


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_means_rates_and_shares(now):
    window = Window(tiny_config("", batch=4, length=50).train, print, peak=24e9)
    for step, loss in enumerate((1.0, 3.0)):
        with window.waiting_for_data():
            now[0] += 0.25
        window.add(step, make_metrics(loss))
        now[0] += 0.75
    with window.paused():
        now[0] += 50
    record, step_seconds = window.take()
    assert record == {
        "loss": 2.0,
        "grad_norm": 2.0,
        "skipped": 0,
        "tokens_per_second": 100.0,
        "trained_tokens_per_second": 10.0,
        "answer_nats": 2.0,
        "padding_share": 0.5,  # 100 tokens of 4 x 50 slots
        "data_wait_share": 0.25,
        "useful_token_mfu": 0.25,  # 6e9 of 24e9 a second
    }
    assert step_seconds == 1.5
    assert window.count == 0 and window.waited == 0
    assert describe(record) == "loss 2.000, answer 2.000 nats, 100 tokens/s, MFU 25.0%"


def test_without_a_known_peak_there_is_no_mfu(now):
    window = Window(tiny_config("").train, print)
    window.add(0, make_metrics())
    now[0] += 1
    record, _ = window.take()
    assert "useful_token_mfu" not in record and "MFU" not in describe(record)


def test_a_step_is_counted_when_the_next_one_is_added():
    window = Window(tiny_config("").train, print)
    window.add(0, make_metrics())
    assert window.count == 0
    window.add(1, make_metrics(np.nan))
    assert window.count == 1
    with pytest.raises(TrainingDiverged, match="the loss of step 2 is nan"):
        window.settle()


def test_skipped_steps_are_left_out_and_told(now):
    lines = []
    window = Window(tiny_config("", on_spike="skip").train, lines.append)
    for step, loss in enumerate((1.0, np.nan, 3.0)):
        window.add(step, make_metrics(loss, skipped_in_row=float(np.isnan(loss))))
    now[0] += 1
    record, _ = window.take()
    assert record["loss"] == 2.0 and record["skipped"] == 1
    assert lines == ["skipped: the loss of step 2 is nan"]
    for step in (3, 4):
        window.add(step, make_metrics(np.inf, skipped_in_row=1.0))
        now[0] += 1
        record, _ = window.take()  # the count begins anew
        assert record == {"skipped": 1, "data_wait_share": 0}
    assert describe(record) == "1 steps skipped"
