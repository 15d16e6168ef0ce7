"""Every family against transformers: the same weights give the same logits and the same tokens."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from marker_lm.convert.families import FAMILIES, family_of, find_family
from marker_lm.convert.tensors import tensor_table
from marker_lm.model.cache import init_cache
from marker_lm.model.config import ModelConfig
from marker_lm.model.positions import rope_frequencies
from tests.convert.cases import CASES, SIZES
from tests.model.helpers import forward, plain

pytestmark = pytest.mark.extra
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ROPE_INIT_FUNCTIONS = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS

L = 40
PROMPT = 9


class Case:
    """A model of theirs with random weights, and ours made of it."""

    def __init__(self, name: str):
        self.hf_config = SIZES | CASES[name]
        self.family = find_family(self.hf_config)
        self.config = ModelConfig(**self.family.to_model(self.hf_config))
        self.theirs = their_model(self.hf_config)
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, weight in self.theirs.named_parameters():
                if weight.ndim == 2 and "norm" not in key:
                    weight.normal_(0, 1.5 * weight.shape[1] ** -0.5, generator=random)
                else:  # off 1 and off 0
                    weight.add_(0.3 * torch.randn(weight.shape, generator=random))
        self.state = {key: value.numpy() for key, value in self.theirs.state_dict().items()}
        self.params = import_state(self.state, self.family, self.config)

    def their_logits(self, tokens: np.ndarray) -> np.ndarray:
        return logits_of(self.theirs, tokens)


def their_model(hf_config: dict):
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(hf_config)))
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, key, None)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert type(model).__name__ == FAMILIES[hf_config["model_type"]].architecture
    return model.eval()


def logits_of(model, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()


def import_state(state, family, config) -> dict:
    """Our nested parameters of a state dict."""
    params: dict = {}
    for path, tensors in tensor_table(family, config).items():
        arrays = []
        for tensor in tensors:
            assert state[tensor.name].shape == tensor.shape
            arrays.append(tensor.to_ours(state[tensor.name]))
        *folders, last = path.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = np.stack(arrays) if folders else arrays[0]
    return params


def export_state(params, family, config) -> dict:
    """The way back."""
    state = {}
    for path, tensors in tensor_table(family, config).items():
        array = functools.reduce(dict.get, path.split("/"), params)
        for layer, tensor in enumerate(tensors):
            one = array[layer] if path.startswith("layers/") else array
            state[tensor.name] = tensor.to_theirs(one)
    return state


def some_tokens(length: int, seed: int = 0) -> np.ndarray:
    size = (1, length)
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], size, dtype=np.int32)


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return Case(request.param)


def test_their_config_says_the_same_as_the_file(case):
    written = json.loads(case.theirs.config.to_json_string(use_diff=False))
    assert ModelConfig(**case.family.to_model(written)) == case.config


def test_logits(case):
    tokens = some_tokens(L)
    expected = case.their_logits(tokens)
    found, _ = forward(case.config, case.params, *plain(tokens))
    assert np.abs(expected).max() > 0.5  # there is something to compare
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_packed_segments(case):
    first, second = some_tokens(22, seed=1), some_tokens(15, seed=2)
    padding = np.zeros((1, L - 37), np.int32)
    positions = np.concatenate([np.arange(22), np.arange(15), padding[0]])[None].astype(np.int32)
    segments = np.repeat([1, 2, 0], [22, 15, L - 37])[None].astype(np.int32)
    tokens = np.concatenate([first, second, padding], axis=1)
    found, _ = forward(case.config, case.params, tokens, positions, segments)
    for part, start in ((first, 0), (second, 22)):
        alone = found[:, start : start + part.shape[1]]
        np.testing.assert_allclose(alone, case.their_logits(part), rtol=0, atol=1e-4)


def test_fifty_greedy_tokens(case):
    prompt = some_tokens(PROMPT, seed=3)
    with torch.no_grad():
        expected = case.theirs.generate(
            torch.tensor(prompt, dtype=torch.long),
            attention_mask=torch.ones(prompt.shape, dtype=torch.long),
            max_new_tokens=50,
            min_new_tokens=50,
            do_sample=False,
        )[0].tolist()
    found = prompt[0].tolist()
    cache = init_cache(case.config, 1, PROMPT + 50)
    one = np.ones((1, 1), np.int32)
    for position in range(PROMPT + 49):
        token = found[position] * one
        logits, cache = forward(case.config, case.params, token, position * one, one, cache)
        if position >= PROMPT - 1:
            found.append(int(np.argmax(logits[0, 0])))
    assert found == expected
    assert len(set(found)) > 5  # not one token again and again


def test_export_is_their_state_to_the_bit(case):
    exported = export_state(case.params, case.family, case.config)
    tied = {"lm_head.weight"} if case.config.tied_head else set()
    assert set(exported) == set(case.state) - tied
    for name, array in exported.items():
        np.testing.assert_array_equal(array, case.state[name])


def test_export_loads_with_the_same_logits(case):
    written = case.family.to_hf(case.config)
    model = their_model(written)
    exported = export_state(case.params, case.family, case.config)
    state = {name: torch.tensor(np.ascontiguousarray(a)) for name, a in exported.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == [] and set(missing) <= {"lm_head.weight"}
    assert bool(missing) == case.config.tied_head
    model.tie_weights()
    tokens = some_tokens(L)
    np.testing.assert_array_equal(logits_of(model, tokens), case.their_logits(tokens))


def test_the_family_is_found_again(case):
    family = family_of(case.config)
    again = ModelConfig(**family.to_model(family.to_hf(case.config)))
    assert again == case.config
    jax.tree.map(
        np.testing.assert_array_equal,
        case.params,
        import_state(export_state(case.params, family, again), family, again),
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_stretched_frequencies(data):
    """Those of transformers for any scaling, also where a ramp has no or a negative length."""
    kind = data.draw(st.sampled_from(["linear", "llama3", "yarn"]))
    hf_config = SIZES | dict(
        model_type="llama",
        head_dim=2 * data.draw(st.integers(1, 70)),
        max_position_embeddings=8192,
        rope_theta=data.draw(st.floats(10, 1e7)),
    )
    scaling = dict(rope_type=kind, factor=data.draw(st.floats(1, 50)))
    if kind != "linear":
        lengths = st.integers(1, 20) | st.integers(1, 8191)
        scaling["original_max_position_embeddings"] = data.draw(lengths)
    if kind == "llama3":
        scaling["low_freq_factor"] = low = data.draw(st.floats(0.5, 4))
        scaling["high_freq_factor"] = low + data.draw(st.floats(0.5, 8))
    if kind == "yarn":
        for key, values in (
            ("beta_slow", st.floats(0.1, 2)),
            ("beta_fast", st.floats(2, 64)),
            ("attention_factor", st.floats(0.5, 2)),
            ("mscale", st.floats(0.5, 2)),
            ("mscale_all_dim", st.floats(0.5, 2)),
        ):
            if data.draw(st.booleans()):
                scaling[key] = data.draw(values)
    hf_config["rope_scaling"] = scaling
    config = ModelConfig(**find_family(hf_config).to_model(hf_config))
    theirs = transformers.AutoConfig.for_model(**json.loads(json.dumps(hf_config)))
    expected, expected_size = ROPE_INIT_FUNCTIONS[kind](theirs)
    found, size = rope_frequencies(config.head_size, config.rope_base, config.rope_scaling)
    # The halves of a ramp and of its counterpart cancel, in float32.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-9)
    assert size == pytest.approx(expected_size, rel=1e-12)


def test_the_text_part_of_a_model_with_images(tmp_path):
    sizes = dict(hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    text = SIZES | CASES["gemma3"]
    config = transformers.Gemma3Config(
        text_config=json.loads(json.dumps(text)),
        vision_config=dict(image_size=28, patch_size=14, **sizes),
        image_token_index=100,
    )
    theirs = transformers.Gemma3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    hf_config = json.loads((tmp_path / "config.json").read_text())
    family = find_family(hf_config)
    ours = ModelConfig(**family.to_model(hf_config))
    state = load_file(tmp_path / "model.safetensors")
    tokens = some_tokens(L) % 100  # no image
    found, _ = forward(ours, import_state(state, family, ours), *plain(tokens))
    np.testing.assert_allclose(found, logits_of(theirs, tokens), rtol=0, atol=1e-4)
    read = {tensor.name for tensors in tensor_table(family, ours).values() for tensor in tensors}
    assert all(re.fullmatch(family.unread, name) for name in set(state) - read)
    assert not any(re.fullmatch(family.unread, name) for name in read)
    assert family_of(ours).model_type == "gemma3_text"
