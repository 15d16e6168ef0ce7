"""Runs code that nobody vouches for, such as a model's, where it can do no harm. Linux only.

A program gets namespaces of its own (user, processes, network, mounts, IPC, host name), so it has
no network, sees no process but its own, and finds a root folder that holds the system's programs,
read-only, what the caller mounts, read-only, and /sandbox: a folder in memory that ends with it. No
home folder is there. It runs as nobody, without rights and without a way to get any; time, memory,
processes, open and written files, the size of the folder and the output are limited. It needs no
rights of its own and no installed tool, but a kernel (5.14 and later) that lets users make user
namespaces, or root.

What it does not do: hide the kernel itself (a hole there is a hole here), bound the time a program
takes from others, or count memory that no process has mapped.
"""

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "FOLDER",
    "Limits",
    "Outcome",
    "SandboxError",
    "Step",
    "check_sandbox",
    "mounts_of",
    "run_sandboxed",
]

MIB = 1 << 20
FOLDER = "/sandbox"  # where a program runs, as it sees it; isolation.py has the same
_INSIDE = Path(__file__).with_name("sandbox_inside")  # a folder with __main__.py
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/")
_START_SECONDS = 30  # to build the root folder, on a busy machine
_MEND = (
    "User namespaces must be allowed (sysctl user.max_user_namespaces above 0, "
    "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0 where "
    "they exist; in a container --privileged or --cap-add=SYS_ADMIN with an unmasked /proc). "
    "--unsafe (unsafe=True) runs the code without them, with the rights of your user: only in a "
    "machine you can throw away"
)


class SandboxError(ValueError):
    """Code that nobody vouches for cannot be contained here, or its job is wrong."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use. Memory and processes are those of all its processes together.

    Attributes:
      memory_mib: memory in MiB; of a single process also what it only asks for.
      processes: processes and threads.
      folder_mib: size of /sandbox in MiB; it counts against nothing else.
      files: files and folders in /sandbox.
      output_kib: stdout and stderr together, in KiB.
    """

    memory_mib: int = 2048
    processes: int = 128
    folder_mib: int = 256
    files: int = 4096
    output_kib: int = 256


@dataclasses.dataclass(frozen=True)
class Step:
    """A command, run in /sandbox, and the wall time in seconds that it may take."""

    argv: Sequence[str]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
      kind: 'ok' (exit code 0), 'failed', 'timed out', 'out of memory' or 'contained'.
      which: of 'contained', what it was kept from: 'processes', 'output', 'network', 'home' or
        'files' (a write outside of /sandbox, or of more than it holds). Processes and output stop a
        program; the others are read from what a program that failed has said, so a program that
        goes on quietly is not named.
      status: exit code; minus a signal's number; None if the sandbox stopped it.
      stdout, stderr: as far as the limit goes.
      seconds: wall time.
      peak_mib: the most memory seen, in MiB; 0 for a step too short to look at.
    """

    kind: str
    which: str | None
    status: int | None
    stdout: str
    stderr: str
    seconds: float
    peak_mib: float


def run_sandboxed(
    files: Mapping[str, str],
    steps: Sequence[Step],
    limits: Limits = Limits(),
    mounts: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    unsafe: bool = False,
) -> list[Outcome]:
    """Writes `files` into an empty folder and runs `steps` there in turn, up to one that isn't ok.

    Args:
      files: name below the folder -> text.
      steps: commands; the first word is a full path, or found in /usr/local/bin, /usr/bin or /bin.
      limits: what they may use.
      mounts: files and folders that are seen inside under their own path, read-only; the system's
        folders (/usr, /lib, ...) are there already.
      env: environment variables beside PATH, HOME, TMPDIR and LANG; nothing is taken from here.
      unsafe: run with the rights of this user, with the machine's network, home and files in reach.
        Limits of time, memory (of each process), size of a file and output stay.

    Raises SandboxError: the machine does not offer the protections, and `unsafe` is False; or a
    name or a mount is wrong.
    """
    for name in files:
        if name.startswith("/") or ".." in Path(name).parts:
            raise SandboxError(f"the file name '{name}' leads out of the program's folder.")
    for path in mounts:
        if not os.path.exists(path):
            raise SandboxError(f"there is no {path} to be seen inside the sandbox.")
    if not unsafe:
        check_sandbox()
    room = limits.folder_mib * MIB
    if (size := sum(len(text.encode(errors="surrogatepass")) for text in files.values())) > room:
        raise SandboxError(
            f"the program's files have {size:,} bytes; its folder holds"
            f" {room:,} (Limits.folder_mib)."
        )
    job = _job(files, steps, limits, mounts)
    if not unsafe:
        return _outcomes(_run(job, FOLDER, env))
    with tempfile.TemporaryDirectory(prefix="marker_lm_unsafe_") as folder:
        return _outcomes(_run({**job, "folder": folder}, folder, env))


@functools.cache
def check_sandbox() -> None:
    """Raises SandboxError, with what is missing and the mend, where code can't be contained."""
    if sys.platform != "linux":
        raise SandboxError(
            f"code is contained by Linux namespaces, and this is {sys.platform}. {_MEND}."
        )
    release = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])
    if release < (5, 14):
        raise SandboxError(
            f"the limit on processes needs Linux 5.14, and this is {os.uname().release}. {_MEND}."
        )
    job = _job({}, [Step(["/bin/true"], 10)], Limits(), ())
    first = _run(job, FOLDER, None)[0]
    if first["status"] != 0:
        raise SandboxError(
            f"a first program in the sandbox failed ({first['stderr'].strip()}). {_MEND}."
        )


