"""Checkpoints come back bit for bit, on any mesh; unfinished ones do not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from marker_lm.model.config import ModelConfig
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    absolute,
    has_checkpoint,
    load_about,
    load_params,
)
from marker_lm.training.step import abstract_state, new_state

MODEL = ModelConfig(vocab=16, width=8, layers=2, heads=4, kv_heads=2, head_size=4, ff=8, max_len=16)
OPTIMIZER = optax.adamw(1e-3)
ABOUT = {"config": {"a": [1, 2], "b": {"c": None}}, "taxonomy_hash": "x", "text": "é\n"}


@pytest.fixture(scope="module")
def state():
    """A state in which no array is all zeros, laid out on 2x2x2 devices."""
    made = new_state(MODEL, OPTIMIZER, make_mesh(2, 2, 2), 0)
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + jnp.asarray(1, x.dtype) / 3, tree))
    floats = add({name: made[name] for name in ("params", "opt_state")})
    fixed = jax.tree.map(lambda x, f: f.astype(x.dtype), {k: made[k] for k in floats}, floats)
    guard = made["guard"] | {"mean": jnp.float32(1.5), "count": jnp.int32(6)}
    return made | fixed | {"step": jnp.int32(7), "guard": guard}


def same(a, b):
    """Whether two trees hold the same bits."""
    equal = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return all(jax.tree.leaves(equal))


def save(folder, state, *steps, keep=2):
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, state, ABOUT | {"saved": step})


@pytest.mark.parametrize("sizes", [(2, 2, 2), (8, 1, 1), (1, 4, 2), None])
def test_a_state_comes_back_on_any_mesh(tmp_path, state, sizes):
    save(tmp_path, state, 7)
    mesh = make_mesh(*sizes) if sizes else make_mesh(devices=jax.devices()[:1])
    abstract = abstract_state(MODEL, OPTIMIZER, mesh)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 7
        found = checkpoints.restore(7, abstract)
    assert same(found, state)
    assert int(found["step"]) == 7
    jax.tree.map(lambda x, a: np.testing.assert_equal(x.sharding, a.sharding), found, abstract)
    params = load_params(tmp_path, abstract["params"])
    assert same(params, state["params"])


def test_the_newest_are_kept(tmp_path, state):
    save(tmp_path, state, 1, 2, 3, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
    save(tmp_path, state, 4, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]


def test_some_are_kept_for_ever(tmp_path, state):
    with Checkpoints(tmp_path, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 11):
            checkpoints.save(step, state, ABOUT)
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [4, 8, 9, 10]


def test_one_alone_is_too_few(tmp_path):
    with pytest.raises(CheckpointError, match="train.keep=1: keep at least 2"):
        Checkpoints(tmp_path, keep=1)


def test_facts_come_back(tmp_path, state):
    save(tmp_path, state, 5, 9)
    assert load_about(tmp_path) == ABOUT | {"saved": 9, "step": 9}
    assert load_about(tmp_path, 5) == ABOUT | {"saved": 5, "step": 5}


def test_what_is_there_already_is_not_saved_again(tmp_path, state):
    save(tmp_path, state, 5)
    other = state | {"step": jnp.int32(8)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, other, {"saved": "again"})
    assert load_about(tmp_path)["saved"] == 5


def test_an_unfinished_save_is_no_checkpoint(tmp_path, state):
    save(tmp_path, state, 5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(6, state, ABOUT)
        names = [p.name for p in tmp_path.iterdir()]
    unfinished = [name for name in names if not name.isdigit()] or ["6.orbax-checkpoint-tmp-1"]
    # As a kill leaves it: the folder of the save that never got its name.
    (tmp_path / "6").rename(tmp_path / unfinished[0])
    assert load_about(tmp_path)["step"] == 5
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 5
        checkpoints.save(6, state, ABOUT)
    assert load_about(tmp_path)["step"] == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["5", "6"]


def test_missing_checkpoints_are_named(tmp_path, state):
    assert not has_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"none holds no checkpoint.*--workdir"):
        load_about(tmp_path / "none")
    (tmp_path / "6.orbax-checkpoint-tmp-1").mkdir()
    assert not has_checkpoint(tmp_path)
    save(tmp_path, state, 3, 4)
    assert has_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no step 5; it has \[3, 4\]"):
        load_about(tmp_path, 5)
    with pytest.raises(CheckpointError, match=r"has no step 5"):
        load_params(tmp_path, None, 5)


def test_a_relative_folder_and_one_with_a_scheme(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("run/checkpoints", state, 3)
    assert load_about(tmp_path / "run" / "checkpoints")["step"] == 3
    assert load_about("run/checkpoints")["saved"] == 3
    assert str(absolute("gs://bucket/run")) == "gs://bucket/run"
