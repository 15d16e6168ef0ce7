"""The GKE launch against stand-ins for kubectl, xpk, gcloud and docker."""

import signal
import time

import pytest
import yaml

OPTIONS = ["gke", "--config=configs/tiny.py", "--workdir=gs://b/run", "--image=images/m:1"]
OPTIONS += ["--name=job", "--logs=logs", "--poll=0"]
RUNNING = {"pods": ["job-slice-0-0-abcde", "job-slice-0-1-fghij"], "status": "0 "}
DONE = RUNNING | {"status": "0 Completed"}
LOGS = {"job-slice-0-0-abcde": "step 1", "job-slice-0-1-fghij": "step 1"}


def log(place, host):
    return (place.path / "logs" / f"slice-0-{host}.log").read_text()


def test_a_jobset_is_made_followed_and_removed(place):
    looks = [RUNNING | {"pods": []}, RUNNING, DONE]
    place.has("kubectl", "docker", looks=looks, logs=LOGS)
    done = place.run(*OPTIONS, "--build", "--config.data.separator=a \\ \"b\" 'c'")
    assert done.code == 0, done.err
    assert [words[1] for words in place.calls("docker")] == ["build", "push"]
    assert place.calls("kubectl")[-1][1:4] == ["delete", "jobset", "job"]
    assert "[slice-0-1] step 1" in done.out and log(place, 0) == "step 1\n"
    job = yaml.safe_load((place.fakes / "manifest.yaml").read_text())
    (slice,) = job["spec"]["replicatedJobs"]
    assert slice["replicas"] == 1 and slice["template"]["spec"]["parallelism"] == 4
    pod = slice["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["containers"][0]["command"] == [
        *("marker-lm", "train", "--config=configs/tiny.py", "--workdir=gs://b/run"),
        *("--config.data.separator=a \\ \"b\" 'c'", "--distributed"),
    ]


@pytest.mark.parametrize(
    ("topology", "slices", "hosts", "chips", "accelerator"),
    [
        ("v5e:16x16*2", 2, 64, 4, "tpu-v5-lite-podslice"),
        ("v6e:1x1", 1, 1, 1, "tpu-v6e-slice"),
        ("v5p:4x4x8", 1, 32, 4, "tpu-v5p-slice"),
        ("tpu7x:2x2x4", 1, 4, 4, "tpu7x"),
    ],
)
def test_the_manifest_has_a_job_a_slice_and_a_pod_a_host(
    place, topology, slices, hosts, chips, accelerator
):
    done = place.run(*OPTIONS, "--through=jobset", f"--topology={topology}", "--spot", "--dry-run")
    assert done.code == 0, done.err
    lines = [line[2:] for line in done.out.splitlines() if line.startswith("# ")]
    spec = yaml.safe_load("\n".join(lines))["spec"]
    job = spec["replicatedJobs"][0]
    assert job["replicas"] == slices
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == hosts
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == accelerator
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


def test_a_restarted_job_goes_on_with_its_logs(place):
    again = RUNNING | {"pods": ["job-slice-0-0-vwxyz"], "status": "1 "}
    logs = LOGS | {"job-slice-0-0-vwxyz": "from step 1"}
    last = again | {"status": "1 Completed"}
    place.has("kubectl", looks=[RUNNING, again, last], logs=logs)
    done = place.run(*OPTIONS)
    assert done.code == 0, done.err
    assert "restart 1 of 3" in done.err
    assert log(place, 0) == "step 1\nfrom step 1\n"


def test_a_job_of_the_same_name_is_left_alone(place):
    place.has("kubectl", looks=[DONE], create_fails='jobsets "job" already exists')
    done = place.run(*OPTIONS)
    assert done.code == 1 and "already exists" in done.err
    assert not place.calls("kubectl", "delete")


def test_a_cluster_that_does_not_answer_for_a_while_is_asked_again(place):
    place.has("kubectl", looks=[RUNNING, {"pods": []}, {"pods": []}, DONE], logs=LOGS)
    done = place.run(*OPTIONS)
    assert done.code == 0, done.err
    assert "no answer (2 of 20): kubectl" in done.err
    assert len(place.calls("kubectl", "delete")) == 1


def test_the_host_that_failed_first_is_shown_and_its_code_is_the_launchers(place):
    ended = [
        "2026-01-01T00:00:09Z 137 job-slice-0-0-abcde",
        "2026-01-01T00:00:05Z 2 job-slice-0-1-fghij",
        "2026-01-01T00:00:01Z 0 job-slice-0-2-klmno",
    ]
    logs = LOGS | {"job-slice-0-1-fghij": "marker-lm train: the config has no key 'x'"}
    looks = [RUNNING, RUNNING | {"status": "0 Failed"}]
    place.has("kubectl", looks=looks, ended=ended, logs=logs)
    done = place.run(*OPTIONS)
    assert done.code == 2
    assert "slice-0-1 failed (exit code 2" in done.err
    assert "  slice-0-1 | marker-lm train: the config has no key 'x'" in done.err
    assert place.calls("kubectl")[-1][1] == "delete"


@pytest.mark.parametrize("keep", [False, True])
def test_a_stopped_launcher_removes_the_job_unless_it_is_kept(place, keep):
    place.has("kubectl", looks=[RUNNING], logs=LOGS)
    process = place.start(*OPTIONS, "--poll=20", *["--keep"] * keep)
    while not place.calls("kubectl", "get", "jobset"):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert bool(place.calls("kubectl", "delete")) != keep
    assert ("its end: kubectl delete jobset job" in err) == keep


def test_xpk_where_it_is_installed(place):
    place.has("kubectl", "xpk", "gcloud", looks=[DONE], logs=LOGS)
    where = ["--cluster=c", "--zone=us-east5-b", "--project=p"]
    done = place.run(*OPTIONS, *where, "--topology=v6e:4x4*2", "--config.data.separator=a b")
    assert done.code == 0, done.err
    (words,) = place.calls("xpk")
    assert {"--cluster=c", "--tpu-type=v6e-16", "--num-slices=2", "--workload=job"} <= {*words}
    assert words[-1] == (
        "--command=marker-lm train --config=configs/tiny.py --workdir=gs://b/run"
        " '--config.data.separator=a b' --distributed"
    )
    assert place.calls("gcloud", "container", "clusters", "get-credentials", "c")
    assert not place.calls("kubectl", "create")
