"""Runs commands under limits, watches what they use, and ends all that they started."""

import os
import resource
import select
import signal
import time

from isolation import PR_SET_NO_NEW_PRIVS, become_nobody, libc

POLL_SECONDS = 0.02  # how long memory and processes may grow unseen


def limit_resources(job: dict, seconds: float, isolated: bool) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: job["memory_bytes"],
        resource.RLIMIT_FSIZE: job["folder_bytes"],
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CPU: int(seconds) * os.cpu_count() + 1,
    }
    if isolated:
        limits[resource.RLIMIT_NPROC] = job["processes"]
    for name, value in limits.items():
        _, hard = resource.getrlimit(name)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def start(job: dict, step: dict, folder: str, isolated: bool, drop: bool, pipes: list) -> int:
    """Forks the step's first process: its id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for number, (_, end) in enumerate(pipes, start=1):
            os.dup2(end, number)
        os.closerange(3, 1024)
        if isolated:
            become_nobody(drop)
        limit_resources(job, step["seconds"], isolated)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.chdir(folder)
        os.execvpe(step["argv"][0], step["argv"], job["env"])
    except BaseException as error:  # nothing of this copy of the program may live on
        os.write(2, f"sandbox: {step['argv'][0]}: {error}\n".encode())
    finally:
        os._exit(127)


def usage() -> tuple[int, int]:
    """(bytes of memory, tasks) of all processes of the namespace but this one."""
    pages = tasks = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                with open(f"/proc/{name}/stat") as f:
                    # After the name, which may hold anything: field 20 is threads, 24 is pages.
                    fields = f.read().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            tasks += int(fields[17])
            pages += int(fields[21])
    return pages * resource.getpagesize(), tasks


def end_all(group: int) -> None:
    """Kills what a step left running, whatever session it hides in, and reaps it."""
    alone = os.getpid() == 1  # of a namespace: only then is "all processes" the step's own
    while True:
        try:
            os.kill(-1, signal.SIGKILL) if alone else os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def read(ready: list, live: set, output: dict, left: int) -> int:
    """Reads what is there, at most `left` bytes; how many are left, below 0 for a flood."""
    for reader in ready:
        block = os.read(reader, 1 << 16)
        if not block:
            live.discard(reader)
        output[reader] += block[: max(left, 0)]
        left -= len(block)
    return left


def reap(child: int) -> int | None:
    """Buries the dead; the exit code of `child` if it is among them, minus a signal's number."""
    status, pid = None, -1
    while pid != 0 and status is None:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == child:
            status = os.waitstatus_to_exitcode(code)
    return status


def run(job: dict, step: dict, folder: str, isolated: bool, drop: bool) -> dict:
    """Runs one step under the limits; its outcome."""
    pipes = [os.pipe(), os.pipe()]
    begin = time.monotonic()
    child = start(job, step, folder, isolated, drop, pipes)
    for reader, writer in pipes:
        os.close(writer)
        os.set_blocking(reader, False)
    output = {reader: bytearray() for reader, _ in pipes}
    live = set(output)
    left, status, stopped, peak, looked = job["output_bytes"], None, None, 0, 0.0
    while status is None and stopped is None:
        ready, _, _ = select.select(live, (), (), POLL_SECONDS)
        left = read(ready, live, output, left)
        status = reap(child)
        now = time.monotonic()
        if isolated and status is None and now - looked > POLL_SECONDS:
            looked = now
            memory, tasks = usage()
            peak = max(peak, memory)
            if memory > job["memory_bytes"]:
                stopped = "memory"
            elif tasks >= job["processes"]:
                stopped = "processes"
        if left < 0:
            stopped = "output"
        elif status is None and stopped is None and now - begin > step["seconds"]:
            stopped = "time"
        if not live and status is None:
            time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - begin
    end_all(child)
    while left >= 0 and (ready := select.select(live, (), (), 0)[0]):  # written before the end
        left = read(ready, live, output, left)
        if left < 0:
            stopped = stopped or "output"
    for reader in output:
        os.close(reader)
    out, err = (bytes(text).decode("utf-8", "replace") for text in output.values())
    return {
        "stopped": stopped,
        "status": status,
        "stdout": out,
        "stderr": err,
        "seconds": seconds,
        "peak_bytes": peak,
    }


def run_steps(job: dict, folder: str, isolated: bool, drop: bool) -> list[dict]:
    outcomes = []
    for step in job["steps"]:
        outcomes.append(run(job, step, folder, isolated, drop))
        if outcomes[-1]["stopped"] or outcomes[-1]["status"] != 0:
            break
    return outcomes
