"""From a pretrained model over a training run and an export to an Engine, without torch."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.export import export
from marker_lm.convert.load import load_config, load_params, with_marker_rows
from marker_lm.data.tokenizers.base import TokenizerError
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.decoding.load import load_engine, load_model
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.scoring import Scorer
from marker_lm.markers.definitions import marker_rows
from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.checkpoints import CheckpointError, load_about
from marker_lm.training.loop import train
from tests.convert.pretrained import write_pretrained
from tests.tiny import tiny_config, write_data

PROMPTS = ["0: say yes 2 times", "1: say nein 3 times"]


def quiet(line):
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder with `theirs` and a run `work` of three steps from it."""
    folder = tmp_path_factory.mktemp("run")
    write_data(folder, train=40, heldout=8)
    write_pretrained(folder / "theirs", num_hidden_layers=3)
    train(pretrained_config(folder), folder / "work", quiet)
    return folder


def pretrained_config(folder, **train_keys):
    c = tiny_config(folder, batch=8, epochs=1, learning_rate=1e-3, **train_keys).unlock()
    c.init_from = str(folder / "theirs")
    c.data.tokenizer = "pretrained"
    c.model.scan = False
    return c.lock()


def test_the_architecture_is_that_of_the_checkpoint(run):
    model = load_about(run / "work/checkpoints")["model"]
    assert (model["width"], model["layers"], model["vocab"]) == (32, 3, 384)
    assert model["tied_head"] is False and model["norm_eps"] == 1e-5
    assert model["scan"] is False and model["max_len"] == 128  # train.length is more than theirs


def test_training_begins_with_the_weights_of_the_checkpoint(run):
    run_of_it = load_model(run / "work")
    config = load_config(run / "theirs", max_len=128, scan=False)
    assert dataclasses.replace(run_of_it.model, vocab=384) == config
    theirs = load_params(open_pretrained(run / "theirs"), config, make_mesh())
    theirs = with_marker_rows(theirs, rows_of(run_of_it))

    def distance(a, b):
        return float(np.abs(np.asarray(a) - np.asarray(b)).max())

    moved = jax.tree.map(distance, run_of_it.params, theirs)
    assert 0 < max(jax.tree.leaves(moved)) < 0.05  # some steps at 1e-3


def test_an_export_answers_and_scores_as_the_run(run):
    ours, config = load_engine(run / "work", batch=2)
    write_export(run / "work", run / "exported")
    theirs, found = load_engine(run / "exported", batch=2)
    assert theirs.config == ours.config
    assert theirs.layout == ours.layout
    assert found.decode == config.decode and found.arm == config.arm
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (ours.params, theirs.params)))
    sampling = Sampling(max_tokens=12)
    assert ours.generate(PROMPTS, sampling=sampling) == theirs.generate(PROMPTS, sampling=sampling)
    assert Scorer(ours).posterior(PROMPTS, "lang") == Scorer(theirs).posterior(PROMPTS, "lang")


def rows_of(loaded):
    return marker_rows(loaded.taxonomy, loaded.setup.codec, loaded.tokenizer)


def write_export(work, folder) -> None:
    one = load_model(work)
    export(folder, one.params, one.model, one.tokenizer, one.taxonomy, one.config.to_dict())


def test_rows_of_markers_begin_as_their_words_but_are_kept_from_an_export(run, tmp_path):
    loaded = load_model(run / "work")
    before = np.asarray(load_file(run / "theirs/model.safetensors")["lm_head.weight"], np.float32)
    row, words = rows_of(loaded)[3]
    assert row >= ByteTokenizer.size
    got = np.asarray(loaded.params["head"])[row]
    np.testing.assert_allclose(got, before[list(words)].mean(0), atol=0.05)  # some steps at 1e-3
    assert np.abs(got - before[row]).max() > 0.05

    write_data(tmp_path, train=16, heldout=2)
    write_export(run / "work", tmp_path / "theirs")
    train(pretrained_config(tmp_path), tmp_path / "work", quiet)
    again = np.asarray(load_model(tmp_path / "work").params["head"])[row]
    np.testing.assert_allclose(again, got, atol=0.02)


def test_a_damaged_export_is_refused(run, tmp_path):
    folder = tmp_path / "exported"
    write_export(run / "work", folder)
    taxonomy = (folder / "taxonomy.yaml").read_text()
    (folder / "taxonomy.yaml").write_text(taxonomy.replace("The language.", "A language."))
    with pytest.raises(ConvertError, match="not the taxonomy"):
        load_engine(folder)
    (folder / "taxonomy.yaml").write_text(taxonomy)
    (folder / "marker_lm.json").unlink()
    with pytest.raises(ConvertError, match="without markers"):
        load_engine(folder)


def test_a_run_goes_on_only_from_the_model_it_began_with(run):
    config = pretrained_config(run).unlock()
    config.init_from = ""
    config.data.tokenizer = "bytes"
    with pytest.raises(CheckpointError, match="init_from"):
        train(config.lock(), run / "work", quiet)


def test_marker_ids_that_do_not_fit_make_the_tables_longer(run, tmp_path):
    """The tiny taxonomy needs some 20 ids above the 259 of the bytes."""
    write_pretrained(tmp_path / "theirs", vocab_size=262)
    write_data(tmp_path, train=8, heldout=2)
    train(pretrained_config(tmp_path), tmp_path / "work", quiet)
    loaded = load_model(tmp_path / "work")
    assert loaded.model.vocab == 384
    assert loaded.params["embedding"].shape == (384, 32)


def test_a_tokenizer_of_a_model_that_is_not_named_is_an_error(tmp_path):
    write_data(tmp_path, train=8, heldout=2)
    c = tiny_config(tmp_path).unlock()
    c.data.tokenizer = "pretrained"
    with pytest.raises(TokenizerError, match="init_from is empty"):
        train(c.lock(), tmp_path / "work", quiet)


def test_a_tokenizer_larger_than_the_embedding_is_an_error(tmp_path):
    write_pretrained(tmp_path / "theirs", vocab_size=258)
    write_data(tmp_path, train=8, heldout=2)
    with pytest.raises(ConvertError, match="259 ids, but the embedding has 258 rows"):
        train(pretrained_config(tmp_path), tmp_path / "work", quiet)


def test_metadata_of_the_model_is_kept_for_the_export(run):
    about = load_about(run / "work/checkpoints")
    assert about["model_type"] == "llama" and about["generation"] == {}
    assert json.dumps(about)
