"""`marker-lm show`: the batches of training, from an unprepared config on."""

import pytest

from tests.cli.conftest import CONFIG, one_sentence, tiny_overrides
from tests.pages import Page


@pytest.fixture(scope="module")
def options(data, tmp_path_factory):
    """Of a run that nothing has been done for yet."""
    workdir = tmp_path_factory.mktemp("show")
    return [f"--config={CONFIG}:markers", f"--workdir={workdir}", *tiny_overrides(data)]


def test_plain_text_of_an_unprepared_config(call, options):
    result = call("show", *options, "--no-color", "--rows=1")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert any(line.startswith("train: 160 rows") for line in lines)  # it was prepared first
    [head] = [line for line in lines if line.startswith("step 0 of ")]
    assert "8 sequences of 128 slots" in head and "% filled" in head
    assert sum(line.startswith("sequence ") for line in lines) == 1
    assert any(line.startswith("    [prompt w=0 n=") for line in lines)
    assert any(line.startswith("    [completion_markers w=1 n=") for line in lines)
    assert any(line.startswith("    [completion w=1 n=") and "<eos>" in line for line in lines)
    assert "FAULT" not in result.out and "\x1b" not in result.out


def test_it_is_the_batch_of_training(call, trained):
    first = call("show", *trained.options, "--no-color", "--step=1", "--rows=8")
    again = call("show", *trained.options, "--no-color", "--step=1", "--rows=8")
    other = call("show", *trained.options, "--no-color", "--step=2", "--rows=8")
    assert first.out == again.out != other.out
    assert "prepared already" in first.out
    assert any("[dropped] " in line for line in first.out.splitlines())


def test_colours_strike_out_what_was_dropped(call, options, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = call("show", *options, "--rows=8")
    [line, *_] = [line for line in result.out.splitlines() if "[dropped]" in line]
    assert "\x1b[9;31m" in line


def test_token_borders(call, options):
    result = call("show", *options, "--no-color", "--tokens", "--rows=1")
    assert "s·a·y· ·" in result.out


def test_page(call, options, tmp_path):
    path = tmp_path / "batch.html"
    result = call("show", *options, f"--html={path}", "--rows=3")
    assert result.code == 0 and str(path) in result.out
    page = Page(path.read_text("utf-8"))
    assert page.tags.count("section") == 4 and "Training batch 0, arm markers" in page.text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("slip", "words"),
    [("--step=999", "outside the training, 0 to "), ("--rows=0", "--rows=0 must be 1 or more")],
)
def test_slips(call, options, slip, words):
    assert words in one_sentence(call("show", *options, slip))
