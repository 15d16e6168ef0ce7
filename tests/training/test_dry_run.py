"""A dry run says what training would do, and writes nothing."""

import pytest

from marker_lm.__main__ import main
from marker_lm.training.dry_run import dry_run
from marker_lm.training.loop import train
from tests.tiny import tiny_config, write_data
from tests.training.processes import write_config

MESH = dict(data=2, fsdp=2, tensor=2)


def make_config(data, **changes):
    config = tiny_config(data, batch=8, epochs=1, **changes).unlock()
    config.mesh.update(MESH)
    return config


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_what_would_be_trained(data, tmp_path):
    before, lines = files(data), []
    config = make_config(data, save_every=4, save_minutes=2.5, keep_every=8, eval_every=3)
    run = dry_run(config, tmp_path / "run", lines.append)
    text = "\n".join(lines)
    assert f"{run.steps} steps of 8 x 128 slots on 8 device(s)" in text
    assert "mesh: slice=1, data=2, fsdp=2, context=1, tensor=2 on 8 x cpu" in lines
    assert "rows: 8 a step, 2 on a device; this process reads 8 of them" in lines
    assert (
        "saves: every 4 steps, every 2.5 minutes, at the end and on SIGTERM; the newest 2 are "
        f"kept, and all of multiples of 8, in {tmp_path / 'run/checkpoints'}"
    ) in lines
    assert "held out: 2 batches every 3 steps" in lines
    assert lines[-1] == "start: from the beginning, random parameters"
    assert not (tmp_path / "run").exists() and files(data) == before


def test_where_it_would_go_on_from(data, tmp_path):
    config = make_config(data, save_every=4)
    config.model.layers = 1
    steps = train(config, tmp_path, lambda line: None)["steps"]
    before, lines = files(tmp_path), []
    dry_run(config, tmp_path, lines.append)
    assert lines[-1] == f"start: from step {steps} of {steps}"
    (tmp_path / "checkpoints" / str(steps) / "params" / "_METADATA").unlink()
    dry_run(config, tmp_path, lines.append)
    assert lines[-1] == f"start: from step 8 of {steps}"
    assert any("params/_METADATA is missing" in line for line in lines)
    before.remove(
        (tmp_path / "checkpoints" / str(steps) / "params" / "_METADATA").relative_to(tmp_path)
    )
    assert files(tmp_path) == before  # nothing is set aside


def test_data_that_is_not_prepared(tmp_path):
    write_data(tmp_path / "data")
    before, lines = files(tmp_path), []
    assert dry_run(make_config(tmp_path / "data"), tmp_path / "run", lines.append) is None
    assert "is not prepared for this config" in "\n".join(lines)
    assert files(tmp_path) == before


def test_what_can_not_be_trained_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="train.accumulate=3"):
        dry_run(make_config(data, accumulate=3), tmp_path, print)


def test_by_the_command(data, tmp_path, capsys):
    config_file = write_config(tmp_path / "config.py", data, MESH, batch=8)
    assert main(["train", f"--config={config_file}", f"--workdir={tmp_path}/run", "--dry-run"]) == 0
    assert "dry run: nothing is trained or written" in capsys.readouterr().out
    assert (
        main(["train", f"--config={config_file}", f"--workdir={tmp_path}/run", "--process=1"]) == 2
    )
    assert "--process need --coordinator" in capsys.readouterr().err
