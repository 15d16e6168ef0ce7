"""Names of pods."""

import os

import pytest

from marker_lm.plan.topology import CHIPS, PlanError, parse_topology, prepare_environment


@pytest.mark.parametrize(
    ("name", "chips", "shown"),
    [
        ("v5e:4x4", 16, "v5e:4x4"),
        ("V6E:2x2", 4, "v6e:2x2"),
        ("v5p:2x2x4", 16, "v5p:2x2x4"),
        ("tpu7x:2x2x4", 16, "tpu7x:2x2x4"),
        ("TPU7x:4x4x8", 128, "tpu7x:4x4x8"),
        ("v5e:16x16*2", 512, "v5e:16x16*2"),
        ("v5e:1x1", 1, "v5e:1x1"),
        ("v5e:2x2*1", 4, "v5e:2x2"),
    ],
)
def test_names(name, chips, shown):
    topology = parse_topology(name)
    assert topology.chips == chips
    assert str(topology) == shown
    assert parse_topology(str(topology)) == topology


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e", "is not CHIP:SHAPE"),
        ("h100:8", "TPUs|no chip 'h100'"),
        ("v5f:4x4", "no chip 'v5f'.*nearest: v5"),
        ("v5e:4x4x4", "2 sides.*nearest is v5e:8x8"),
        ("v5p:4x4", "3 sides.*nearest is v5p:2x2x4"),
        ("v5e:3x3", "even.*nearest is v5e:2x4"),
        ("v5e:1x4", "even.*nearest is v5e:2x2"),
        ("v5e:16x32", "none over 16.*nearest is v5e:16x16"),
        ("v5e-16", "nearest is v5e:4x4"),
        ("v5p-128", "nearest is v5p:4x4x8"),
        ("v5e-512*2", r"nearest is v5e:16x16\*2"),
        ("v5e:2x2*0", "even"),
    ],
)
def test_names_that_are_none(name, said):
    with pytest.raises(PlanError, match=said):
        parse_topology(name)


def test_devices_of_a_chip_share_its_memory():
    assert CHIPS["tpu7x"].devices == 2
    for chip in CHIPS.values():
        assert 0 < chip.hbm_bytes < 200 * 2**30


def test_without_the_compiler_there_is_one_sentence(monkeypatch):
    for name in ("TPU_LIBRARY_PATH", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PlanError, match=r"pip install 'marker-lm\[tpu\]'"):
        prepare_environment()
    assert "JAX_PLATFORMS" not in os.environ