def _job(
    files: Mapping[str, str], steps: Sequence[Step], limits: Limits, mounts: Sequence[str]
) -> dict:
    """What the inner half reads."""
    return {
        "files_text": dict(files),
        "steps": [{"argv": list(step.argv), "seconds": step.seconds} for step in steps],
        "memory_bytes": limits.memory_mib * MIB,
        "processes": limits.processes,
        "folder_bytes": limits.folder_mib * MIB,
        "files": limits.files,
        "output_bytes": limits.output_kib * 1024,
        "mounts": sorted(set(mounts)),
        "folder": None,  # a folder of the machine: run there, without isolation
    }


def _run(job: Mapping, folder: str, env: Mapping[str, str] | None) -> list[dict]:
    """Hands a job to the inner half; its report's outcomes."""
    job = dict(job, env=_environment(folder, env))
    command = [sys.executable, "-I", "-S", "-B", str(_INSIDE)]
    seconds = sum(step["seconds"] for step in job["steps"]) + _START_SECONDS
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={},
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(json.dumps(job).encode(), timeout=seconds)
        except BaseException as error:  # also of Ctrl-C: nothing may run on
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise SandboxError(f"the sandbox did not end in {seconds:.0f} seconds.") from None
            raise
    try:
        report = json.loads(out)
    except ValueError:
        report = {"error": err.decode("utf-8", "replace").strip()[-300:] or "it ended unseen"}
    if "error" in report:
        raise SandboxError(
            "code can't be contained on this machine: network, home and other files and processes"
            f" would be in its reach, for {report['error']}. {_MEND}."
        )
    return report["outcomes"]


def _environment(folder: str, env: Mapping[str, str] | None) -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": f"{folder}/tmp",
        "LANG": "C.UTF-8",
        **(env or {}),
    }


def mounts_of(program: str) -> list[str]:
    """What must be mounted so that a program runs inside: its installation, if not the system's.

    The folder above the program's `bin`, or the program alone where that is a home folder or above.
    """
    mounts = []
    for path in {os.path.abspath(program), os.path.realpath(program)}:
        if path.startswith(_SYSTEM):
            continue
        prefix = os.path.dirname(os.path.dirname(path))
        home = os.path.expanduser("~")
        holds_home = os.path.commonpath([prefix, home]) == prefix
        mounts.append(
            path if holds_home or os.path.basename(os.path.dirname(path)) != "bin" else prefix
        )
    return sorted(mounts)


def _outcomes(report: Sequence[Mapping]) -> list[Outcome]:
    return [
        Outcome(
            *_kind(o["stopped"], o["status"], o["stderr"]),
            o["status"],
            o["stdout"],
            o["stderr"],
            o["seconds"],
            o["peak_bytes"] / MIB,
        )
        for o in report
    ]


# What the common runtimes say when they are denied something.
_SAID = {
    "memory": r"MemoryError|std::bad_alloc|OutOfMemoryError|heap out of memory"
    r"|Array buffer allocation failed|memory allocation of \d+ bytes failed"
    r"|runtime: out of memory|cannot allocate memory|Cannot allocate memory",
    "network": r"Network is unreachable|ENETUNREACH|EAI_AGAIN|network is unreachable"
    r"|Temporary failure in name resolution|UnknownHostException|getaddrinfo",
    "processes": r"BlockingIOError: \[Errno 11\]|can't start new thread|spawn \S+ EAGAIN"
    r"|fork: retry|unable to create native thread|Resource temporarily unavailable",
    "files": r"Read-only file system|EROFS|No space left on device|ENOSPC|File too large",
}


def _kind(stopped: str | None, status: int | None, stderr: str) -> tuple[str, str | None]:
    """(kind, which) of an Outcome."""
    if stopped == "time":
        return "timed out", None
    if stopped == "memory":
        return "out of memory", None
    if stopped:
        return "contained", stopped
    if status == 0:
        return "ok", None
    said = {name for name, pattern in _SAID.items() if re.search(pattern, stderr)}
    if "memory" in said and "processes" not in said:
        return "out of memory", None
    for which in ("network", "processes", "files"):
        if which in said:
            return "contained", which
    home = re.escape(os.path.expanduser("~"))
    lost = r"(?:no such file|permission denied|NoSuchFileException|FileNotFoundError)"
    if re.search(rf"(?im){lost}.*{home}|{home}.*{lost}", stderr):
        return "contained", "home"
    return "failed", None
