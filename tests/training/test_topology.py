"""A checkpoint of one mesh goes on on another: the next step has the same loss."""

import shutil

import jax
import pytest

from marker_lm.sharding.mesh import make_mesh
from marker_lm.training import run as run_module
from marker_lm.training.loop import train
from marker_lm.training.metrics import read_metrics
from tests.tiny import tiny_config
from tests.training.processes import end, logs, start_several, write_config

pytestmark = pytest.mark.slow
SAVED = 5
TRAIN = dict(batch=8, epochs=1, save_every=SAVED, keep_every=SAVED)


def make_config(data, mesh):
    config = tiny_config(data, **TRAIN).unlock()
    config.mesh.update(mesh)
    return config


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A finished run on 4x2 devices that kept its checkpoint of step 5."""
    workdir = tmp_path_factory.mktemp("whole")
    train(make_config(data, dict(data=1, fsdp=4, tensor=2)), workdir, lambda line: None)
    return workdir


def from_saved(whole, workdir):
    """The run as of the step that was saved."""
    shutil.copytree(whole / "checkpoints" / str(SAVED), workdir / "checkpoints" / str(SAVED))
    shutil.copy(whole / "metrics.jsonl", workdir / "metrics.jsonl")
    return workdir


def check_losses(whole, workdir):
    expected, found = read_metrics(whole), read_metrics(workdir)
    assert [r["step"] for r in found] == [r["step"] for r in expected]
    after = [(a["loss"], b["loss"]) for a, b in zip(found, expected, strict=True)][SAVED:]
    assert len(after) >= 3
    assert after[0][0] == pytest.approx(after[0][1], rel=1e-6)
    # Rounding grows with the steps.
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in after)


@pytest.mark.parametrize(
    "mesh",
    [dict(data=2, fsdp=2, tensor=2), dict(data=1), dict(data=2, context=2, tensor=2)],
    ids=["2x2x2", "one-device", "context"],
)
def test_on_another_mesh(whole, data, tmp_path, monkeypatch, mesh):
    if mesh == {"data": 1}:
        monkeypatch.setattr(
            run_module, "make_mesh", lambda **_: make_mesh(devices=jax.devices()[:1])
        )
    lines = []
    config = make_config(data, mesh)
    config.model.update(remat="full", ff_blocks=2)  # other devices may want that
    train(config, from_saved(whole, tmp_path), lines.append)
    assert f"going on from step {SAVED}" in lines
    check_losses(whole, tmp_path)


def test_on_two_processes(whole, data, tmp_path):
    run = from_saved(whole, tmp_path / "run")
    config_file = write_config(
        tmp_path / "config.py", data, dict(data=2, fsdp=2, tensor=2), **TRAIN
    )
    processes = start_several(config_file, run, 2, 4)
    try:
        assert [process.wait(400) for process in processes] == [0, 0], logs(run)
    finally:
        end(processes)
    assert f"going on from step {SAVED}" in logs(run)
    check_losses(whole, run)
