"""Imports run one way, and training and decoding start without TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "marker_lm"
# Every package may import itself and these. `cli` is the top and may import all.
ALLOWED = {
    "markers": set(),
    "data": {"markers"},
    "annotate": {"markers", "data"},
    "model": set(),
    "sharding": {"model"},
    "training": {"markers", "data", "model", "sharding", "convert"},
    "decoding": {"markers", "data", "model", "sharding", "convert", "training"},
    "evaluation": {"markers", "annotate", "data", "model", "sharding", "training", "decoding"},
    "experiment": {
        *("markers", "annotate", "data", "model", "sharding", "training", "decoding", "evaluation")
    },
    "convert": {"markers", "data", "model", "sharding"},
    "plan": {"markers", "data", "model", "sharding", "convert", "training", "decoding"},
}
# Modules that stand beside the packages: they import nothing of ours, and all but markers use them.
BESIDE = {file.stem for file in ROOT.glob("*.py")} - {"__init__", "__main__"}
NOT_IN_MARKERS = {"jax", "flax", "tensorflow", "seqio", "torch"}
WITH_TENSORFLOW = {"data/tasks.py", "data/vocabularies.py"}
WITH_BEAM = {"annotate/beam.py", "data/beam.py"}


def imports(tree):
    """(name, at the top of the module) of everything a module imports, also inside functions."""
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full, not relative"
            yield from ((f"{node.module}.{alias.name}", node not in inner) for alias in node.names)


def faults(place, source):
    """What is wrong with the imports of a file at `place` below marker_lm."""
    package = place.split("/")[0].removesuffix(".py")
    allowed = {package} | ALLOWED.get(package, set())
    allowed |= BESIDE if package in ALLOWED and package != "markers" else set()
    for name, at_top in imports(ast.parse(source)):
        first, *rest = name.split(".")
        if first == "configs" and package != "cli":
            yield f"{place} imports {name}"
        if first == "marker_lm" and rest and rest[0] not in allowed:
            if package in {*ALLOWED, *BESIDE}:
                yield f"{place} imports {name}"
        if first in NOT_IN_MARKERS and package == "markers":
            yield f"{place} imports {name}"
        tensorflow = {"tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text"}
        if first in tensorflow and place not in WITH_TENSORFLOW:
            yield f"{place} imports {name}"
        tasks = ("marker_lm.data.tasks", "marker_lm.data.vocabularies")
        if name.startswith(tasks) and at_top and place not in WITH_TENSORFLOW:
            yield f"{place} imports {name} at its top"


def test_imports_run_one_way():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 5
    found = []
    for file in files:
        found += faults(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))
    assert found == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("markers/x.py", "from marker_lm.data import cache"),
        ("markers/x.py", "def f():\n  import jax.numpy as jnp"),
        ("model/x.py", "import marker_lm.training.loop"),
        ("training/x.py", "from marker_lm.decoding.engine import Engine"),
        ("evaluation/x.py", "from marker_lm.cli import common"),
        ("data/x.py", "import configs.demo"),
        ("data/loader.py", "import tensorflow as tf"),
        ("cli/prepare.py", "from marker_lm.data.tasks import spans"),
        ("cli/prepare.py", "from marker_lm.data import tasks"),
    ],
)
def test_the_rules_can_be_broken(place, source):
    assert list(faults(place, source))


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("cli/prepare.py", "def f():\n  from marker_lm.data.tasks import spans"),
        ("data/tasks.py", "import seqio\nfrom marker_lm.data.vocabularies import flatten"),
        ("evaluation/x.py", "from marker_lm.decoding.engine import Engine\nimport jax"),
    ],
)
def test_what_the_rules_allow(place, source):
    assert not list(faults(place, source))


def modules(*packages):
    """Names of all modules of the packages, but for those that need TensorFlow or an extra."""
    for package in packages:
        for file in sorted((ROOT / package).glob("*.py")):
            place = file.relative_to(ROOT).as_posix()
            if place not in WITH_TENSORFLOW | WITH_BEAM and file.stem != "__init__":
                yield f"marker_lm.{package}.{file.stem}"


def loaded_after(names, watched):
    code = (
        f"import importlib, sys\nfor name in {list(names)!r}: importlib.import_module(name)\n"
        f"print([name for name in {watched!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_training_and_decoding_start_without_tensorflow():
    names = list(modules("data", "training", "decoding"))
    assert "marker_lm.data.cache" in names
    assert loaded_after(names, ["tensorflow", "seqio"]) == []


def test_markers_start_without_jax():
    names = list(modules("markers"))
    assert loaded_after(names, ["jax", "flax", "tensorflow", "seqio"]) == []
