"""Metrics: one line a record, none twice, whole after a kill."""

import json
import sys
import types
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from marker_lm.training.metrics import MetricWriter, make_writers, read_metrics
from tests.tiny import tiny_config


def events(workdir):
    """All TensorBoard events below a folder, oldest file first.

    A record has 8 bytes of length, 4 of checksum, the event, 4 of checksum.
    """
    for file in sorted((workdir / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size


def test_records_are_lines_and_events(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 2, "speed": 0.5})
    writer.write(2, {"loss": 1.25})
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": 2.0, "speed": 0.5},
        {"step": 2, "loss": 1.25},
    ]
    writer.close()
    found = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert found == [(1, "loss", 2.0), (1, "speed", 0.5), (2, "loss", 1.25)]


def test_no_file_has_no_records(tmp_path):
    assert read_metrics(tmp_path) == []


def test_going_on_drops_what_is_repeated(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in range(1, 8):
        writer.write(step, {"loss": step})
    writer.close()
    writer = MetricWriter(tmp_path, 5)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    writer.write(6, {"loss": -1})
    assert [r["loss"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, -1]
    writer.close()
    # TensorBoard forgets what stands from this step on: 6 and 7, not 5.
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert starts[-1] == 6


def test_a_new_run_starts_empty(tmp_path):
    MetricWriter(tmp_path, 0).write(3, {"loss": 1})
    MetricWriter(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_a_write_that_is_killed_leaves_the_file_before(tmp_path, monkeypatch):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 1})

    def killed(path, data):
        path.open("wb").write(data[: len(data) // 2 + 3])
        raise SystemExit

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(SystemExit):
        writer.write(2, {"loss": 2})
    lines = (tmp_path / "metrics.jsonl").read_bytes().decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]


class FakeRun:
    """What wandb.init returns."""

    def __init__(self, **settings):
        self.settings, self.logged, self.finished = settings, [], False

    def log(self, scalars, step):
        self.logged.append((step, scalars))

    def finish(self):
        self.finished = True


def test_weights_and_biases_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=FakeRun))
    config = tiny_config(tmp_path, wandb_project="levers")
    for folder in ("run", "other"):
        (tmp_path / folder).mkdir()
    runs = []
    for step in (0, 5):
        board, wandb = make_writers(config, tmp_path / "run", step)
        wandb.write(step + 1, {"loss": 2})
        wandb.close()
        board.close()
        runs.append(wandb._run)
    assert all(run.logged and run.finished for run in runs)
    assert runs[0].logged == [(1, {"loss": 2.0})]
    assert runs[0].settings["project"] == "levers" and runs[0].settings["name"] == "run"
    assert runs[0].settings["config"]["train"]["batch"] == 4
    # A start that goes on goes on there, too; another folder is another run.
    assert runs[0].settings["id"] == runs[1].settings["id"]
    [_, other] = make_writers(config, tmp_path / "other", 0)
    assert other._run.settings["id"] != runs[0].settings["id"]


def test_weights_and_biases_is_not_imported_unasked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    assert len(make_writers(tiny_config(tmp_path), tmp_path, 0)) == 1
    with pytest.raises(ValueError, match=r"wandb_project=x needs .* 'marker-lm\[wandb\]'"):
        make_writers(tiny_config(tmp_path, wandb_project="x"), tmp_path, 0)
