"""A run killed thirty times, at any moment, ends with the same parameters, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from marker_lm.data.cache import Cache
from marker_lm.data.setup import make_setup, train_batches
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.checkpoints import Checkpoints, load_about
from marker_lm.training.goodput import read_history
from marker_lm.training.metrics import read_metrics
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.run import model_config
from marker_lm.training.step import abstract_state
from marker_lm.training.sums import is_finished
from tests.tiny import tiny_config
from tests.training.processes import ROOT, last_step, logs, write_config

pytestmark = pytest.mark.slow
TRAIN = dict(epochs=14, save_every=3)
KILLS = 30


class Forks:
    """Starts `marker-lm train` on one device, one after the other, see forked.py."""

    def __init__(self, config_file, cache):
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
        self.config_file = config_file
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.training.forked"],
            cwd=ROOT,
            env=os.environ
            | {
                "XLA_FLAGS": flags,
                "PYTHONPATH": str(ROOT),
                # Compiled once: the kills shall fall into training and saving.
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, workdir) -> int:
        workdir.mkdir(exist_ok=True)
        arguments = [f"--config={self.config_file}", f"--workdir={workdir}"]
        print(json.dumps([str(workdir / "log"), arguments]), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def wait(self) -> int:
        """The exit code of the latest start."""
        return int(self.server.stdout.readline())

    def close(self):
        self.server.stdin.close()
        self.server.wait(60)


def is_saving(workdir) -> bool:
    """Whether a checkpoint is half written, or has not got its sums."""
    folder = workdir / "checkpoints"
    paths = list(folder.iterdir()) if folder.exists() else []
    done = (p for p in paths if p.name.endswith(".damaged") or list(p.glob("sums.*")))
    return len(paths) > len(list(done))


def finished_step(workdir) -> int:
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit() and is_finished(p)]
    return max(steps, default=0)


def wait_until(come, pid, workdir):
    deadline = time.monotonic() + 240
    while not come():
        assert time.monotonic() < deadline, "it takes too long:\n" + logs(workdir)[-3000:]
        os.kill(pid, 0)
        time.sleep(0.001)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Workdirs of an uninterrupted run and of one that was stopped often, and its story."""
    folder = tmp_path_factory.mktemp("resume")
    config_file = write_config(folder / "config.py", data, **TRAIN)
    whole, killed, story = folder / "whole", folder / "killed", []
    forks, random = Forks(config_file, folder / "cache"), np.random.default_rng(0)
    try:
        forks.start(whole)
        assert forks.wait() == 0, logs(whole)
        for kill in range(KILLS + 1):
            number = signal.SIGTERM if kill == KILLS else signal.SIGKILL
            began, pid = last_step(killed), forks.start(killed)
            if kill % 3 == 0:  # before the first step, or soon after
                time.sleep(random.uniform(0, 2))
            else:
                steps = began + int(random.integers(1, 8))
                wait_until(lambda steps=steps: last_step(killed) >= steps, pid, killed)
            if kill % 3 == 2:  # within a save
                wait_until(lambda: is_saving(killed), pid, killed)
                time.sleep(random.uniform(0, 0.05))
            saving = is_saving(killed)
            os.kill(pid, number)
            story.append(
                {
                    "signal": number,
                    "code": forks.wait(),
                    "saving": saving,
                    "step": last_step(killed),
                    "saved": finished_step(killed),
                }
            )
        forks.start(killed)
        assert forks.wait() == 0, logs(killed)[-3000:]
    finally:
        forks.close()
    return whole, killed, story


def test_the_run_was_really_killed(runs):
    _, killed, story = runs
    *kills, stop = story
    assert [one["code"] for one in kills] == [-signal.SIGKILL] * KILLS
    assert sum(one["saving"] for one in kills) >= 8
    assert kills[-1]["step"] < len(read_metrics(killed))
    assert stop["code"] == 128 + signal.SIGTERM and stop["saved"] == stop["step"]
    assert f"stopped by SIGTERM; step {stop['saved']} is saved" in logs(killed)


def test_no_step_is_lost_beyond_the_last_save(runs):
    # Every start that came to train goes on from the newest checkpoint that was finished.
    _, killed, story = runs
    saved = [one["saved"] for one in story]
    assert saved == sorted(saved)
    firsts = [attempt.first for attempt in read_history(killed)]
    assert firsts == sorted(firsts) and len(set(firsts)) > 8
    assert set(firsts) <= {0, *saved}
    assert firsts[-1] == saved[-1]
    lost = [one["step"] - one["saved"] for one in story]
    assert max(lost) <= 2 * TRAIN["save_every"]  # what is not saved yet, and what is being saved


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
        assert load_about(workdir / "checkpoints")["step"] == len(batches)
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            states.append(jax.device_get(checkpoints.restore(len(batches), abstract)))
    equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), *states)
    assert len(jax.tree.leaves(equal)) > 30 and all(jax.tree.leaves(equal))


def test_each_step_is_recorded_once_with_the_same_loss(runs):
    whole, killed, _ = runs
    records = read_metrics(whole)
    assert [r["step"] for r in records] == list(range(1, len(records) + 1))
    pairs = [[(r["step"], r["loss"]) for r in read_metrics(w)] for w in (whole, killed)]
    assert json.dumps(pairs[0]) == json.dumps(pairs[1])
