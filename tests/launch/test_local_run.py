"""The real trainer in two local processes of four devices: stopped, killed, and run to its end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marker_lm.data.prepare import prepare
from marker_lm.training.checkpoints import load_about
from marker_lm.training.metrics import read_metrics
from tests.tiny import tiny_config, write_data

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TRAIN = dict(epochs=3, batch=8, save_every=8)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """What three launches of the same command said, and the folder with logs and run.

    The first is stopped; in the second a process is killed, and the launch begins both again.
    """
    folder = tmp_path_factory.mktemp("launch")
    data = folder / "data"
    data.mkdir()
    write_data(data)
    prepare(tiny_config(data, **TRAIN), data / "prepared", lambda line: None)
    (folder / "tiny.py").write_text(
        "from tests.tiny import tiny_config\n\n\n"
        f"def get_config(arg=''):\n    return tiny_config({str(data)!r}, **{TRAIN!r})\n"
    )
    command = [
        *("launch/run.sh", "local", f"--config={folder}/tiny.py", f"--workdir={folder}/run"),
        *("--processes=2", "--devices=4", f"--logs={folder}/logs", "--wait=0", "--restarts=1"),
        f"--program={sys.executable} -m marker_lm",
    ]
    cheap = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=1"
    env = os.environ | {"XLA_FLAGS": cheap, "PYTHONPATH": str(ROOT)}

    def launch(until, act):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, env=env, **pipes)
        try:
            wait_for_step(folder / "run", until)
            act(process)
            said = process.communicate(timeout=400)[0]
        finally:
            process.terminate()
        return process.returncode, said

    stopped = launch(4, lambda process: process.terminate())
    saved = load_about(folder / "run" / "checkpoints")["step"]
    killed = launch(saved + 12, lambda process: os.kill(process_one(process.pid), signal.SIGKILL))
    return folder, stopped, saved, killed


def wait_for_step(workdir, step):
    deadline = time.monotonic() + 300
    while not (records := read_metrics(workdir)) or records[-1]["step"] < step:
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def process_one(launcher: int) -> int:
    """The process id of process 1 of a launch."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    words = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in children}
    (found,) = [pid for pid, said in words.items() if "--process=1" in said]
    return int(found)


def test_a_stopped_launch_has_the_run_saved(story):
    _, (code, said), saved, _ = story
    assert code == 143, said
    assert f"stopped by SIGTERM; step {saved} is saved" in said
    assert "restart" not in said


def test_the_same_command_goes_on_and_begins_again_after_a_killed_process(story):
    folder, _, saved, (code, said) = story
    assert code == 0, said
    assert f"[process-0] going on from step {saved}\n" in said
    assert "process-1 failed (exit code 137, SIGKILL)" in said
    assert "restart 1 of 1 in 0 s" in said
    again = re.search(r"going on from step (\d+)\n", said.split("restart 1 of 1")[1])
    assert int(again[1]) > saved
    steps = load_about(folder / "run" / "checkpoints")["step"]
    assert [record["step"] for record in read_metrics(folder / "run")][-1] == steps
    assert f"trained to step {steps}" in said


def test_every_process_has_its_log(story):
    folder, *_ = story
    assert {file.name for file in (folder / "logs").iterdir()} == {"process-0.log", "process-1.log"}
    assert (folder / "logs" / "process-0.log").read_text().count("8 device(s)") == 3
