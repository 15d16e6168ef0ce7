"""The benchmark of the training step runs: both sides compute the same, or it says why not."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).with_name("train_step.py"))


def output(*options):
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.extra
@pytest.mark.slow
def test_ours_and_theirs_go_through_the_same_losses():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    found = output("--rows=2", "--length=64", "--rounds=1", "--steps=3")
    assert "| marker_lm |" in found and "| transformers + PyTorch |" in found
    assert "ours is" in found and "2 threads" in found


def test_without_a_gpu_it_is_one_sentence():
    found = output("--gpu")
    assert found.count("\n") == 1 and "JAX finds no GPU here" in found
