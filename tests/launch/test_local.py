"""Several local processes that are started, logged, watched and ended together."""

import signal
import time

import pytest

OPTIONS = ["local", "--config=configs/plain.py", "--workdir=run", "--processes=3", "--devices=2"]
OPTIONS += ["--logs=logs", "--wait=0", "--program=bash worker.sh"]
# What each process does, by its number; the words are those that marker-lm would get.
WORKER = """\
for word; do case $word in --process=*) me=${word#*=} ;; esac; done
echo "$JAX_PLATFORMS $XLA_FLAGS $*"
tries=$(cat tries-$me 2>/dev/null || echo 0)
echo $((tries + 1)) >tries-$me
trap 'echo saved; exit 143' TERM
await() { echo "I wait"; touch waits-$me; for i in {1..300}; do sleep 0.1; done; }
case $me in
"""


@pytest.fixture
def worker(place):
    def write(*cases):
        lines = [f"{i}) {case} ;;" for i, case in enumerate(cases)]
        (place.path / "worker.sh").write_text(WORKER + "\n".join([*lines, "esac", ""]))
        return place

    return write


def log(place, process):
    return (place.path / "logs" / f"process-{process}.log").read_text()


def test_all_run_with_their_number_devices_and_log(worker):
    place = worker("echo zero", "echo one >&2", "echo two")
    done = place.run(*OPTIONS, "--config.a=b c", "--port=18476", XLA_FLAGS="--xla_more")
    assert done.code == 0, done.err
    assert log(place, 1) == (
        "cpu --xla_more --xla_force_host_platform_device_count=2"
        " train --config=configs/plain.py --workdir=run --config.a=b c"
        " --coordinator=127.0.0.1:18476 --processes=3 --process=1\none\n"
    )
    assert {"[process-0] zero", "[process-1] one", "[process-2] two"} <= {*done.out.splitlines()}


def test_one_process_is_left_as_it_is(place):
    (place.path / "worker.sh").write_text('echo "${JAX_PLATFORMS-none} $*"\n')
    options = ["--config=configs/plain.py:arm", "--workdir=run", "--verb=decode", "--logs=logs"]
    done = place.run("local", *options, "--program=bash worker.sh")
    assert done.code == 0, done.err
    assert log(place, 0) == "none decode --config=configs/plain.py:arm --workdir=run\n"


def test_the_failure_of_one_ends_all_and_is_shown(worker):
    place = worker("await", 'echo "no key x" >&2; sleep 0.5; exit 2', "await")
    done = place.run(*OPTIONS)
    assert done.code == 2
    assert "process-1 failed (exit code 2)" in done.err
    assert "  process-1 | no key x" in done.err
    assert log(place, 0).endswith("I wait\nsaved\n") and log(place, 2).endswith("saved\n")
    assert "another try would not change" in done.err and "restart" not in done.err


def test_those_that_end_because_of_another_are_not_the_cause(worker):
    place = worker(
        "sleep 0.3; exit 134", "sleep 1; echo 'disk full'; exit 2", "sleep 0.3; exit 134"
    )
    done = place.run(*OPTIONS)
    assert done.code == 2
    assert "process-1 failed (exit code 2)" in done.err and "  process-1 | disk full" in done.err
    assert "process-0 failed" not in done.err


def test_a_killed_process_is_begun_again_with_the_others(worker):
    place = worker(
        "[[ $tries -gt 0 ]] || await", "sleep 0.4; [[ $tries -gt 0 ]] || kill -KILL $$", "true"
    )
    done = place.run(*OPTIONS)
    assert done.code == 0, done.err
    assert "process-1 failed (exit code 137, SIGKILL)" in done.err
    assert "restart 1 of 3 in 0 s" in done.err
    assert [(place.path / f"tries-{i}").read_text() for i in range(3)] == ["2\n"] * 3


def test_restarts_are_bounded_and_their_waits_grow(worker):
    place = worker("exit 137", "await", "await")
    done = place.run(*OPTIONS, "--restarts=2", "--wait=1")
    assert done.code == 137
    assert "restart 1 of 2 in 1 s" in done.err and "restart 2 of 2 in 2 s" in done.err
    assert "given up after 2 restarts" in done.err
    assert (place.path / "tries-0").read_text() == "3\n"


def test_the_report_is_of_the_last_attempt(worker):
    place = worker('echo "attempt $tries"; exit 137', "await", "await")
    done = place.run(*OPTIONS, "--restarts=1")
    assert done.err.count("  process-0 | attempt 0") == 1
    assert log(place, 0).count("attempt") == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_launcher_has_all_save(worker, number, code):
    place = worker("await", "await", "await")
    process = place.start(*OPTIONS)
    while len(list(place.path.glob("waits-*"))) < 3:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    assert all(log(place, i).endswith("saved\n") for i in range(3))
    assert "restart" not in err


@pytest.mark.slow
def test_what_does_not_end_when_asked_is_killed(worker):
    place = worker("trap '' TERM; await", "sleep 1; exit 3", "await")
    done = place.run(*OPTIONS, "--restarts=0")
    assert done.code == 3
    assert log(place, 0).endswith("I wait\n")


def test_a_second_signal_ends_at_once(worker):
    place = worker("trap '' TERM; await", "trap '' TERM; await", "trap '' TERM; await")
    process = place.start(*OPTIONS)
    while len(list(place.path.glob("waits-*"))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)  # returns when no process holds the pipes
    assert process.returncode == 130
