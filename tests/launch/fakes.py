"""Stand-ins for gcloud, kubectl, xpk, docker and SLURM's commands, told by a scenario what happens.

Each is a copy of this file under the command's name; FAKES names a folder with scenario.json and
what they remember: `calls`, one JSON list of words a line.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["FAKES"])
NAME = Path(sys.argv[0]).name
WORDS = sys.argv[1:]
SCENARIO = json.loads((HERE / "scenario.json").read_text())


def option(name: str) -> str:
    return next((w.split("=", 1)[1] for w in WORDS if w.startswith(f"--{name}=")), "")


def remembered(file: str, default: str = "") -> str:
    path = HERE / file
    return path.read_text() if path.exists() else default


def count(name: str) -> int:
    """How often this was counted before."""
    with open(HERE / f"count-{name}", "a+") as file:
        file.write("x")
        return file.tell() - 1


def act(what: dict) -> int:
    """A process of the program: prints, and ends with a code, or waits for SIGTERM."""
    (HERE / f"pid-{os.getpid()}").touch()
    signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(143)))
    print(what.get("says", "trained"), flush=True)
    if "code" not in what:
        time.sleep(60)
    time.sleep(what.get("after", 0.3))
    if "state" in what:
        (HERE / "state").write_text(what["state"])
    (HERE / f"pid-{os.getpid()}").unlink()
    return what["code"]


def gcloud() -> int:
    verb = WORDS[3]
    if WORDS[:2] == ["container", "clusters"]:
        return 0
    if verb == "create":
        if "create_fails" in SCENARIO:
            print(SCENARIO["create_fails"], file=sys.stderr)
            return 1
        (HERE / "state").write_text("WAITING_FOR_RESOURCES")
    elif verb == "describe":
        state = remembered("state")
        if not state:
            print("ERROR: (gcloud) NOT_FOUND: no such resource", file=sys.stderr)
            return 1
        print(state)
        if state == "WAITING_FOR_RESOURCES":
            (HERE / "state").write_text("READY" if WORDS[2] == "tpu-vm" else "ACTIVE")
    elif verb == "delete":
        (HERE / "state").unlink()
    elif verb == "scp" and count("copies") < SCENARIO.get("unreachable", 0):
        return 1
    elif verb == "scp":
        shutil.copy(WORDS[4], HERE / "source.tar.gz")
    elif verb == "ssh" and "pkill -TERM" in option("command"):
        for file in HERE.glob("pid-*"):
            os.kill(int(file.name[4:]), signal.SIGTERM)
    elif verb == "ssh" and option("worker") != "all":
        host = f"{option('node') or 0}.{option('worker')}"
        attempts = SCENARIO.get("hosts", {}).get(host, [{"code": 0}])
        return act(attempts[min(count(host), len(attempts) - 1)])
    return 0


def kubectl() -> int:
    if WORDS[0] == "create" and "create_fails" in SCENARIO:
        print(SCENARIO["create_fails"], file=sys.stderr)
        return 1
    if WORDS[0] == "create":
        shutil.copy(option("filename"), HERE / "manifest.yaml")
    looks = SCENARIO["looks"]
    look = looks[min(len(remembered("count-looks")), len(looks) - 1)]
    if WORDS[:2] == ["get", "pods"]:
        names = option("output").endswith("{.items[*].metadata.name}")
        print(" ".join(look["pods"]) if names else "\n".join(SCENARIO["ended"]))
    elif WORDS[:2] == ["get", "jobset"]:
        count("looks")
        if "status" not in look:
            print("Unable to connect to the server", file=sys.stderr)
            return 1
        print(look["status"])
    elif WORDS[0] == "logs":
        print(SCENARIO["logs"][WORDS[-1]])
    return 0


def sbatch() -> int:
    job = next(i for i, word in enumerate(WORDS) if word.endswith("slurm_job.sh"))
    (HERE / "state").write_text("PENDING 0")
    with open(option("output"), "a") as log:
        command = [sys.executable, __file__, "job", *WORDS[job:]]
        subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    print(f"{4200 + count('jobs')};cluster")
    return 0


def run_job() -> int:
    """What SLURM does with a job: runs it, and again while it is requeued."""
    for restarts in range(9):
        (HERE / "state").write_text("RUNNING 0")
        (HERE / "requeued").unlink(missing_ok=True)
        about = {"SLURM_JOB_ID": "4200", "SLURM_RESTART_COUNT": str(restarts)}
        job = subprocess.Popen(["bash", *WORDS[1:]], env=os.environ | about)
        (HERE / "job").write_text(str(job.pid))
        code = job.wait()
        if not (HERE / "requeued").exists():
            break
    if remembered("state") != "CANCELLED 0":
        after = SCENARIO.get("states", [])
        state = after[min(count("ends"), len(after) - 1)] if after else ""
        (HERE / "state").write_text(f"{state or ('FAILED' if code else 'COMPLETED')} {code}")
    return 0


def srun() -> int:
    command = WORDS[next(i for i, word in enumerate(WORDS) if not word.startswith("-")) :]
    (HERE / "command").write_text(json.dumps(command))
    tasks = []
    for task in range(2):
        with open(option("output").replace("%t", str(task)), "a") as log:
            one = [sys.executable, __file__, "task", str(task)]
            tasks.append(subprocess.Popen(one, stdout=log, stderr=log))
    while None in (codes := [task.poll() for task in tasks]) and not any(codes):
        time.sleep(0.05)
    for i, (task, code) in enumerate(zip(tasks, codes, strict=True)):
        if code is None and any(codes):
            task.terminate()
        elif code:
            print(f"srun: error: node{i}: task {i}: Exited with exit code {code}", file=sys.stderr)
    return max(task.wait() % 256 for task in tasks)


def run_task() -> int:
    attempts = SCENARIO["tasks"][int(WORDS[1])]
    return act(attempts[min(count(f"task{WORDS[1]}"), len(attempts) - 1)])


def scontrol() -> int:
    if WORDS[0] == "requeue":
        (HERE / "requeued").touch()
    else:
        state, code = remembered("state").split()
        print(f"JobId={WORDS[-1]} JobName=x JobState={state} Restarts=0 ExitCode={code}:0")
    return 0


def scancel() -> int:
    (HERE / "state").write_text("CANCELLED 0")
    for pid in [remembered("job"), *(file.name[4:] for file in HERE.glob("pid-*"))]:
        os.kill(int(pid), signal.SIGTERM)
    return 0


def main() -> int:
    if WORDS[0] in ("job", "task"):  # begun by the stand-ins for sbatch and srun
        return run_job() if WORDS[0] == "job" else run_task()
    with open(HERE / "calls", "a") as calls:
        calls.write(json.dumps([NAME, *WORDS]) + "\n")
    does = {"gcloud": gcloud, "kubectl": kubectl, "sbatch": sbatch, "srun": srun}
    does |= {"scontrol": scontrol, "scancel": scancel}
    return does.get(NAME, lambda: 0)()


if __name__ == "__main__":
    sys.exit(main())
