"""The TPU VM launch against a stand-in for gcloud: made, waited for, installed, run, deleted."""

import signal
import tarfile
import time

import pytest

from tests.launch.conftest import commit

OPTIONS = ["tpu-vm", "--config=configs/tiny.py", "--workdir=gs://b/run", "--zone=us-west4-a"]
OPTIONS += ["--name=pod", "--logs=logs", "--hosts=2", "--poll=0", "--wait=0"]
TPUS = ["gcloud", "compute", "tpus", "queued-resources"]
WAITS = {}  # a host that trains until it is told to stop


@pytest.fixture
def pod(place):
    commit(place)
    return place


def verbs(pod):
    """What gcloud was asked, in order; hosts' own commands as `run`."""
    asked = []
    for words in pod.calls("gcloud", "compute", "tpus"):
        one = words[4] == "ssh" and "--worker=all" not in words
        asked.append("run" if one else words[4])
    return [verb for verb in asked if verb != "describe"]


def log(pod, host):
    return (pod.path / "logs" / f"slice-0-host-{host}.log").read_text()


def test_a_run_from_the_request_to_the_deletion(pod):
    (pod.path / "configs" / "tiny.py").write_text('TOPOLOGY = "v5e:4x4"  # not committed\n')
    pod.has("gcloud", hosts={"0.1": [{"code": 0, "says": "the last host"}]})
    done = pod.run(*OPTIONS, "--config.train.steps=3")
    assert done.code == 0, done.err
    assert verbs(pod) == ["create", "scp", "ssh", "run", "run", "delete"]
    assert "[slice-0-host-1] the last host" in done.out
    assert log(pod, 1) == "the last host\n" and log(pod, 0) == "trained\n"
    assert "WAITING_FOR_RESOURCES" in done.err
    with tarfile.open(pod.fakes / "source.tar.gz") as archive:
        assert b"not committed" in archive.extractfile("configs/tiny.py").read()
    hosts = [words for words in pod.calls(*TPUS, "ssh", "pod") if "--worker=all" not in words]
    assert all("--config.train.steps=3 --distributed; }" in words[-1] for words in hosts)


def test_a_preempted_pod_is_made_anew_and_the_run_goes_on(pod):
    lost = {"code": 255, "state": "SUSPENDED", "says": "step 40"}
    again = {"code": 0, "says": "from step 40"}
    pod.has("gcloud", hosts={"0.0": [lost, again], "0.1": [WAITS, again]})
    done = pod.run(*OPTIONS, "--spot")
    assert done.code == 0, done.err
    once = ["create", "scp", "run", "run", "delete"]
    assert [verb for verb in verbs(pod) if verb != "ssh"] == once * 2
    assert log(pod, 0) == "step 40\nfrom step 40\n"
    assert log(pod, 1) == "trained\nsaved\nfrom step 40\n"
    assert "slice-0-host-0 failed (exit code 255" in done.err
    assert "restart 1 of 3" in done.err
    assert all("--spot" in words for words in pod.calls(*TPUS, "create"))


def test_an_error_of_the_program_ends_all_and_is_not_retried(pod):
    error = {"code": 1, "says": "Traceback\nZeroDivisionError: division by zero"}
    pod.has("gcloud", hosts={"0.0": [WAITS], "0.1": [error]})
    done = pod.run(*OPTIONS)
    assert done.code == 1
    assert "slice-0-host-1 failed (exit code 1" in done.err
    assert "  slice-0-host-1 | ZeroDivisionError: division by zero" in done.err
    assert log(pod, 0) == "trained\nsaved\n"
    assert verbs(pod).count("run") == 2 and verbs(pod)[-1] == "delete"


def test_an_exception_because_the_pod_was_taken_away_is_retried(pod):
    lost = {"code": 1, "state": "SUSPENDING"}
    pod.has("gcloud", hosts={"0.0": [lost, {"code": 0}]})
    done = pod.run(*OPTIONS)
    assert done.code == 0, done.err
    assert verbs(pod).count("create") == 2


def test_hosts_that_are_not_up_yet_are_tried_again(pod):
    pod.has("gcloud", unreachable=1)
    done = pod.run(*OPTIONS)
    assert done.code == 0, done.err
    assert verbs(pod).count("scp") == 2 and verbs(pod).count("create") == 1


def test_restarts_are_bounded(pod):
    pod.has("gcloud", hosts={"0.0": [{"code": 134}]})
    done = pod.run(*OPTIONS, "--restarts=1")
    assert done.code == 134
    assert "given up after 1 restarts" in done.err
    assert verbs(pod).count("run") == 4
    assert verbs(pod).count("create") == 1  # the pod was not at fault


def test_a_stopped_launcher_has_the_hosts_save_and_deletes_the_pod(pod):
    pod.has("gcloud", hosts={f"0.{host}": [WAITS] for host in range(2)})
    process = pod.start(*OPTIONS)
    while len(list(pod.fakes.glob("pid-*"))) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    assert all(log(pod, host) == "trained\nsaved\n" for host in range(2))
    assert verbs(pod)[-1] == "delete"


def test_a_kept_pod_is_used_again_only_when_asked(pod):
    pod.has("gcloud")
    kept = pod.run(*OPTIONS, "--keep")
    assert kept.code == 0 and "delete" not in verbs(pod)
    assert "stays and costs; its end: gcloud compute tpus queued-resources delete pod" in kept.err
    refused = pod.run(*OPTIONS)
    assert refused.code == 2 and "there is a pod pod (ACTIVE)" in refused.err
    used = pod.run(*OPTIONS, "--reuse")
    assert used.code == 0, used.err
    assert verbs(pod).count("create") == 1 and "delete" not in verbs(pod)


def test_a_refused_request_is_shown_and_not_repeated(pod):
    pod.has("gcloud", create_fails="ERROR: Quota 'TPUV5sLitepodPerProjectPerZone' exhausted.")
    done = pod.run(*OPTIONS)
    assert done.code == 1 and "Quota" in done.err
    assert verbs(pod).count("create") == 1 and "run" not in verbs(pod)


def test_two_slices_are_one_request(pod):
    pod.has("gcloud")
    done = pod.run(*OPTIONS, "--topology=v5e:4x4*2")
    assert done.code == 0, done.err
    (create,) = pod.calls(*TPUS, "create")
    assert {"--node-count=2", "--node-prefix=pod", "--accelerator-type=v5litepod-16"} <= {*create}
    assert len(list((pod.path / "logs").glob("slice-1-host-*.log"))) == 2


def test_directly_without_the_queue(pod):
    pod.has("gcloud")
    done = pod.run(*OPTIONS, "--direct")
    assert done.code == 0, done.err
    (create,) = pod.calls("gcloud", "compute", "tpus", "tpu-vm", "create")
    assert "--version=v2-alpha-tpuv5-lite" in create
    assert not pod.calls(*TPUS)


def test_a_config_that_git_does_not_know_would_not_get_there(pod):
    pod.has("gcloud")
    (pod.path / "configs" / "new.py").write_text('TOPOLOGY = "v5e:4x4"\n')
    done = pod.run(*OPTIONS, "--config=configs/new.py")
    assert done.code == 2 and "`git add configs/new.py`" in done.err
    assert "create" not in verbs(pod)
