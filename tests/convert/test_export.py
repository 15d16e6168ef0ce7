import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from marker_lm.convert import export as export_module
from marker_lm.convert.check import own_dtype
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.export import export, write_taxonomy
from marker_lm.convert.load import load_config, load_params
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.sharding.mesh import make_mesh
from tests.convert.pretrained import CONFIG, tensors, write_pretrained
from tests.tiny import tiny_config, tiny_taxonomy

ROOT = Path(__file__).resolve().parents[2]


def load(folder, mesh=None, **runtime):
    pretrained = open_pretrained(folder)
    config = load_config(folder, **{"param_dtype": own_dtype(pretrained)} | runtime)
    return load_params(
        pretrained, config, mesh or make_mesh(data=1, devices=jax.devices()[:1])
    ), config


def read_all(folder) -> dict[str, np.ndarray]:
    """All tensors, read by the package."""
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize(
    ("mesh", "largest"), [({"data": 1}, 10**9), ({"data": 2, "fsdp": 2, "tensor": 2}, 40_000)]
)
def test_an_export_of_an_import_is_bit_equal(tmp_path, monkeypatch, mesh, largest):
    monkeypatch.setattr(export_module, "PIECE", 1000)
    weights = tensors(CONFIG)
    folder = write_pretrained(tmp_path / "theirs", weights)
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    params, config = load(folder, make_mesh(**mesh, devices=devices))
    export(tmp_path / "ours", params, config, ByteTokenizer(), largest_file=largest)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "theirs"]
    found = read_all(tmp_path / "ours")
    assert found.keys() == weights.keys()
    for name, want in weights.items():
        assert found[name].dtype == want.dtype
        np.testing.assert_array_equal(found[name].view(np.uint16), want.view(np.uint16))
    again, config_again = load(tmp_path / "ours")
    assert config_again == config
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(params))


def test_the_chat_template_is_that_of_the_run(tmp_path):
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    params, config = load(write_pretrained(tmp_path / "theirs"))
    run = tiny_config(tmp_path).unlock()
    run.data.chat.template = template
    taxonomy = tiny_taxonomy(tmp_path)
    export(tmp_path / "ours", params, config, ByteTokenizer(), taxonomy, run.to_dict())
    assert (tmp_path / "ours" / "chat_template.jinja").read_text() == template
    generation = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == ByteTokenizer.eos_id


def test_files_are_cut_and_indexed(tmp_path):
    params, config = load(write_pretrained(tmp_path / "theirs"))
    export(tmp_path / "ours", params, config, ByteTokenizer(), largest_file=40_000)
    files = sorted((tmp_path / "ours").glob("model-*.safetensors"))
    assert len(files) > 1 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert all(file.stat().st_size < 45_000 for file in files)
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {k: f.name for f in files for k in load_file(f)}
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in tensors(CONFIG).values())


def test_the_dtype_of_the_file_is_the_one_asked_for(tmp_path):
    params, config = load(write_pretrained(tmp_path / "theirs", tensors(CONFIG, np.float32)))
    export(tmp_path / "ours", params, config, ByteTokenizer(), dtype="bfloat16")
    assert {x.dtype.name for x in read_all(tmp_path / "ours").values()} == {"bfloat16"}
    assert json.loads((tmp_path / "ours/config.json").read_text())["torch_dtype"] == "bfloat16"
    with pytest.raises(ConvertError, match="float64"):
        export(tmp_path / "none", params, config, ByteTokenizer(), dtype="float64")


def test_token_ids_generation_and_tokenizer_are_beside(tmp_path):
    params, config = load(write_pretrained(tmp_path / "theirs"))
    generation = {"temperature": 0.7, "eos_token_id": [7, 1]}
    export(tmp_path / "ours", params, config, ByteTokenizer(), generation=generation)
    about = json.loads((tmp_path / "ours/config.json").read_text())
    assert about["architectures"] == ["LlamaForCausalLM"] and about["eos_token_id"] == 1
    found = json.loads((tmp_path / "ours/generation_config.json").read_text())
    assert found == {"temperature": 0.7, "eos_token_id": [1, 7], "pad_token_id": 0}
    assert open_pretrained(tmp_path / "ours").tokenizer().hash == ByteTokenizer().hash
    served = load_tokenizer(tmp_path / "ours")  # tokenizer.json, for others
    assert served.encode("aé\n") == ByteTokenizer().encode("aé\n")
    assert not (tmp_path / "ours/marker_lm.json").exists()


