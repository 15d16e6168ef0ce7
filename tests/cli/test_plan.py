"""`marker-lm plan` up to the compiler; the rest is in tests/plan/test_plan.py."""

import pytest

from tests.cli.conftest import CONFIG, one_sentence


@pytest.fixture
def with_compiler(monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--topology=v5e:3x3"], "nearest is v5e:2x4"),
        (["--topology=h100:8"], "no chip 'h100'"),
        ([], "no topology: give --topology=v5e:4x4"),
        (["--spare=1.5"], "must be a share"),
        (["--search", "--tries=0"], "must be 1 or more"),
        (["--topologies=v5e:4x4,nope"], "is not CHIP:SHAPE"),
        (["--topologies=v5e:4x4", "--search"], "leave out --search"),
        (["--topology=v5e:4x4", "--price=v5e"], "is not CHIP=PRICE"),
        (["--topology=v5e:4x4", "--price=v9=1"], "is not CHIP=PRICE"),
    ],
)
def test_slips_are_one_sentence(call, with_compiler, given, said):
    assert said in one_sentence(call("plan", f"--config={CONFIG}", *given))


def test_without_the_compiler(call, monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "libtpu" else find(name, *a)
    )
    result = call("plan", f"--config={CONFIG}", "--topology=v5e:4x4")
    assert "pip install 'marker-lm[tpu]'" in one_sentence(result)


def test_help_teaches(call):
    result = call("plan", "--help")
    assert result.code == 0
    for word in ("v5e:16x16*2", "--search", "bounds", "Exit code", "without a TPU"):
        assert word in result.out
