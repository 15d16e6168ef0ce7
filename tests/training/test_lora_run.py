"""A whole run with LoRA from a pretrained model: stopped, resumed, decoded, exported, refused."""

import os
import signal

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.families import FAMILIES
from marker_lm.convert.load import load_config, load_params
from marker_lm.convert.peft import export_adapter, import_adapter
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.decoding.load import load_model
from marker_lm.model.config import ModelConfig
from marker_lm.model.lora import is_factor, merge
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import laid_out_params
from marker_lm.training import checkpoints
from marker_lm.training.checkpoints import CheckpointError, load_about
from marker_lm.training.loop import train
from marker_lm.training.metrics import MetricWriter
from tests.convert.pretrained import write_pretrained
from tests.tiny import tiny_config

STOP_AT = 7


def quiet(line):
    pass


def lora_config(data, theirs, **lora):
    config = tiny_config(data, epochs=1, save_every=100).unlock()
    config.init_from = str(theirs)
    config.lora.update(rank=2, alpha=4.0, **lora)
    config.mesh.update(data=2, fsdp=2, tensor=2)
    return config.lock()


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Folder of `theirs`, of an uninterrupted run `whole`, and of `stopped`, which went on."""
    folder = tmp_path_factory.mktemp("lora")
    config = lora_config(data, write_pretrained(folder / "theirs"))
    train(config, folder / "whole", quiet)
    with pytest.MonkeyPatch.context() as patch:
        write = MetricWriter.write

        def write_and_stop(self, step, scalars):
            write(self, step, scalars)
            if step == STOP_AT:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(MetricWriter, "write", write_and_stop)
        assert train(config, folder / "stopped", quiet)["stopped"]
    # All processes agree on a signal, which takes a step, and the next one is under way.
    assert STOP_AT <= load_about(folder / "stopped/checkpoints")["step"] <= STOP_AT + 2
    assert not train(config, folder / "stopped", quiet)["stopped"]
    return folder


def state_of(workdir):
    """All arrays of the newest checkpoint, by path."""
    about = load_about(workdir / "checkpoints")
    model = ModelConfig.from_dict(about["model"])
    mesh = make_mesh(**about["config"]["mesh"])
    params = checkpoints.load_params(workdir / "checkpoints", laid_out_params(model, mesh))
    return about, model, params


def test_a_stopped_run_ends_with_the_same_bits(runs):
    (about, _, whole), (other, _, stopped) = (
        state_of(runs / name) for name in ("whole", "stopped")
    )
    assert about["step"] == other["step"] > STOP_AT + 1
    jax.tree.map(
        lambda a, b: np.testing.assert_equal(a.tobytes(), b.tobytes()),
        *map(jax.device_get, (whole, stopped)),
    )


def test_the_base_is_that_of_the_file_and_the_factors_have_moved(runs):
    _, model, params = state_of(runs / "whole")
    config = load_config(runs / "theirs")
    base = flatten_dict(load_params(open_pretrained(runs / "theirs"), config, make_mesh()), sep="/")
    flat = flatten_dict(params, sep="/")
    for path, x in base.items():
        # Rows of marker tokens begin as their words.
        rows = ByteTokenizer.size if path in ("embedding", "head") else x.shape[0]
        np.testing.assert_array_equal(flat[path][:rows], x[:rows])
    factors = [path for path in flat if is_factor(path)]
    assert len(factors) == 14
    assert all(np.any(flat[path]) for path in factors)
    assert model.lora.scale == 2.0


def test_an_engine_decodes_with_the_merged_model(runs):
    loaded = load_model(runs / "whole")
    _, model, params = state_of(runs / "whole")
    merged, without = merge(params, model)
    assert loaded.model == without and without.lora is None
    jax.tree.map(np.testing.assert_array_equal, loaded.params, merged)


def test_an_adapter_of_the_run_comes_back(runs, tmp_path):
    _, model, params = state_of(runs / "whole")
    export_adapter(tmp_path / "adapter", params, model, FAMILIES["llama"], str(runs / "theirs"))
    found, config = import_adapter(
        tmp_path / "adapter", load_config(runs / "theirs"), FAMILIES["llama"]
    )
    assert config.lora.scale == model.lora.scale
    flat = flatten_dict(params, sep="/")
    for path, x in flatten_dict(found, sep="/").items():
        np.testing.assert_array_equal(flat[path], x)


@pytest.mark.parametrize(
    ("section", "key", "value"), [("lora", "alpha", 8.0), ("train", "trainable", "embedding")]
)
def test_a_run_goes_on_only_with_the_same_lora(runs, data, section, key, value):
    config = lora_config(data, runs / "theirs").unlock()
    config[section][key] = value
    with pytest.raises(CheckpointError, match=f"trained with {section}"):
        train(config.lock(), runs / "whole", quiet)


def test_a_target_that_is_no_matrix_ends_the_run_before_it_begins(data, runs, tmp_path):
    config = lora_config(data, runs / "theirs", targets="q_proj")
    with pytest.raises(ValueError, match="lora.targets='q_proj' is found in no matrix"):
        train(config, tmp_path / "run", quiet)
