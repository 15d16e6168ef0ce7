"""An architecture without weights: the same ModelConfig as from a folder, and nothing else."""

import json
import math
from pathlib import Path

import pytest

from marker_lm.convert.check import check_tensors, model_config, own_dtype, their_tensors
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.load import load_config, load_params
from marker_lm.model.params import parameter_count
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.loop import train
from tests.convert.pretrained import CONFIG, write_pretrained
from tests.tiny import tiny_config, write_data

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "architectures"
# As the models' cards and reports state them.
PUBLISHED = {
    "qwen3-0.6b": 0.6e9,
    "llama3.2-1b": 1.236e9,
    "llama3.1-8b": 8.03e9,
    "command-r7b": 8.03e9,
}


def write_architecture(folder: Path, **keys) -> Path:
    path = folder / "tiny.json"
    path.write_text(json.dumps(CONFIG | keys))
    return path


def test_it_gives_the_model_of_a_folder_with_the_same_config(tmp_path):
    write_pretrained(tmp_path / "theirs", num_hidden_layers=3)
    path = write_architecture(tmp_path, num_hidden_layers=3)
    runtime = dict(param_dtype="bfloat16", remat="full")
    assert load_config(path, **runtime) == load_config(tmp_path / "theirs", **runtime)
    assert load_config(path).layers == 3


def test_all_shipped_ones_have_a_test():
    assert {path.stem for path in SHIPPED.iterdir()} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_ones_have_the_published_number_of_parameters(name):
    pretrained = open_pretrained(SHIPPED / f"{name}.json")
    model = model_config(pretrained)
    count = parameter_count(model)
    assert count == pytest.approx(PUBLISHED[name], rel=0.01)
    # The other way round: a checkpoint of that family has tensors of so many numbers.
    _, table = their_tensors(pretrained, model)
    assert sum(math.prod(t.shape) for tensors in table.values() for t in tensors) == count


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.need_weights(),
        own_dtype,
        lambda model: check_tensors(model, *their_tensors(model, model_config(model))),
        lambda model: load_params(model, model_config(model), make_mesh()),
        lambda model: model.tensors.dtype("model.norm.weight"),
        lambda model: model.tensors.shape("model.norm.weight"),
        lambda model: model.tensors.read("model.norm.weight"),
    ],
)
def test_weights_are_refused_with_the_mend(tmp_path, use):
    model = open_pretrained(write_architecture(tmp_path))
    with pytest.raises(ConvertError, match="tiny.json .* no weights.*--config.init_from=/models"):
        use(model)


def test_a_tokenizer_is_refused_with_the_mend(tmp_path):
    with pytest.raises(ConvertError, match="no tokenizer.*--config.init_from=/models"):
        open_pretrained(write_architecture(tmp_path)).tokenizer()


@pytest.mark.parametrize("tokenizer", ["bytes", "pretrained"])
def test_training_is_refused_before_anything_is_prepared(tmp_path, tokenizer):
    write_data(tmp_path, train=8, heldout=2)
    c = tiny_config(tmp_path).unlock()
    c.init_from = str(write_architecture(tmp_path))
    c.data.tokenizer = tokenizer
    with pytest.raises(ConvertError, match="architecture alone and has no"):
        train(c.lock(), tmp_path / "work")
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("text", "message"), [(None, "there is no"), ("{", "is no JSON"), ("[]", "no JSON object")]
)
def test_a_file_that_is_none_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConvertError, match=message):
        open_pretrained(path)
