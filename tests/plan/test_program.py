"""The vocabulary and the model of a plan, beside those of a run on data."""

import dataclasses

import jax
import pytest

from configs.default import get_config
from marker_lm.data.setup import make_setup
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.plan.program import PROGRAMS, lower, planned_model
from marker_lm.training.run import model_config


@pytest.mark.parametrize("template", ["text", "compact"])
def test_the_model_is_the_one_that_data_would_give(template):
    config = get_config()
    config.data.tokenizer, config.template = "bytes", template
    setup = make_setup(config, load_taxonomy(config.taxonomy), load_tokenizer("bytes"))
    assert planned_model(config) == model_config(config, setup)


def test_a_tokenizer_that_is_to_be_trained_counts_its_size():
    config = get_config()
    assert planned_model(config).vocab == config.data.vocab_size == 8192
    config.template = "compact"
    assert planned_model(config).vocab > 8192 and planned_model(config).vocab % 128 == 0


def test_an_architecture_alone_is_enough():
    config = get_config()
    config.init_from, config.data.tokenizer = "configs/architectures/llama3.1-8b.json", "pretrained"
    assert planned_model(config).vocab == 128_256
    config.template = "compact"
    assert planned_model(config).vocab > 128_256


@dataclasses.dataclass(frozen=True)
class Here:
    """The devices of this machine, for `lower`, which asks a topology for nothing else."""

    def devices(self):
        return jax.devices()[:4]


@pytest.mark.parametrize("program", PROGRAMS)
def test_settings_that_save_memory_in_training_lower_too(program):
    config = get_config()
    config.data.tokenizer = "bytes"
    config.model.update(width=64, layers=2, heads=4, kv_heads=2, head_size=16, ff=128)
    config.model.update(ff_blocks=2, remat="full")
    config.mesh.update(data=1, fsdp=4)
    config.train.update(batch=4, length=64)
    _, sizes = lower(config, Here(), program)
    assert all(sizes.values())
