"""The program's front: help, verbs, slips in the arguments."""

import subprocess
import sys

import pytest

from marker_lm.__main__ import VERBS
from tests.cli.conftest import CONFIG, one_sentence


def test_help_lists_the_verbs(call):
    result = call("--help")
    assert result.code == 0
    for verb, summary in VERBS.items():
        assert verb in result.out and summary.split(",")[0] in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_an_example(call, verb):
    result = call(verb, "--help")
    assert result.code == 0
    example = [
        line for line in result.out.splitlines() if line.startswith(f"  marker-lm {verb} --")
    ]
    assert example, result.out


def test_help_and_slips_do_not_wait_for_jax():
    """In a fresh process, since this one has imported all."""
    program = f"""
import sys
from marker_lm.__main__ import VERBS, main
for argv in (["--help"], *([verb, "--help"] for verb in VERBS), ["train", "--nonsense"],
             ["train", "--config={CONFIG}", "--workdir=/tmp/none", "--config.train.bach=3"]):
    try:
        main(argv)
    except SystemExit:
        pass
print("HEAVY", sorted({{"jax", "flax", "tensorflow", "seqio", "grain"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "VERB"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "--config, --workdir"),
        (["decode", "--workdir=x"], "--prompts --prompt"),
        (["decode", "--workdir=x", "--prompt=x", "--botch=3"], "unknown argument '--botch=3'"),
        (["report", "--results=x", "--config.seed=3"], "unknown argument '--config.seed=3'"),
        (["score", "--workdir=x", "--rows=x", "stray"], "unknown argument 'stray'"),
        (["decode", "--workdir=x", "--prompt=x", "--step=two"], "invalid int value: 'two'"),
    ],
)
def test_slips_in_the_arguments(call, argv, words):
    result = call(*argv)
    assert result.code == 2 and words in result.err
    assert "Traceback" not in result.err


def test_a_slip_is_shown_whole_when_asked_for(call, monkeypatch):
    monkeypatch.setenv("MARKER_LM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no config"):
        call("train", "--config=none.py", "--workdir=x")


def test_an_output_that_is_a_folder(call, trained, tmp_path):
    result = call("decode", f"--workdir={trained.workdir}", "--prompt=x", f"--out={tmp_path}")
    assert "Is a directory" in one_sentence(result)


def test_report_of_what_is_no_report(call, tmp_path):
    path = tmp_path / "report.json"
    assert "there is no" in one_sentence(call("report", f"--results={path}"))
    path.write_text("{oops")
    assert "is not a report.json" in one_sentence(call("report", f"--results={path}"))
    path.write_text("[1]")
    assert "it holds no object" in one_sentence(call("report", f"--results={path}"))
