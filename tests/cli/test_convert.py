import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from marker_lm.__main__ import main
from marker_lm.decoding.load import load_engine
from marker_lm.decoding.sampling import Sampling
from marker_lm.training.loop import train
from tests.convert.pretrained import CONFIG, shapes, tensors, write_pretrained
from tests.tiny import tiny_config, write_data


def convert(source, out, *options) -> int:
    out = [] if out is None else [f"--out={out}"]
    return main(["convert", f"--from={source}", *out, *options])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_data(folder, train=30, heldout=8)
    config = tiny_config(folder, batch=8, epochs=1)
    train(config, folder / "work", lambda line: None)
    return folder / "work"


def test_a_run_becomes_a_folder_that_decodes_the_same(run, tmp_path, capsys):
    """Trained from scratch: the plainest family is found."""
    assert convert(run, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "LlamaForCausalLM" in printed and "arm 'markers'" in printed
    ours, theirs = (load_engine(path, batch=1)[0] for path in (run, tmp_path / "out"))
    sampling = Sampling(max_tokens=8)
    prompts = ["0: say yes 2 times"]
    assert ours.generate(prompts, sampling=sampling) == theirs.generate(prompts, sampling=sampling)


def test_a_dry_run_of_a_run_writes_nothing(run, tmp_path, capsys):
    assert convert(run, tmp_path / "out", "--dry-run") == 0
    assert "parameters in 20 tensors" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_folder_is_written_in_another_dtype(tmp_path):
    weights = tensors(CONFIG)
    source = write_pretrained(tmp_path / "theirs", weights)
    assert convert(source, tmp_path / "out", "--dtype=float32") == 0
    found = load_file(tmp_path / "out/model.safetensors")
    assert {name: x.shape for name, x in found.items()} == shapes(CONFIG)
    for name, x in weights.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], x.astype(np.float32))


def test_a_dry_run_reads_no_weights(tmp_path, capsys):
    source = write_pretrained(tmp_path / "theirs")
    assert convert(source, None, "--dry-run") == 0
    printed = capsys.readouterr().out
    count = sum(int(np.prod(shape)) for shape in shapes(CONFIG).values())
    assert f"{count:,} parameters in 21 tensors, {2 * count:,} bytes as bfloat16" in printed
    assert "names and shapes of all tensors are as they should be" in printed


def test_a_plain_model_becomes_a_run_that_answers(tmp_path):
    source = write_pretrained(tmp_path / "theirs", tensors(CONFIG, np.float32))
    assert convert(source, tmp_path / "work", "--to=run") == 0
    engine, config = load_engine(tmp_path / "work", batch=1)
    assert config.arm == "baseline"
    [result] = engine.generate(["yes"], sampling=Sampling(max_tokens=4))
    assert len(result.tokens) <= 4 and result.markers == {}


@pytest.mark.parametrize("template", ["text", "compact"])
def test_a_lora_becomes_an_adapter_where_it_is_all_that_was_trained(tmp_path, capsys, template):
    write_data(tmp_path, train=12, heldout=2)
    write_pretrained(tmp_path / "theirs")
    config = tiny_config(tmp_path, batch=8, epochs=1, length=256).unlock()
    config.init_from, config.data.tokenizer = str(tmp_path / "theirs"), "pretrained"
    config.template, config.lora.rank = template, 2
    train(config.lock(), tmp_path / "work", lambda line: None)
    if template == "compact":
        message = fault(capsys, tmp_path / "work", tmp_path / "out", "--to=adapter")
        assert "rows for marker tokens" in message and "template=text" in message
        return
    assert convert(tmp_path / "work", tmp_path / "out", "--to=adapter") == 0
    about = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(tmp_path / "theirs") and about["r"] == 2


def fault(capsys, *args) -> str:
    assert convert(*args) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("marker-lm convert: ")
    return message


def test_slips_are_told_in_one_sentence(run, tmp_path, capsys):
    source = write_pretrained(tmp_path / "theirs")
    assert "--out is missing" in fault(capsys, source, None)
    assert "is there already" in fault(capsys, source, tmp_path)
    assert "is for runs" in fault(capsys, source, tmp_path / "o", "--step=3")
    assert "has no step 99" in fault(capsys, run, tmp_path / "o", "--step=99")
    assert "is a run already" in fault(capsys, run, tmp_path / "o", "--to=run")
    assert "no checkpoint at" in fault(capsys, tmp_path / "nowhere", tmp_path / "o")
    assert "no family 'lama'" in fault(capsys, run, tmp_path / "o", "--family=lama")
    (source / "config.json").write_text(json.dumps(CONFIG | {"intermediate_size": 64}))
    assert "has shape (32, 48)" in fault(capsys, source, None, "--dry-run")
