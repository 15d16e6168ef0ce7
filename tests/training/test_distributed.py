"""Two processes train as one, stop together, and end together when one of them fails."""

import re
import signal

import numpy as np
import pytest

from marker_lm.training import distributed
from marker_lm.training.checkpoints import load_about
from marker_lm.training.distributed import PEER_LOST, barrier, check_shared, gather, is_main, joined
from marker_lm.training.loop import train
from marker_lm.training.metrics import read_metrics
from tests.training.processes import end, last_step, logs, start_several, wait_until, write_config


@pytest.fixture
def pair(data, tmp_path):
    """Starts two processes with four devices each; kills them at the end."""
    started = []

    def start_pair(mesh, workdir=tmp_path / "run", workdirs=None, **train):
        config_file = write_config(tmp_path / "config.py", data, mesh, **train)
        started.extend(start_several(config_file, workdir, 2, 4, **(workdirs or {})))
        return started[-2:]

    yield start_pair
    end(started)


def in_this_process(tmp_path, workdir):
    """The same run on this process's eight devices."""
    from marker_lm.cli.common import load_config

    train(load_config(str(tmp_path / "config.py"), []), workdir, lambda line: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [dict(data=2, fsdp=2, tensor=2), dict(data=1, context=4, tensor=2)],
    ids=lambda mesh: "-".join(mesh),
)
def test_two_processes_train_to_the_losses_of_one(pair, tmp_path, mesh):
    # Along `context` both processes hold parts of the same rows.
    pair_run, one_run = tmp_path / "run", tmp_path / "one"
    processes = pair(mesh, batch=8, epochs=1, eval_every=5, save_every=5)
    for process in processes:
        assert process.wait(400) == 0, logs(pair_run)
    in_this_process(tmp_path, one_run)
    two, one = read_metrics(pair_run), read_metrics(one_run)
    assert [r["step"] for r in two] == [r["step"] for r in one] == list(range(1, len(one) + 1))
    assert len(one) > 6
    for name in ("loss", "grad_norm", "answer_nats", "marker_nats", "eval_answer_nats"):
        pairs = [(a[name], b[name]) for a, b in zip(two, one, strict=True) if name in b]
        assert len(pairs) >= 2
        np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-6)
    # Only the first one talks.
    assert "train markers" in (pair_run / "log.0").read_text()
    assert "train markers" not in (pair_run / "log.1").read_text()


@pytest.mark.slow
def test_stopped_by_one_and_killed_and_gone_on_by_one_process(pair, tmp_path):
    mesh, settings = dict(data=2, fsdp=4), dict(batch=8, epochs=12, save_every=12)
    run, whole = tmp_path / "run", tmp_path / "whole"

    # A SIGTERM to the second process alone: both save the same step and stop.
    processes = pair(mesh, **settings)
    wait_until(lambda: last_step(run) >= 5, processes, run)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(60) == 128 + signal.SIGTERM, logs(run)
    saved = load_about(run / "checkpoints")["step"]
    assert last_step(run) == saved >= 5
    assert f"stopped by SIGTERM; step {saved} is saved" in (run / "log.0").read_text()

    # Either one dies: the other one says so and ends.
    for victim, words in [
        (1, r"process 0 on \S+ ends: process 1 on \S+ has not answered for \d+ s"),
        (0, "JAX distributed service detected fatal errors|process 0 on .* can't be reached"),
    ]:
        before = last_step(run)
        processes = pair(mesh, **settings)
        wait_until(lambda before=before: last_step(run) > before + 2, processes, run)
        processes[victim].kill()
        assert processes[1 - victim].wait(60) not in (0, None), logs(run)
        assert re.search(words, (run / f"log.{1 - victim}").read_text()), logs(run)

    # One process with all devices goes on to the end, as if nothing had happened.
    in_this_process(tmp_path, run)
    in_this_process(tmp_path, whole)
    found, expected = read_metrics(run), read_metrics(whole)
    assert [r["step"] for r in found] == [r["step"] for r in expected]
    np.testing.assert_allclose([r["loss"] for r in found], [r["loss"] for r in expected], rtol=1e-6)
    assert found[-1]["goodput"] < 1


@pytest.mark.slow
def test_a_failure_of_one_is_told_by_all(pair, tmp_path):
    # Each sees a folder of its own, as on hosts without a common disk.
    run = tmp_path / "run"
    processes = pair(dict(data=8), run, {"workdir1": tmp_path / "other"}, batch=8)
    assert [process.wait(120) for process in processes] == [PEER_LOST, 2]
    why = (
        r"process 1 on \S+ failed: ValueError: process 1 on \S+ does not see what process 0 writes"
    )
    assert re.search(rf"process 0 on \S+ ends: {why}", (run / "log.0").read_text())
    assert re.search(why, (tmp_path / "other" / "log.1").read_text())


def test_alone_there_is_nobody_to_wait_for(tmp_path):
    with joined():
        assert is_main() and gather("x", "text") == ["text"]
        barrier("x")
        check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(processes=2), "need --coordinator=HOST:PORT"),
        (dict(process=0), "need --coordinator=HOST:PORT"),
        (dict(coordinator="a:1", environment=True), "--distributed asks the environment"),
        (dict(coordinator="a:1", processes=2), "0 <= I < N; they are 2 and -1"),
        (dict(coordinator="a:1", processes=2, process=2), "0 <= I < N; they are 2 and 2"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        with joined(**arguments):
            pass


def test_an_environment_that_says_nothing(monkeypatch):
    def initialize(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    monkeypatch.setattr(distributed.jax.config, "update", lambda *_: None)
    with pytest.raises(ValueError, match="--distributed: .*should be defined.*give --coordinator"):
        with joined(environment=True):
            pass
