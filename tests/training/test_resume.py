"""A run killed at any moment and started again ends with the same parameters, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from marker_lm.data.cache import Cache
from marker_lm.data.setup import make_setup, train_batches
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.checkpoints import Checkpoints, has_checkpoint, load_about
from marker_lm.training.loop import model_config
from marker_lm.training.metrics import read_metrics
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.step import abstract_state
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TRAIN = dict(epochs=8, save_every=20)
WITHOUT_TENSORFLOW = """
import sys
from marker_lm.__main__ import main
code = main(sys.argv[1:])
assert not {"tensorflow", "seqio"} & set(sys.modules), "training loaded TensorFlow"
sys.exit(code)
"""


def start(config_file, workdir, runner=("-m", "marker_lm")):
    """`marker-lm train` in a process of its own, on one device."""
    workdir.mkdir(exist_ok=True)
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    with open(workdir / "log", "a") as log:
        return subprocess.Popen(
            [sys.executable, *runner, "train", f"--config={config_file}", f"--workdir={workdir}"],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )


def log_of(workdir):
    return (workdir / "log").read_text()


def last_step(workdir):
    records = read_metrics(workdir)
    return records[-1]["step"] if records else 0


def wait_until(process, workdir, come):
    """Returns when `come()` holds; an error when the process ends before."""
    deadline = time.monotonic() + 120
    while not come():
        assert process.poll() is None, "it ended too early:\n" + log_of(workdir)
        assert time.monotonic() < deadline, "it takes too long:\n" + log_of(workdir)
        time.sleep(0.002)


def is_saving(workdir):
    """Whether a checkpoint is half written."""
    folder = workdir / "checkpoints"
    return folder.exists() and any(not p.name.isdigit() for p in folder.iterdir())


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Workdirs of an uninterrupted run and of one that was stopped three times, and its story."""
    folder = tmp_path_factory.mktemp("resume")
    config_file = folder / "config.py"
    config_file.write_text(
        "from tests.tiny import tiny_config\n\n\n"
        f"def get_config(arg=''):\n    return tiny_config({str(data)!r}, **{TRAIN!r})\n"
    )
    whole, killed = folder / "whole", folder / "killed"
    uninterrupted = start(config_file, whole, ("-c", WITHOUT_TENSORFLOW))

    story = []
    stops = [
        (signal.SIGKILL, lambda: last_step(killed) >= 30),  # between two saves, in epoch 1
        (signal.SIGTERM, lambda: last_step(killed) >= 60),
        (signal.SIGKILL, lambda: last_step(killed) >= 95 and is_saving(killed)),  # in a save
    ]
    for number, come in stops:
        process = start(config_file, killed)
        try:
            wait_until(process, killed, come)
            process.send_signal(number)
            code = process.wait(60)
        finally:
            process.kill()
        folder = killed / "checkpoints"
        saved = load_about(folder)["step"] if has_checkpoint(folder) else 0
        story.append({"signal": number, "code": code, "step": last_step(killed), "saved": saved})
    last = start(config_file, killed)
    assert last.wait(120) == 0, log_of(killed)
    assert uninterrupted.wait(120) == 0, log_of(whole)
    return whole, killed, story


def test_the_run_was_really_stopped(runs):
    _, killed, story = runs
    assert [(one["signal"], one["code"]) for one in story] == [
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 0),
        (signal.SIGKILL, -signal.SIGKILL),
    ]
    # Every start goes on from the save before.
    log = log_of(killed)
    for one in story:
        assert one["saved"] == 0 or f"going on from step {one['saved']}\n" in log
    assert all(one["saved"] > 0 for one in story[1:])
    steps = load_about(killed / "checkpoints")["step"]
    assert 30 <= story[0]["step"] < story[1]["step"] < story[2]["step"] < steps
    assert any(one["step"] % 18 for one in story)  # in the middle of an epoch
    assert any(one["saved"] < one["step"] for one in story if one["signal"] == signal.SIGKILL)


def test_sigterm_saves_the_very_step(runs):
    _, killed, story = runs
    assert story[1]["saved"] == story[1]["step"] >= 60
    assert f"stopped by SIGTERM; step {story[1]['saved']} is saved" in log_of(killed)


def test_parameters_and_moments_are_equal_bit_for_bit(runs, data):
    whole, killed, _ = runs
    config = tiny_config(data, **TRAIN)
    tokenizer = load_tokenizer(data / "prepared" / "tokenizer")
    setup = make_setup(config, load_taxonomy(config.taxonomy), tokenizer)
    batches = train_batches(config, setup, Cache(data / "prepared" / "train"), slice(None))
    optimizer = make_optimizer(config.train, len(batches))
    mesh = make_mesh(devices=jax.devices()[:1])
    abstract = abstract_state(model_config(config, setup), optimizer, mesh)
    states = []
    for workdir in (whole, killed):
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            assert checkpoints.latest_step() == len(batches)
            states.append(jax.device_get(checkpoints.restore(len(batches), abstract)))
    equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), *states)
    assert len(jax.tree.leaves(equal)) > 30 and all(jax.tree.leaves(equal))


def test_each_step_is_recorded_once_with_the_same_loss(runs):
    whole, killed, _ = runs
    records = read_metrics(whole)
    assert [r["step"] for r in records] == list(range(1, len(records) + 1))
    pairs = [[(r["step"], r["loss"]) for r in read_metrics(w)] for w in (whole, killed)]
    assert json.dumps(pairs[0]) == json.dumps(pairs[1])
