"""Namespaces of its own, a root folder of its own, and no rights."""

import ctypes
import os
import platform

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
    os.mkdir(root + FOLDER)
    size = f"size={job['folder_bytes']},nr_inodes={job['files']},mode=755"
    mount("tmpfs", root + FOLDER, "tmpfs", MS_NOSUID | MS_NODEV, size)
    os.mkdir(f"{root}{FOLDER}/tmp")
    bind(f"{root}{FOLDER}/tmp", "/tmp")  # before what the job may see, which may lie below it
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
    for name in ("/proc", "/old"):
        os.mkdir(root + name)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    number = SYS_PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise SetupError(f"changing the root folder: not known for {platform.machine()}")
    call("changing the root", libc.syscall(number, root.encode(), f"{root}/old".encode()))
    os.chdir("/")
    call("leaving the old root", libc.umount2(b"/old", MNT_DETACH))
    os.rmdir("/old")
    make_read_only("/", recursive=False)
    os.chown(FOLDER, owner, owner)


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
