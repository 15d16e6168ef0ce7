"""`marker-lm train` in processes of its own, alone or several as one run."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from marker_lm.training.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]


def write_config(path: Path, data: Path, mesh: dict | None = None, **train) -> Path:
    """A config file of tiny data, see tests.tiny.tiny_config."""
    path.write_text(
        "from tests.tiny import tiny_config\n\n\n"
        "def get_config(arg=''):\n"
        f"    c = tiny_config({str(data)!r}, **{train!r}).unlock()\n"
        f"    c.mesh.update(**{mesh or {}!r})\n"
        "    return c.lock()\n"
    )
    return path


def start(config_file, workdir, devices=1, flags=(), log="log", runner=("-m", "marker_lm")):
    """`marker-lm train` on so many fake devices; it says in `workdir/LOG` what it does."""
    workdir.mkdir(exist_ok=True, parents=True)
    count = f"--xla_force_host_platform_device_count={devices}"
    xla = re.sub(r"--xla_force_host_platform_device_count=\d+", count, os.environ["XLA_FLAGS"])
    with open(workdir / log, "a") as file:
        return subprocess.Popen(
            [
                sys.executable,
                *runner,
                "train",
                f"--config={config_file}",
                f"--workdir={workdir}",
                *flags,
            ],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": xla, "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=file,
        )


def start_several(config_file, workdir, count, devices, **workdirs):
    """One run of so many processes, each with so many devices; their logs are log.0, log.1, ..."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [f"--coordinator=localhost:{port}", f"--processes={count}"]
    return [
        start(
            config_file,
            workdirs.get(f"workdir{i}", workdir),
            devices,
            [*flags, f"--process={i}"],
            f"log.{i}",
        )
        for i in range(count)
    ]


def last_step(workdir) -> int:
    """The last step that the run has reported."""
    records = read_metrics(workdir)
    return records[-1]["step"] if records else 0


def wait_until(come, processes, workdir, seconds=240):
    """Returns when `come()` holds; an error when a process ends before."""
    deadline = time.monotonic() + seconds
    while not come():
        for process in processes:
            assert process.poll() is None, "it ended too early:\n" + logs(workdir)
        assert time.monotonic() < deadline, "it takes too long:\n" + logs(workdir)
        time.sleep(0.002)


def logs(workdir) -> str:
    """All that was said."""
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(workdir.glob("log*")))


def end(processes):
    """Kills what still runs."""
    for process in processes:
        process.kill()
        process.wait()
