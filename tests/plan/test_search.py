"""Layouts that a search goes through; what it compiles is in test_plan.py."""

import collections
import dataclasses

import pytest

from configs.default import get_config
from marker_lm.model.config import ModelConfig
from marker_lm.plan.search import (
    Layout,
    estimated_memory,
    estimated_seconds,
    layouts,
    varied,
)
from marker_lm.plan.topology import parse_topology

MODEL = ModelConfig(
    vocab=151_936, width=1024, layers=28, heads=16, kv_heads=8, head_size=128, ff=3072, max_len=2048
)


def run(batch=128, length=2048):
    config = get_config()
    config.train.update(batch=batch, length=length)
    return config


@pytest.mark.parametrize("name", ["v5e:4x4", "tpu7x:2x2x1", "v5e:4x4*2"])
def test_every_layout_is_one_that_training_takes(name):
    topology, config = parse_topology(name), run()
    devices = topology.chips * topology.chip.devices
    found = list(layouts(MODEL, config, topology))
    assert len(found) > 100 and len(set(found)) == len(found)
    for layout in found[::37]:
        parts = topology.slices * layout.data * layout.fsdp
        assert parts * layout.context * layout.tensor == devices
        assert config.train.batch % (parts * layout.accumulate) == 0
        tokens = config.train.batch // parts // layout.accumulate * 2048 // layout.context
        assert tokens % layout.loss_blocks == 0
        assert MODEL.width % (layout.fsdp * layout.context) == 0
        applied = layout.applied(config, topology)
        assert applied.mesh.slice == topology.slices
        assert applied.mesh.fsdp == layout.fsdp and applied.model.remat == layout.remat
    assert config.mesh.fsdp == 1  # the config itself is left alone


def test_a_batch_that_nothing_divides_has_no_layout():
    assert not list(layouts(MODEL, run(batch=7, length=100), parse_topology("v5e:4x4")))


BASE = Layout(1, 16, 1, 1, 1, "full", 1, 16)


def estimates(**change):
    layout, topology = dataclasses.replace(BASE, **change), parse_topology("v5e:4x4")
    return (
        estimated_memory(MODEL, run(), topology, layout),
        estimated_seconds(MODEL, run(), topology, layout),
    )


@pytest.mark.parametrize(
    ("change", "memory", "seconds"),
    [
        ({"remat": "none"}, 1, -1),
        ({"remat": "offload"}, -1, 0),
        ({"accumulate": 4}, -1, 1),
        ({"data": 16, "fsdp": 1}, 1, -1),
        ({"loss_blocks": 64}, -1, 0),
        ({"ff_blocks": 8}, -1, 0),
    ],
)
def test_which_way_a_switch_moves(change, memory, seconds):
    for before, after, sign in zip(
        estimates(), estimates(**change), (memory, seconds), strict=True
    ):
        assert (after > before) - (after < before) == sign


def test_no_mesh_takes_all_tries():
    found = [(0.0, 0, layout) for layout in layouts(MODEL, run(), parse_topology("v5e:4x4"))]
    chosen = varied(found, 9)
    meshes = collections.Counter((e[2].data, e[2].fsdp, e[2].context, e[2].tensor) for e in chosen)
    assert len(chosen) == 9 and max(meshes.values()) == 3
