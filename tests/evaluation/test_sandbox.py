"""What a program in the sandbox cannot do, and that it is told apart from a plain failure."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from marker_lm.evaluation import sandbox
from marker_lm.evaluation.sandbox import Limits, SandboxError, Step, check_sandbox, run_sandboxed
from marker_lm.evaluation.toolchains import toolchain

PYTHON = toolchain("python")


@pytest.fixture(autouse=True, scope="module")
def contained():
    try:
        check_sandbox()
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def run(code: str, seconds: float = 60, **limits):
    step = Step([sys.executable, "program.py"], seconds)
    files = {"program.py": code}
    return run_sandboxed(files, [step], Limits(**limits), PYTHON.mounts)[-1]


def verdict(outcome):
    return (outcome.kind, outcome.which) if outcome.which else outcome.kind


def test_a_program_runs_alone_as_nobody_in_an_empty_folder():
    found = run(
        "import os\n"
        "print(os.getcwd(), sorted(os.listdir()), os.getuid(), os.environ['HOME'])\n"
        "print([p for p in os.listdir('/proc') if p.isdigit()])\n"
        "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')][:3])\n"
        "print('SECRET' in os.environ)\n"
    )
    assert found.stdout.splitlines() == [
        "/sandbox ['program.py', 'tmp'] 65534 /sandbox",
        "['1', '2']",
        "['0000000000000000', '0000000000000000', '0000000000000000']",
        "False",
    ]
    assert found.kind == "ok" and found.status == 0


def test_a_fork_bomb_is_contained():
    begin = time.monotonic()
    # It neither dies nor waits where a fork fails.
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    assert verdict(run(bomb, processes=40)) == ("contained", "processes")
    assert time.monotonic() - begin < 50


def test_threads_count_as_processes():
    code = "import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()"
    assert verdict(run(code, processes=30)) == ("contained", "processes")


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(10**10)",
        "x = []\nwhile True: x.append(b'1' * 10**6 + bytes([len(x) % 256]))",
        "import mmap\nx = mmap.mmap(-1, 10**10)\nwhile True: x.write(b'1' * 10**6)",
        # Each process alone is under the limit.
        "import os\nwhile os.fork() == 0: x = b'1' * (100 << 20)\nos.wait()",
    ],
    ids=["asked for", "filled", "shared", "of many processes"],
)
def test_ten_gigabytes_are_contained(code):
    assert verdict(run(code, memory_mib=300)) == "out of memory"


def test_an_endless_loop_is_stopped_in_time():
    found = run("while True: pass", seconds=1)
    assert verdict(found) == "timed out" and found.status is None
    assert 1 <= found.seconds < 10


def test_what_a_program_leaves_running_ends_with_it():
    name = f"left{os.getpid()}"
    found = run(
        "import subprocess, sys\n"
        f"code = 'import time; time.sleep(100)  # {name}'\n"
        "subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
    )
    assert found.kind == "ok" and found.seconds < 50
    assert name not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout


def test_a_network_call_is_contained():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        found = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))")
        assert verdict(found) == ("contained", "network")
        with pytest.raises(TimeoutError):
            server.accept()
    found = run("import urllib.request\nurllib.request.urlopen('http://example.com')")
    assert verdict(found) == ("contained", "network")


def test_the_home_folder_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("secret")
    found = run(f"print(open({str(tmp_path / 'key')!r}).read())")
    assert verdict(found) == ("contained", "home")
    assert "secret" not in found.stdout


@pytest.mark.parametrize("folder", ["/", "/etc", "/usr", "/dev", sys.base_prefix])
def test_a_write_outside_of_the_folder_is_contained(folder):
    path = os.path.join(folder, f"marker_lm_{os.getpid()}")
    assert verdict(run(f"open({path!r}, 'w').write('x')")) == ("contained", "files")
    assert not os.path.exists(path)


def test_the_temporary_folder_is_its_own(tmp_path):
    path = f"/tmp/marker_lm_{os.getpid()}"
    assert run(f"open({path!r}, 'w').write('x')").kind == "ok"
    assert not os.path.exists(path)


def test_what_is_mounted_below_the_temporary_folder_leaves_that_its_own():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shown = os.path.join(folder, "shown")
        os.mkdir(shown)
        with open(os.path.join(shown, "a"), "w") as f:
            f.write("seen")
        code = f"print(open('{shown}/a').read()); open('/tmp/b', 'w'); open('{shown}/b', 'w')"
        step = Step([sys.executable, "-c", code], 60)
        [found] = run_sandboxed({}, [step], mounts=[*PYTHON.mounts, shown])
        assert found.stdout == "seen\n"
        assert verdict(found) == ("contained", "files") and f"{shown}/b" in found.stderr
        assert os.listdir(folder) == ["shown"] and os.listdir(shown) == ["a"]


@pytest.mark.parametrize(
    "code",
    [
        "i = 0\nwhile True: open(f'f{i}', 'w'); i += 1",
        "f = open('f', 'wb')\nwhile True: f.write(bytes(10**6))",
    ],
    ids=["many", "large"],
)
def test_files_are_limited(code):
    assert verdict(run(code, folder_mib=8, files=200)) == ("contained", "files")


def test_output_is_limited():
    found = run("while True: print('x' * 1000)", output_kib=16)
    assert verdict(found) == ("contained", "output")
    assert len(found.stdout) == 16 * 1024
    just = run("print('x' * (16 * 1024 - 1))", output_kib=16)
    assert just.kind == "ok" and len(just.stdout) == 16 * 1024


def test_a_program_gets_no_rights_back():
    found = run(
        "import ctypes, os, signal\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.unshare(0x10000000), os.strerror(ctypes.get_errno()))\n"
        "try: os.kill(1, signal.SIGKILL)\n"
        "except PermissionError: pass\n"
        "try: print(open('/proc/1/environ').read())\n"
        "except PermissionError: print('denied')\n"
        "try: open('/proc/sys/user/max_user_namespaces', 'w').write('9')\n"
        "except OSError: print('denied')\n"
    )
    assert found.stdout.splitlines() == ["-1 No space left on device", "denied", "denied"]


def test_steps_run_in_turn_up_to_one_that_fails():
    steps = [Step(["/bin/sh", "-c", c], 20) for c in ("echo 1 > a", "cat a; exit 3", "echo no")]
    first, second = run_sandboxed({}, steps)
    assert (first.kind, second.kind, second.status, second.stdout) == ("ok", "failed", 3, "1\n")


def test_a_plain_failure_is_no_containment():
    assert verdict(run("raise ValueError('no')")) == "failed"
    assert run("import os\nos.abort()").status == -6
    assert run_sandboxed({}, [Step(["/no/such"], 5)])[0].status == 127


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_file_names_stay_below_the_folder(name):
    with pytest.raises(SandboxError, match="leads out of the program's folder"):
        run_sandboxed({name: ""}, [])


def test_a_machine_without_namespaces_is_refused_by_name(tmp_path, monkeypatch):
    inside = tmp_path / "inside.py"
    inside.write_text(
        'print(\'{"error": "leaving the machine\\\'s namespaces: Operation not permitted"}\')'
    )
    monkeypatch.setattr(sandbox, "_INSIDE", inside)
    check_sandbox.cache_clear()
    with pytest.raises(SandboxError) as error:
        run_sandboxed({}, [Step(["/bin/true"], 5)])
    check_sandbox.cache_clear()
    assert "namespaces: Operation not permitted" in str(error.value)
    assert "unsafe=True" in str(error.value)


def test_files_larger_than_the_folder_are_refused():
    with pytest.raises(SandboxError, match="its folder holds 1,048,576"):
        run_sandboxed({"a": "x" * (1 << 20) + "x"}, [], Limits(folder_mib=1))


@pytest.mark.skipif(
    os.getuid() != 0 or not os.path.exists("/usr/bin/python3"),
    reason="only root can become a user that may not read root's Python",
)
def test_an_ordinary_user_needs_no_rights():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        inside = shutil.copytree(sandbox._INSIDE, os.path.join(folder, "inside"))
        command = (
            "id -u; echo x > file; cat file; echo x > /etc/x; ls /home /root; head -c1 /etc/shadow"
        )
        job = sandbox._job({}, [Step(["/bin/sh", "-c", command], 30)], Limits(), ())
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-S", inside],
            input=json.dumps(job | {"env": {"PATH": "/usr/bin:/bin"}}),
            capture_output=True,
            text=True,
            user=65534,
            group=65534,
            extra_groups=[],
        )
    (found,) = json.loads(done.stdout)["outcomes"]
    assert found["stdout"] == "65534\nx\n"
    said = found["stderr"]
    assert "Read-only file system" in said
    assert said.count("No such file") == said.count("/home") + said.count("/root") + 1


def test_unsafe_runs_with_the_limits_that_are_left():
    def run(code: str, seconds: float = 30, **limits):
        step = Step([sys.executable, "program.py"], seconds)
        return run_sandboxed({"program.py": code}, [step], Limits(**limits), unsafe=True)[0]

    assert run("print(open('program.py').read())").kind == "ok"
    assert run("while True: pass", seconds=0.5).kind == "timed out"
    assert run("x = bytearray(10**10)", memory_mib=300).kind == "out of memory"
    assert verdict(run("while True: print('x')", output_kib=4)) == ("contained", "output")
