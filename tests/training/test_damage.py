"""A checkpoint with any one file damaged is named, and the one before it is used."""

import shutil

import jax
import numpy as np
import pytest

from marker_lm.decoding.load import load_engine
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    find_sound,
    load_about,
    load_params,
    resume_step,
    set_aside,
)
from marker_lm.training.loop import train
from marker_lm.training.metrics import read_metrics
from marker_lm.training.step import abstract_state, new_state
from tests.tiny import tiny_config
from tests.training.test_checkpoints import ABOUT, MODEL, OPTIMIZER, same


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


WAYS = {way.__name__: way for way in (truncate, empty, delete, flip)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints of the steps 1 and 2, and the state that both hold."""
    folder = tmp_path_factory.mktemp("saved")
    state = new_state(MODEL, OPTIMIZER, make_mesh(fsdp=4, tensor=2), 0)
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, ABOUT)
    return folder, state


@pytest.fixture
def copy(saved, tmp_path):
    """Gives a fresh copy of the checkpoints."""

    def make():
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(saved[0], folder)

    return make


@pytest.mark.parametrize("way", WAYS)
def test_damage_of_any_file_is_found(saved, copy, way):
    names = sorted(
        path.relative_to(saved[0] / "2").as_posix()
        for path in (saved[0] / "2").rglob("*")
        if path.is_file()
    )
    assert len(names) > 15 and "sums.0-of-1.json" in names and "_CHECKPOINT_METADATA" in names
    for name in names:
        folder = copy()
        WAYS[way](folder / "2" / name)
        lines = []
        assert resume_step(folder, lines.append) == 1, name
        [line] = lines
        assert line.startswith(f"checkpoint 2 in {folder} ") and name in line
        # Decoding does not read the optimizer: of its files it looks at the sizes.
        unread = name.startswith("optimizer/") and way == "flip"
        assert find_sound(folder, parts=("params",), log=lines.append) == (2 if unread else 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["params/d/*", "params/manifest.ocdbt", "_CHECKPOINT_METADATA"])
def test_parameters_come_from_the_one_before(saved, copy, way, file, capsys):
    folder, (_, state) = copy(), saved
    [path] = (folder / "2").glob(file)
    WAYS[way](path)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state["params"]
    )
    assert load_about(folder)["step"] == 1
    assert same(load_params(folder, abstract), state["params"])
    assert path.name in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=f"checkpoint 2 in .* is damaged .*{path.name}"):
        load_about(folder, 2)


def test_where_all_are_damaged_nothing_is_begun_anew(copy):
    folder = copy()
    flip(folder / "1" / "params" / "_METADATA")
    truncate(folder / "2" / "params" / "_METADATA")
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
        resume_step(folder, print)


def test_what_was_not_finished_is_passed_over(copy):
    folder, lines = copy(), []
    for step in (1, 2):
        (folder / str(step) / "sums.0-of-1.json").unlink()
    assert resume_step(folder, lines.append) == 0
    assert "checkpoint 2" in lines[0] and "was not saved to its end" in lines[0]


def test_what_is_set_aside_makes_room(saved, copy):
    folder, (_, state) = copy(), saved
    for _ in range(2):  # a second one takes the place of the first
        flip(folder / "2" / "params" / "_METADATA")
        set_aside(folder, 1, print)
        assert sorted(p.name for p in folder.iterdir()) == ["1", "2.damaged"]
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.latest_step() == 1
            checkpoints.save(2, state, ABOUT)
        assert resume_step(folder, print) == 2
    mesh = make_mesh()
    with Checkpoints(folder) as checkpoints:
        assert same(checkpoints.restore(2, abstract_state(MODEL, OPTIMIZER, mesh)), state)


def test_what_a_kill_left_of_a_deletion_is_removed(copy):
    folder = copy()
    (folder / "1" / "sums.0-of-1.json").unlink()
    assert resume_step(folder, print) == 2
    set_aside(folder, 2, print)
    assert [p.name for p in folder.iterdir()] == ["2"]


@pytest.mark.slow
def test_a_run_goes_on_from_the_one_before(data, tmp_path):
    config = tiny_config(data, batch=8, epochs=1, save_every=5).unlock()
    config.model.layers = 1
    train(config, tmp_path, lambda line: None)
    before, saves = read_metrics(tmp_path), tmp_path / "checkpoints"
    end = before[-1]["step"]
    [file] = (saves / str(end) / "params" / "d").iterdir()
    flip(file)
    load_engine(tmp_path)  # decodes with step 5
    lines = []
    train(config, tmp_path, lines.append)
    assert any(f"checkpoint {end} in" in line and file.name in line for line in lines)
    assert "going on from step 5" in lines
    after = read_metrics(tmp_path)
    assert [(r["step"], r["loss"]) for r in after] == [(r["step"], r["loss"]) for r in before]
    assert after[-1]["lost_steps"] == end - 5
    assert sorted(p.name for p in saves.iterdir()) == ["5", str(end), f"{end}.damaged"]
    np.testing.assert_equal(load_about(saves)["step"], end)
