"""Launches in a folder of their own, where no real gcloud, kubectl or sbatch can be reached."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKES = Path(__file__).with_name("fakes.py")
CLOUD = {"gcloud", "kubectl", "xpk", "docker", "sbatch", "srun", "scontrol", "scancel"}


@pytest.fixture(scope="session")
def tools(tmp_path_factory):
    """A folder with the commands of this machine, but for those that reach a cluster."""
    folder = tmp_path_factory.mktemp("tools")
    for place in ("/usr/local/bin", "/usr/bin", "/bin"):
        for file in Path(place).iterdir() if Path(place).is_dir() else ():
            if file.name not in CLOUD and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture
def place(tmp_path, tools):
    """A repository with launch/ and two configs; `run` launches there.

    `has` gives stand-ins for commands of a cluster and says by the scenario what happens; `calls`
    are the words of every call to them.
    """
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.py").write_text('TOPOLOGY = "v5e:4x4"\n')
    (tmp_path / "configs" / "plain.py").write_text("\n")
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    env = {
        "PATH": f"{fakes}:{tools}",
        "HOME": str(tmp_path),
        "FAKES": str(fakes),
        "PYTHONPATH": str(ROOT),
    }

    def has(*commands, **scenario):
        for command in commands:
            file = fakes / command
            file.write_text(f"#!{sys.executable} -S\n" + FAKES.read_text())
            file.chmod(0o755)
        (fakes / "scenario.json").write_text(json.dumps(scenario))

    def start(*words, **more):
        command = [tmp_path / "launch" / "run.sh", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            ["launch/run.sh", *map(str, command[1:])], cwd=tmp_path, env=env | more, **pipes
        )

    def run(*words, timeout=150, **more):
        process = start(*words, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return SimpleNamespace(code=process.returncode, out=out, err=err)

    def calls(*begin):
        file = fakes / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [words for words in map(json.loads, lines) if words[: len(begin)] == list(begin)]

    return SimpleNamespace(
        path=tmp_path, fakes=fakes, env=env, has=has, start=start, run=run, calls=calls
    )


def commit(place) -> None:
    """Makes the place a git repository that tracks its files."""
    about = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a"}
    env = os.environ | about | {"GIT_COMMITTER_EMAIL": "a@b", "HOME": str(place.path)}
    place.env.update({k: v for k, v in env.items() if k.startswith("GIT_")})
    for words in (["init", "-q"], ["add", "configs", "launch"], ["commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=place.path, env=env, check=True)
