"""A whole run in this process: it learns, goes on, and refuses what does not belong to it."""

import shutil

import jax
import numpy as np
import pytest

from marker_lm.decoding.load import load_engine
from marker_lm.training import loop, run
from marker_lm.training.checkpoints import CheckpointError, load_about
from marker_lm.training.guard import TrainingDiverged
from marker_lm.training.loop import due, train
from marker_lm.training.metrics import read_metrics
from marker_lm.training.optimizer import make_optimizer
from tests.tiny import TAXONOMY, tiny_config


def mesh_config(data, **changes):
    config = tiny_config(data, **changes).unlock()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    return config


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """(folder of data, workdir) of a finished run; both are its own."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(data, folder / "data")
    lines = []
    config = mesh_config(data, eval_every=10, save_every=10)
    facts = train(config, folder / "run", lines.append)
    return config, folder / "run", facts, lines


def test_the_loss_falls(finished):
    _, workdir, facts, lines = finished
    records = read_metrics(workdir)
    losses = [r["loss"] for r in records]
    assert [r["step"] for r in records] == list(range(1, facts["steps"] + 1))
    assert not facts["stopped"] and facts["parameters"] > 1000
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert all(r["answer_nats"] > 0 and r["marker_nats"] > 0 for r in records)
    assert any("4 rows are longer than train.length=128 and are left out" in line for line in lines)
    assert any("on 8 device(s)" in line for line in lines)


def test_held_out_rows_are_measured(finished):
    _, workdir, facts, _ = finished
    found = {r["step"]: r for r in read_metrics(workdir) if "eval_answer_nats" in r}
    assert sorted(found) == [10, 20, 30, facts["steps"]]
    assert found[30]["eval_answer_nats"] < found[10]["eval_answer_nats"]
    assert found[10]["loss"] > 0 and found[10]["eval_marker_nats"] > 0


def test_a_finished_run_has_nothing_to_do(finished):
    config, workdir, facts, _ = finished
    before = read_metrics(workdir)
    again = train(config, workdir, lambda line: None)
    assert again["steps"] == facts["steps"]
    assert read_metrics(workdir) == before


def test_steps_end_the_run_and_its_schedule(data, tmp_path, monkeypatch):
    scheduled = []

    def spy(config, steps):
        scheduled.append(steps)
        return make_optimizer(config, steps)

    monkeypatch.setattr(run, "make_optimizer", spy)
    facts = train(mesh_config(data, steps=3, eval_every=0), tmp_path / "run", lambda line: None)
    assert facts["steps"] == 3 and scheduled == [3]
    assert [r["step"] for r in read_metrics(tmp_path / "run")] == [1, 2, 3]


def test_more_steps_than_the_epochs_have_are_no_more(finished):
    config, workdir, facts, _ = finished
    config = config.copy_and_resolve_references()
    config.train.steps = facts["steps"] + 10
    assert train(config, workdir, lambda line: None)["steps"] == facts["steps"]


def test_the_checkpoint_can_be_decoded_with(finished):
    config, workdir, facts, _ = finished
    engine, found = load_engine(workdir)
    assert load_about(workdir / "checkpoints")["step"] == facts["steps"]
    assert found.arm == "markers" and engine.layout.prompt_side == ("lang", "task", "size", "words")


def test_what_is_measured(finished):
    _, workdir, facts, _ = finished
    records = read_metrics(workdir)
    assert all(0 <= r["padding_share"] < 1 and 0 <= r["data_wait_share"] <= 1 for r in records)
    assert all(0 < r["goodput"] < 1 and r["lost_steps"] == 0 for r in records)
    assert all("useful_token_mfu" not in r for r in records)  # the peak of a CPU is not known


def test_time_is_a_reason_to_save_and_a_profile_is_taken(data, tmp_path):
    config = mesh_config(data, save_every=0, save_minutes=1e-9, keep=9, batch=8, epochs=1)
    config.train.update(profile_at=2, profile_steps=1)
    config.model.layers = 1
    steps = train(config, tmp_path, lambda line: None)["steps"]
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    # What is wished at one step is done at the next, and a save begins the time anew.
    assert saved == [*range(2, steps, 2), steps][-9:]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "layers", 3, "trained with model="),
        ("markers", "marker_dropout", 0.25, "trained with markers="),
        ("train", "batch", 8, "trained with train.batch=4, the config says 8"),
        ("data", "share", 0.5, "trained on other data"),
        (None, "seed", 1, "trained with seed=0, the config says 1"),
        (None, "arm", "baseline", "trained with arm=markers, the config says baseline"),
    ],
)
def test_another_config_is_refused_and_nothing_is_touched(finished, section, key, value, message):
    config, workdir, _, _ = finished
    config = config.copy_and_resolve_references()
    (config[section] if section else config)[key] = value
    before = read_metrics(workdir)
    with pytest.raises(CheckpointError, match=message):
        train(config, workdir, lambda line: None)
    assert read_metrics(workdir) == before


def test_another_taxonomy_is_refused_before_the_data_is_prepared_anew(finished, tmp_path):
    config, workdir, _, _ = finished
    config = config.copy_and_resolve_references()
    path = tmp_path / "other.yaml"
    path.write_text(TAXONOMY.replace("ja: Japanese", "ja: Japanese\n      fr: French"), "utf-8")
    config.taxonomy = str(path)
    with pytest.raises(CheckpointError, match="another taxonomy .*lang: value 'fr' is added"):
        train(config, workdir, lambda line: None)
    load_engine(workdir)  # its tokenizer and data are still there


def test_a_run_that_diverges_stops_and_saves_nothing_broken(data, tmp_path, monkeypatch):
    def broken(*args):
        step = real(*args)

        def call(state, batch):
            at = int(state["step"])
            state, metrics = step(state, batch)
            if at >= 5:
                state["params"] = jax.tree.map(lambda x: x * np.nan, state["params"])
                metrics["loss"] = np.float32(np.nan)
            return state, metrics

        return call

    real = loop.compile_step
    monkeypatch.setattr(loop, "compile_step", broken)
    config = mesh_config(data, save_every=3, log_every=10, loss_blocks=1)
    config.model.layers = 1
    with pytest.raises(TrainingDiverged, match="the loss of step 6 is nan; lower train.learn"):
        train(config, tmp_path, lambda line: None)
    # Step 6 was to be saved and was not: a checkpoint full of NaN could never go on.
    assert load_about(tmp_path / "checkpoints")["step"] == 3


def test_due():
    assert [step for step in range(1, 10) if due(step, 3)] == [3, 6, 9]
    assert not any(due(step, 0) for step in range(1, 10))
