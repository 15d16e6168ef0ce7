"""A tiny run, made through the command line, that the tests of this folder share."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from marker_lm.__main__ import main
from tests.tiny import write_data

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "default.py"


def tiny_overrides(data: Path) -> list[str]:
    """Overrides of configs/default.py: a model that trains in seconds on the rows in `data`."""
    values = {
        "taxonomy": data / "taxonomy.yaml",
        "template": "compact",
        "data.tasks.rows.train": data / "train.jsonl",
        "data.tasks.rows.heldout": data / "heldout.jsonl",
        "data.tokenizer": "bytes",
        "data.separator": "\n",
        "train.length": 128,
        "train.batch": 8,
        "train.epochs": 1,
        "train.loss_blocks": 1,
        "train.eval_every": 0,
        "decode.batch": 8,
        "decode.max_tokens": 8,
        "eval.rows": 6,
        **{"model.width": 16, "model.layers": 2, "model.heads": 2, "model.kv_heads": 1},
        **{"model.head_size": 8, "model.ff": 32, "model.dtype": "float32"},
    }
    return [f"--config.{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Rows and their taxonomy; for reading only."""
    return write_data(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def call(capsys):
    """Runs a command in this process; gives its exit code and what it printed."""

    def run(*argv):
        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as ended:  # argparse
            code = ended.code
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return run


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """The workdir of a finished run of about ten steps, and the options it was made with."""
    workdir = tmp_path_factory.mktemp("run")
    options = [f"--config={CONFIG}:markers", f"--workdir={workdir}", *tiny_overrides(data)]
    assert main(["train", *options]) == 0
    return SimpleNamespace(workdir=workdir, options=options)


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").rstrip("\n").split("\n")]


def one_sentence(result, code=2) -> str:
    """The message of a command that failed: one line, no traceback."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("marker-lm")]
    assert len(lines) == 1 and result.err.rstrip().endswith(lines[0])
    return lines[0]
