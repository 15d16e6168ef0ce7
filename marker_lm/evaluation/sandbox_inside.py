"""The inner half of the sandbox: a program of its own, started by sandbox.py, stdlib only.

It reads a job (JSON) on stdin, leaves the machine's namespaces, becomes process 1 of its own,
builds a root folder of what the job may see, and runs the job's steps in turn, each as a nobody
without rights. It writes a report (JSON) on stdout. It is never imported by the rest of the
package.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import select
import signal
import sys
import time

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442  # the same on every architecture; Linux 5.12 and later
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
NOBODY = 65534
FOLDER = "/sandbox"  # where a program runs
POLL_SECONDS = 0.02  # how long memory and processes may grow unseen
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64")
ETC = ("alternatives", "ld.so.cache", "localtime")
DEVICES = ("null", "zero", "full", "random", "urandom")

libc = ctypes.CDLL(None, use_errno=True)


class SetupError(Exception):
    """A protection that this machine does not offer: what was tried and why it failed."""


def call(what: str, result: int) -> None:
    """Checks the result of a libc call."""
    if result != 0:
        raise SetupError(f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    args = [x.encode() if x is not None else None for x in (source, target, kind)]
    call(f"mounting {target}", libc.mount(*args, ctypes.c_ulong(flags), options.encode()))


def make_read_only(path: str, recursive: bool = True) -> None:
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    result = libc.syscall(
        SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, ctypes.sizeof(attributes)
    )
    call(f"making {path} read-only", result)


def write(path: str, text: str) -> None:
    try:
        with open(path, "w") as f:
            f.write(text)
    except OSError as error:
        raise SetupError(f"writing {path}: {error.strerror}") from None


def leave_namespaces() -> bool:
    """Leaves the machine's network, processes, mounts and so on.

    Root needs no user namespace for that. Says whether the steps can become another user, nobody;
    else they stay this one, in a namespace where it has no rights.
    """
    spaces = (
        CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    )
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and libc.unshare(spaces) == 0:
        with open("/proc/self/uid_map") as f:
            ranges = [tuple(map(int, line.split())) for line in f]
        return any(first <= NOBODY < first + count for first, _, count in ranges)
    call("leaving the machine's namespaces", libc.unshare(spaces | CLONE_NEWUSER))
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"0 {uid} 1")
    write("/proc/self/gid_map", f"0 {gid} 1")
    return False


def build_root(job: dict, owner: int) -> None:
    """Moves into a new root folder: the system's programs, the job's mounts, an own FOLDER."""
    root = "/tmp"  # of this mount namespace only: the machine's /tmp stays as it is
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    # Sources are opened first: they may lie under /tmp, which the new root covers.
    sources = {path: os.open(path, os.O_PATH) for path in job["mounts"]}
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")

    def bind(source: str, path: str) -> None:
        target = root + path
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "x").close()
        mount(source, target, None, MS_BIND | MS_REC)

    for name in SYSTEM:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            bind(f"/{name}", f"/{name}")
            make_read_only(f"{root}/{name}")
    for name in ETC:
        if os.path.exists(f"/etc/{name}"):
            bind(f"/etc/{name}", f"/etc/{name}")
            make_read_only(f"{root}/etc/{name}")
    for path, source in sorted(sources.items()):
        bind(f"/proc/self/fd/{source}", path)
        make_read_only(root + path)
        os.close(source)
    for name in DEVICES:
        bind(f"/dev/{name}", f"/dev/{name}")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    for name in ("passwd", "group"):
        with open(f"{root}/etc/{name}", "w") as f:
            tail = f"::{FOLDER}:/bin/false" if name == "passwd" else ""
            f.write(f"nobody:x:{NOBODY}:{NOBODY}{tail}\n" if tail else f"nogroup:x:{NOBODY}:\n")
    for name in ("/proc", FOLDER, "/old"):
        os.mkdir(root + name)
    if not os.path.exists(f"{root}/tmp"):  # something may be mounted below it
        os.symlink(f"{FOLDER}/tmp", f"{root}/tmp")
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    size = f"size={job['folder_bytes']},nr_inodes={job['files']},mode=755"
    mount("tmpfs", root + FOLDER, "tmpfs", MS_NOSUID | MS_NODEV, size)
    number = SYS_PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise SetupError(f"changing the root folder: not known for {platform.machine()}")
    call("changing the root", libc.syscall(number, root.encode(), f"{root}/old".encode()))
    os.chdir("/")
    call("leaving the old root", libc.umount2(b"/old", MNT_DETACH))
    os.rmdir("/old")
    make_read_only("/", recursive=False)
    os.chown(FOLDER, owner, owner)


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


def become_nobody(drop: bool) -> None:
    """Gives up every right; exec drops what is left, as this user has no name in the namespace."""
    if drop:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    # Processes are counted per user and user namespace, so the limit is this step's own; and
    # process 1 cannot be traced from a namespace below it.
    call("leaving the user namespace", libc.unshare(CLONE_NEWUSER))
    write("/proc/sys/user/max_user_namespaces", "0")  # or it could make itself root of another


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
        try:
            write_files(job, FOLDER, owner)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise SetupError("the program's files: larger than its folder may be") from None
        report = {"outcomes": run_steps(job, FOLDER, isolated=True, drop=drop)}
    except (SetupError, OSError) as error:
        report = {"error": str(error)}
    print(json.dumps(report), flush=True)


main()
