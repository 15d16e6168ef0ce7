"""Runs `marker-lm train` in forks of a process that has imported all of it: they start at once.

Each line of stdin is a JSON list: the file for what the run says, and its arguments. A line of
stdout has the fork's process id, another one its exit code.
"""

import json
import os
import sys
import traceback

from marker_lm.__main__ import main
from marker_lm.training import dry_run, loop  # noqa: F401


def run(log: str, arguments: list[str]) -> int:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        code = main(["train", *arguments])
        assert not {"tensorflow", "seqio"} & set(sys.modules), "training loaded TensorFlow"
        return code
    except BaseException:
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()  # before JAX has a backend, and with it threads
        if pid == 0:
            os._exit(run(*json.loads(line)))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
