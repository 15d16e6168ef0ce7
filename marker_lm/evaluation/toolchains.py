"""The compilers and interpreters of this machine, as the sandbox needs them."""

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from marker_lm.evaluation.sandbox import FOLDER, Step, mounts_of


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """How programs of a language are run.

    Attributes:
      file: name of a program's file.
      compile: command, or None where nothing is compiled beforehand.
      run: command.
      mounts: what the sandbox must show.
      env: environment variables.
      extra: further files of each program.
    """

    file: str
    run: Sequence[str]
    compile: Sequence[str] | None = None
    mounts: Sequence[str] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def steps(self, seconds: float) -> list[Step]:
        """Compiling, if any, and running: each may take `seconds` of wall time."""
        commands = [command for command in (self.compile, self.run) if command]
        return [Step(command, seconds) for command in commands]


class MissingToolchain(ValueError):
    """Programs of a language can't be run on this machine; a sentence that says why."""


def _find(program: str, language: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise MissingToolchain(f"no {language} here: '{program}' is not installed")
    return path


def _python() -> Toolchain:
    mounts = {sys.prefix, sys.base_prefix, *mounts_of(sys.executable)}
    return Toolchain(
        "test.py",
        [sys.executable, "-B", "test.py"],
        mounts=[path for path in mounts if path != "/usr"],
        env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )


def _js() -> Toolchain:
    node = _find("node", "JavaScript")
    # One problem wants the package js-md5; this is what it does.
    md5 = "module.exports = (s) => require('crypto').createHash('md5').update(s).digest('hex')"
    extra = {"node_modules/js-md5/index.js": md5}
    return Toolchain("test.js", [node, "test.js"], mounts=mounts_of(node), extra=extra)


_SMALL_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xmx1g")


def _java() -> Toolchain:
    javac, java = _find("javac", "Java"), _find("java", "Java")
    settings = [str(path) for path in Path("/etc").glob("java*")]  # the JDK of Debian links there
    return Toolchain(
        "Main.java",
        [java, *_SMALL_JVM, "-cp", ".", "Main"],
        [javac, *(f"-J{option}" for option in _SMALL_JVM), "Main.java"],
        mounts=[*mounts_of(javac), *mounts_of(java), *settings],
    )


def _cpp() -> Toolchain:
    compiler = _find("g++", "C++")
    return Toolchain(
        "test.cpp",
        ["./test"],
        # MD5 of OpenSSL is what one problem is about; only a program that uses it needs it.
        [compiler, "-std=c++11", "test.cpp", "-o", "test", "-Wl,--as-needed", *_crypto()],
        mounts=mounts_of(compiler),
    )


def _crypto() -> list[str]:
    found = subprocess.run(
        ["g++", "-print-file-name=libcrypto.so"], capture_output=True, text=True, check=True
    )
    return ["-lcrypto", "-lssl"] if os.path.isabs(found.stdout.strip()) else []


@functools.cache
def has_header(header: str) -> bool:
    """Whether the C++ compiler finds a header, such as 'boost/any.hpp'."""
    found = subprocess.run(
        ["g++", "-fsyntax-only", "-x", "c++", "-"],
        input=f"#include <{header}>\n",
        capture_output=True,
        text=True,
    )
    return found.returncode == 0


# All that the tests use of testify, which would have to be downloaded; equal as it defines it.
_TESTIFY = """\
package assert

import (
	"bytes"
	"reflect"
	"testing"
)

type Assertions struct{ t *testing.T }

func New(t *testing.T) *Assertions { return &Assertions{t} }

func (a *Assertions) Equal(expected, actual interface{}, _ ...interface{}) bool {
	a.t.Helper()
	e, isBytes := expected.([]byte)
	equal := reflect.DeepEqual(expected, actual)
	if g, ok := actual.([]byte); isBytes && ok {
		equal = bytes.Equal(e, g)
	}
	if !equal {
		a.t.Errorf("expected %#v, got %#v", expected, actual)
	}
	return equal
}
"""


def _go() -> Toolchain:
    go = _find("go", "Go")
    root = subprocess.run([go, "env", "GOROOT"], capture_output=True, text=True).stdout.strip()
    return Toolchain(
        "main_test.go",
        ["./test"],
        [go, "test", "-c", "-o", "test"],
        mounts=[*mounts_of(go), *([] if root.startswith("/usr/") else [root])],
        env={"GOCACHE": f"{FOLDER}/tmp/go", "GOPATH": f"{FOLDER}/tmp/path", "GOROOT": root}
        | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOMAXPROCS": "2", "CGO_ENABLED": "0"},
        extra={
            "go.mod": "module example\n\ngo 1.18\n\nrequire github.com/stretchr/testify v1.0.0\n\n"
            "replace github.com/stretchr/testify => ./testify\n",
            "testify/go.mod": "module github.com/stretchr/testify\n\ngo 1.18\n",
            "testify/assert/assert.go": _TESTIFY,
        },
    )


# The crates that every program of HumanEval-X imports.
_CARGO = """\
[package]
name = "humaneval"
version = "0.1.0"
edition = "2021"

[lib]
path = "lib.rs"

[dependencies]
rand = "0.4"
regex = "1"
md5 = "0.7.0"
"""


def rust_crates() -> Path:
    """The folder where `build_rust_crates` puts rand, regex and md5."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "marker_lm", "rust")


def build_rust_crates(folder: Path, manifest: str = _CARGO) -> None:
    """Has cargo fetch and build the crates that Rust programs import, once a machine.

    Raises MissingToolchain with cargo's reason, as where crates.io can't be reached.
    """
    cargo = _find("cargo", "Rust")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Cargo.toml").write_text(manifest)
    (folder / "lib.rs").write_text("")
    built = subprocess.run(
        [cargo, "build", "--quiet", "--manifest-path", folder / "Cargo.toml"],
        capture_output=True,
        text=True,
        env={**os.environ, "CARGO_TARGET_DIR": str(folder / "target"), "CARGO_NET_RETRY": "0"},
    )
    if built.returncode != 0:
        reason = " ".join(built.stderr.split())[:200]
        raise MissingToolchain(
            f"no Rust here: its programs import the crates rand, regex and md5, and cargo could not"
            f" build them in {folder} ({reason})"
        )


def _rust() -> Toolchain:
    rustc = _find("rustc", "Rust")
    # Under rustup, `rustc` is a shim that looks for a home folder.
    found = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True)
    if found.returncode != 0:
        raise MissingToolchain(f"no Rust here: {rustc} says {found.stderr.strip()[:200]}")
    inner = os.path.join(found.stdout.strip(), "bin", "rustc")
    rustc = inner if os.path.exists(inner) else rustc
    _find("cc", "Rust")  # it links with it
    folder = rust_crates()
    deps = folder / "target" / "debug" / "deps"
    names = ("rand", "regex", "md5")
    crates = {name: sorted(deps.glob(f"lib{name}-*.rlib")) for name in names}
    if not all(crates.values()):
        build_rust_crates(folder)
        crates = {name: sorted(deps.glob(f"lib{name}-*.rlib")) for name in names}
    links = [a for name, files in crates.items() for a in ("--extern", f"{name}={files[-1]}")]
    options = ["--edition", "2021", "-A", "warnings", "-L", f"dependency={deps}", *links]
    return Toolchain(
        "main.rs",
        ["./test"],
        [rustc, "--test", "main.rs", "-o", "test", *options],
        mounts=[*mounts_of(rustc), str(deps)],
    )


_MAKE: Mapping[str, Callable[[], Toolchain]] = {
    "python": _python,
    "js": _js,
    "java": _java,
    "go": _go,
    "cpp": _cpp,
    "rust": _rust,
}


@functools.cache
def toolchain(language: str) -> Toolchain | MissingToolchain:
    """A language's toolchain on this machine, or why there is none."""
    try:
        return _MAKE[language]()
    except MissingToolchain as missing:
        return missing