def test_a_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    params, config = load(write_pretrained(tmp_path / "theirs"))

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(export_module, "write_index", fail)
    with pytest.raises(OSError, match="full"):
        export(tmp_path / "ours", params, config, ByteTokenizer())
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]
    with pytest.raises(ConvertError, match="is there already"):
        export(tmp_path / "theirs", params, config, ByteTokenizer())


def test_a_tokenizer_that_the_embedding_does_not_fit_is_refused(tmp_path):
    folder = write_pretrained(tmp_path / "theirs", vocab_size=258)
    params, config = load(folder)
    with pytest.raises(ConvertError, match="259 ids, but the embedding has 258 rows"):
        export(tmp_path / "ours", params, config, ByteTokenizer())


@pytest.mark.parametrize("name", ["paper", "atlas", "tiny"])
def test_a_written_taxonomy_is_read_back(tmp_path, name):
    taxonomy = tiny_taxonomy(tmp_path / "tiny") if name == "tiny" else load_taxonomy(name)
    write_taxonomy(export_module.epath.Path(tmp_path / "written.yaml"), taxonomy)
    found = load_taxonomy(str(tmp_path / "written.yaml"))
    assert found.hash == taxonomy.hash and found.name == taxonomy.name


def test_marker_lm_json_tells_no_path_of_the_data(tmp_path):
    params, config = load(write_pretrained(tmp_path / "theirs"))
    taxonomy = tiny_taxonomy(tmp_path / "private")
    train_config = tiny_config(tmp_path / "private").to_dict()
    export(tmp_path / "ours", params, config, ByteTokenizer(), taxonomy, train_config)
    text = (tmp_path / "ours/marker_lm.json").read_text()
    assert json.loads(text)["config"]["template"] == "compact"
    assert "private" not in text


@pytest.mark.extra
def test_transformers_gives_the_same_logits(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from marker_lm.model.transformer import Transformer

    params, config = load(write_pretrained(tmp_path / "theirs", tensors(CONFIG, np.float32)))
    export(tmp_path / "ours", params, config, ByteTokenizer(), largest_file=40_000)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    tokens_BxL = np.random.default_rng(0).integers(0, 384, (2, 20))
    with torch.no_grad():
        want = theirs(torch.tensor(tokens_BxL)).logits.numpy()
    positions_BxL = np.broadcast_to(np.arange(20), (2, 20))
    got, _ = Transformer(config).apply(
        {"params": params}, tokens_BxL, positions_BxL, np.ones((2, 20), np.int32)
    )
    np.testing.assert_allclose(got, want, atol=1e-4)


MEMORY = """
import resource, sys
import jax
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.load import load_config, load_params
from marker_lm.sharding.mesh import make_mesh
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small, large = sys.argv[1:]
def load(folder):
    config = load_config(folder, param_dtype="bfloat16")
    return jax.block_until_ready(load_params(open_pretrained(folder), config, make_mesh()))
load(small)  # what the first import costs once: modules, compiled programs
before = peak()
params = load(large)
print(peak() - before)
"""


def test_an_import_takes_hardly_more_memory_than_the_arrays(tmp_path):
    """In a process of its own; a second copy of the model would double the figure."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    sizes |= {"num_key_value_heads": 4, "head_dim": 64, "vocab_size": 16_000}
    small, large = (
        write_pretrained(tmp_path / f"layers{n}", num_hidden_layers=n, **sizes) for n in (1, 7)
    )
    size = (large / "model.safetensors").stat().st_size
    assert size > 250e6
    one_device = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, small, large],
        **{"cwd": ROOT, "env": one_device, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.3 * size
