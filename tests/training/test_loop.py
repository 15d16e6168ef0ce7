"""A whole run in this process: it learns, goes on, and refuses what does not belong to it."""

import shutil
import signal

import jax
import numpy as np
import pytest

from marker_lm.decoding.load import load_engine
from marker_lm.training import loop
from marker_lm.training.checkpoints import CheckpointError, load_about
from marker_lm.training.loop import TrainingDiverged, Window, due, remember, train
from marker_lm.training.metrics import read_metrics
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


def test_the_checkpoint_can_be_decoded_with(finished):
    config, workdir, facts, _ = finished
    engine, found = load_engine(workdir)
    assert load_about(workdir / "checkpoints")["step"] == facts["steps"]
    assert found.arm == "markers" and engine.layout.prompt_side == ("lang", "task", "size", "words")


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

    real = loop.make_train_step
    monkeypatch.setattr(loop, "make_train_step", broken)
    config = mesh_config(data, save_every=3, log_every=10, loss_blocks=1)
    config.model.layers = 1
    with pytest.raises(TrainingDiverged, match="the loss of step 6 is nan; lower train.learn"):
        train(config, tmp_path, lambda line: None)
    # Step 6 was to be saved and was not: a checkpoint full of NaN could never go on.
    assert load_about(tmp_path / "checkpoints")["step"] == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_what_is_not_finite_is_told(name, value):
    words = {"loss": "loss", "grad_norm": "norm of the gradient"}[name]
    with pytest.raises(TrainingDiverged, match=f"the {words} of step 8 is {value}; lower train.l"):
        Window().add(7, {"loss": 1.0, "grad_norm": 1.0} | {name: np.float32(value)})


def test_window_gives_means_and_takes_pauses_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    window = Window()
    for step, loss in enumerate((1.0, 3.0)):
        window.add(
            step,
            {
                **{"loss": loss, "grad_norm": 2.0, "tokens": 100.0},
                **{"completion_tokens": 10.0, "completion_nats": 10 * loss},
                **{"completion_markers_tokens": 0.0, "completion_markers_nats": 0.0},
            },
        )
        now[0] += 1
    with window.paused():
        now[0] += 50
    assert window.take() == {
        "loss": 2.0,
        "grad_norm": 2.0,
        "tokens_per_second": 100.0,
        "trained_tokens_per_second": 10.0,
        "answer_nats": 2.0,
    }
    assert window.count == 0


def test_due():
    assert [step for step in range(1, 10) if due(step, 3)] == [3, 6, 9]
    assert not any(due(step, 0) for step in range(1, 10))


def test_a_signal_is_remembered_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGUSR1)
    with remember(signal.SIGUSR1) as came:
        assert not came()
        signal.raise_signal(signal.SIGUSR1)
        assert came()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_batch_that_hosts_cannot_share(monkeypatch):
    monkeypatch.setattr(loop.jax, "process_count", lambda: 4)
    monkeypatch.setattr(loop.jax, "process_index", lambda: 3)
    assert loop.host_rows(8) == slice(6, 8)
    with pytest.raises(ValueError, match="train.batch=6 does not divide by 4 hosts"):
        loop.host_rows(6)
