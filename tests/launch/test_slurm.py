"""The SLURM launch and its batch script against stand-ins that run the script and its tasks."""

import json
import signal
import subprocess
import time

import pytest

OPTIONS = ["slurm", "--config=configs/plain.py", "--workdir=/shared/run", "--nodes=2", "--gpus=4"]
OPTIONS += ["--name=job", "--logs=logs", "--poll=1", "--wait=0"]
COMMANDS = ["sbatch", "srun", "scontrol", "scancel"]
DONE, WAITS = {"code": 0}, {}


def log(place, task):
    return (place.path / "logs" / f"process-{task}.log").read_text()


def test_a_job_runs_to_its_end(place):
    place.has(*COMMANDS, tasks=[[DONE], [{"code": 0, "says": "the other"}]])
    done = place.run(*OPTIONS, "--time=24:00:00", "--sbatch=--qos=low --mem=0")
    assert done.code == 0, done.err
    (words,) = place.calls("sbatch")
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--requeue"} <= {*words}
    assert {"--time=24:00:00", "--qos=low", "--mem=0", "--signal=TERM@300"} <= {*words}
    assert "[process-1] the other" in done.out and log(place, 0) == "trained\n"
    assert json.loads((place.fakes / "command").read_text()) == [
        *("marker-lm", "train", "--config=configs/plain.py", "--workdir=/shared/run"),
        "--distributed",
    ]
    assert not place.calls("scontrol", "requeue") and not place.calls("scancel")


def test_a_process_a_node_is_told_of_all_its_gpus(place):
    place.has(*COMMANDS, tasks=[[DONE], [DONE]])
    assert place.run(*OPTIONS, "--per=node").code == 0
    assert "--ntasks-per-node=1" in place.calls("sbatch")[0]
    command = json.loads((place.fakes / "command").read_text())
    assert command[:3] == ["env", "JAX_LOCAL_DEVICE_IDS=0,1,2,3", "marker-lm"]


def test_a_job_whose_time_is_up_is_queued_again(place):
    stopped = {"code": 143, "says": "saved step 40"}
    place.has(*COMMANDS, tasks=[[stopped, {"code": 0, "says": "from step 40"}], [WAITS, DONE]])
    done = place.run(*OPTIONS)
    assert done.code == 0, done.err
    assert len(place.calls("scontrol", "requeue", "4200")) == 1
    assert len(place.calls("sbatch")) == 1
    assert log(place, 0) == "saved step 40\nfrom step 40\n"


def test_a_programs_error_is_shown_and_not_repeated_though_the_killed_have_a_higher_code(place):
    error = {"code": 2, "says": "marker-lm train: there is no config x.py", "after": 1}
    place.has(*COMMANDS, tasks=[[WAITS], [error]])
    done = place.run(*OPTIONS)
    assert done.code == 2
    assert "process-1 failed (exit code 2" in done.err
    assert "  process-1 | marker-lm train: there is no config x.py" in done.err
    assert not place.calls("scontrol", "requeue") and len(place.calls("sbatch")) == 1
    assert log(place, 0) == "trained\nsaved\n"


def test_requeues_are_bounded(place):
    place.has(*COMMANDS, tasks=[[{"code": 137}], [DONE]])
    done = place.run(*OPTIONS, "--restarts=1")
    assert done.code == 137
    assert len(place.calls("scontrol", "requeue")) == 1


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_a_job_that_slurm_has_ended_is_submitted_again(place, state):
    place.has(*COMMANDS, tasks=[[DONE], [DONE]], states=[state, "COMPLETED"])
    done = place.run(*OPTIONS)
    assert done.code == 0, done.err
    assert f"ended: {state}" in done.err and "restart 1 of 3" in done.err
    assert len(place.calls("sbatch")) == 2


@pytest.mark.parametrize("keep", [False, True])
def test_a_stopped_launcher_cancels_the_job_unless_it_is_kept(place, keep):
    place.has(*COMMANDS, tasks=[[WAITS], [WAITS]])
    process = place.start(*OPTIONS, *["--keep"] * keep)
    while len(list(place.fakes.glob("pid-*"))) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    assert len(place.calls("scancel", "4200")) == (not keep)
    assert ("the job goes on; its end: scancel 4200" in err) == keep
    if keep:
        subprocess.run([place.fakes / "scancel", "4200"], env=place.env, check=True)
