"""The inner half of the sandbox: a program of its own, started by sandbox.py; no other package.

It reads a job (JSON) on stdin, leaves the machine's namespaces, becomes process 1 of its own,
builds a root folder of what the job may see, and runs the job's steps in turn, each as a nobody
without rights. It writes a report (JSON) on stdout. The rest of the package never imports it.
"""

import json
import os
import signal
import sys

from isolation import (
    FOLDER,
    NOBODY,
    PR_SET_PDEATHSIG,
    SetupError,
    build_root,
    leave_namespaces,
    libc,
)
from steps import run_steps


def write_files(job: dict, folder: str, owner: int | None) -> None:
    for name in ["tmp/", *job["files_text"]]:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not name.endswith("/"):
            with open(path, "w", encoding="utf-8", errors="surrogatepass") as f:
                f.write(job["files_text"][name])
    if owner is not None:
        for parent, _, names in os.walk(folder):
            for path in [parent, *(os.path.join(parent, name) for name in names)]:
                os.chown(path, owner, owner)


def main() -> None:
    job = json.load(sys.stdin)
    os.umask(0o022)
    if job["folder"]:  # told to do without isolation
        write_files(job, job["folder"], None)
        print(json.dumps({"outcomes": run_steps(job, job["folder"], isolated=False, drop=False)}))
        return
    try:
        drop = leave_namespaces()
    except SetupError as error:
        print(json.dumps({"error": str(error)}))
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        owner = NOBODY if drop else 0
        build_root(job, owner)
        write_files(job, FOLDER, owner)
        report = {"outcomes": run_steps(job, FOLDER, isolated=True, drop=drop)}
    except (SetupError, OSError) as error:
        report = {"error": str(error)}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
