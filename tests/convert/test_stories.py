"""stories260K, a real model of 264k parameters, through the import and against plain NumPy.

The checkpoint is in the format of llama2.c (run.c: `memory_map_weights`, `build_tokenizer`). The
reference below follows run.c on the file itself, so it shares neither layout nor code with ours.
"""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from marker_lm.convert.check import model_config
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.gguf_tokenizer import sentencepiece_parts
from marker_lm.convert.load import load_params
from marker_lm.model.cache import init_cache
from marker_lm.sharding.mesh import make_mesh
from tests.model.helpers import forward, plain

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT.parent / "shared" / "data" / "models"
BOS, EOS = 1, 2
PROMPT = "Once upon a time, there was a little girl"
TOKENS = 120
STORY = """Once upon a time, there was a little girl named Lily. She loved to play outside in the \
park. One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, \
"I want to play with your ball, but I can't find it."
"""


class Checkpoint:
    """A llama2.c file: sizes, and weights under its own names."""

    def __init__(self, path: Path):
        data = path.read_bytes()
        header = struct.unpack("7i", data[:28])
        self.width, self.ff, self.layers, self.heads, self.kv_heads, self.vocab, self.len = header
        self.size = self.width // self.heads
        floats = np.frombuffer(data, np.float32, offset=28)
        D, F, L, V, N = self.width, self.ff, self.layers, self.vocab, self.size
        kv = self.kv_heads * N
        shapes = {
            "embedding": (V, D),
            "attention_norm": (L, D),
            "q": (L, D, D),
            "k": (L, kv, D),
            "v": (L, kv, D),
            "o": (L, D, D),
            "ffn_norm": (L, D),
            "w1": (L, F, D),
            "w2": (L, D, F),
            "w3": (L, F, D),
            "final_norm": (D,),
            "cosines": (self.len, N // 2),
            "sines": (self.len, N // 2),
        }
        self.weights, at = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            self.weights[name] = floats[at : at + size].reshape(shape)
            at += size
        assert at == len(floats), "the head is the embedding, so nothing may be left"


class Reference:
    """run.c's forward(), a token at a time, in float64."""

    def __init__(self, checkpoint: Checkpoint):
        self.c = checkpoint
        self.w = {name: array.astype(np.float64) for name, array in checkpoint.weights.items()}
        self.keys, self.values = ([[] for _ in range(checkpoint.layers)] for _ in range(2))

    def rotate(self, x_HxN: np.ndarray, position: int) -> np.ndarray:
        i = np.arange(0, self.c.size, 2)
        angle = position * 10_000.0 ** (-i / self.c.size)
        pairs = x_HxN[:, 0::2] + 1j * x_HxN[:, 1::2]
        turned = pairs * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x_HxN.shape)

    def step(self, token: int) -> np.ndarray:
        """Logits [V] after one more token."""
        c, w = self.c, self.w
        position = len(self.keys[0])
        x = w["embedding"][token]
        for layer in range(c.layers):
            y = normed(x, w["attention_norm"][layer])
            q = self.rotate((w["q"][layer] @ y).reshape(c.heads, c.size), position)
            k = self.rotate((w["k"][layer] @ y).reshape(c.kv_heads, c.size), position)
            self.keys[layer].append(k)
            self.values[layer].append((w["v"][layer] @ y).reshape(c.kv_heads, c.size))
            heads = []
            for head in range(c.heads):
                of = head // (c.heads // c.kv_heads)
                keys = np.stack(self.keys[layer])[:, of]
                scores = np.exp(keys @ q[head] / np.sqrt(c.size))
                heads.append(scores / scores.sum() @ np.stack(self.values[layer])[:, of])
            x = x + w["o"][layer] @ np.concatenate(heads)
            y = normed(x, w["ffn_norm"][layer])
            gate = w["w1"][layer] @ y
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ y))
        return w["embedding"] @ normed(x, w["final_norm"])

    def greedy(self, ids: list[int], count: int) -> tuple[list[int], np.ndarray]:
        """`ids` and `count` tokens more, and the logits after each but the last."""
        ids, logits = list(ids), []
        for i in range(len(ids) + count - 1):
            logits.append(self.step(ids[i]))
            if i == len(ids) - 1:
                ids.append(int(logits[-1].argmax()))
        return ids, np.array(logits)


def normed(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x) + 1e-5) * scale


def read_pieces(path: Path) -> tuple[list[str], list[float]]:
    """Pieces, with U+2581 for a space, and their scores."""
    data, at = path.read_bytes(), 4
    pieces, scores = [], []
    while at < len(data):
        score, length = struct.unpack("fi", data[at : at + 8])
        pieces.append(data[at + 8 : at + 8 + length].decode())
        scores.append(score)
        at += 8 + length
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    return [piece.replace(" ", "\u2581") for piece in pieces], scores


def reference_encode(text: str, pieces: list[str], scores: list[float]) -> list[int]:
    """run.c's encode(): a space first, then the best merge of two neighbours, again and again."""
    ids: list[int] = []
    for character in ("\u2581" + text).replace(" ", "\u2581"):
        if character in pieces:
            ids.append(pieces.index(character))
        else:
            ids += [byte + 3 for byte in character.encode()]
    while True:
        pairs = [pieces[a] + pieces[b] for a, b in zip(ids, ids[1:], strict=False)]
        found = [(-scores[pieces.index(p)], i) for i, p in enumerate(pairs) if p in pieces]
        if not found:
            return ids
        _, i = min(found)
        ids[i : i + 2] = [pieces.index(pairs[i])]


def write_folder(folder: Path, checkpoint: Checkpoint, pieces: list[str], scores: list[float]):
    """The checkpoint as a Hugging Face folder."""
    c, w = checkpoint, checkpoint.weights
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab,
        "hidden_size": c.width,
        "intermediate_size": c.ff,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "max_position_embeddings": c.len,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "float32",
    }
    tensors = {"model.embed_tokens.weight": w["embedding"], "model.norm.weight": w["final_norm"]}
    names = {
        "attention_norm": "input_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "w1": "mlp.gate_proj",
        "w2": "mlp.down_proj",
        "w3": "mlp.up_proj",
    }
    for theirs, name in names.items():
        for layer, weight in enumerate(w[theirs]):
            if theirs in "qk":  # pairs (2i, 2i + 1) become (i, i + N/2)
                weight = weight.reshape(-1, c.size // 2, 2, c.width).swapaxes(1, 2)
                weight = weight.reshape(-1, c.width)
            tensors[f"model.layers.{layer}.{name}.weight"] = np.ascontiguousarray(weight)
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    apart = {id for id, piece in enumerate(pieces) if id < 3 or piece.startswith("<0x")}
    merged = [None if id in apart else score for id, score in enumerate(scores)]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": id, "content": pieces[id], "special": True, **added} for id in range(3)
        ],
        "post_processor": None,
        **sentencepiece_parts({p: i for i, p in enumerate(pieces)}, merged, "<unk>", True),
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )


class Stories:
    def __init__(self, folder: Path):
        self.checkpoint = Checkpoint(MODELS / "stories260K.bin")
        self.pieces, self.scores = read_pieces(MODELS / "stories260K_tok512.bin")
        write_folder(folder, self.checkpoint, self.pieces, self.scores)
        opened = open_pretrained(folder)
        self.config = model_config(opened, scan=False)
        self.params = load_params(opened, self.config, make_mesh())
        self.tokenizer = opened.tokenizer()
        prompt = [BOS, *reference_encode(PROMPT, self.pieces, self.scores)]
        self.ids, self.logits = Reference(self.checkpoint).greedy(prompt, TOKENS)
        self.prompt = prompt


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    if not MODELS.is_dir():
        pytest.skip(f"{MODELS} is not there; it has the model stories260K")
    return Stories(tmp_path_factory.mktemp("stories") / "model")


def test_the_reference_tells_a_story(stories):
    ends = stories.ids.index(EOS) if EOS in stories.ids else None
    text = stories.tokenizer.decode(stories.ids[1:ends])
    assert text == " " + STORY


def test_greedy_tokens_are_the_references(stories):
    ids = list(stories.prompt)
    cache = init_cache(stories.config, 1, len(ids) + TOKENS)
    one = np.ones((1, 1), np.int32)
    for i in range(len(ids) + TOKENS - 1):
        logits, cache = forward(stories.config, stories.params, ids[i] * one, i * one, one, cache)
        if i == len(ids) - 1:
            ids.append(int(np.argmax(logits[0, 0])))
    assert ids == stories.ids


def test_logits_are_the_references(stories):
    tokens = np.array([stories.ids[:-1]], np.int32)
    found, _ = forward(stories.config, stories.params, *plain(tokens))
    assert np.ptp(stories.logits) > 20
    np.testing.assert_allclose(found[0], stories.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        PROMPT,
        'He said, "No!"\n\nTom\'s 3 big   dogs ran.',
        "naïve \u65e5\u672c \U0001f600 x",
        "  a ",
    ],
)
def test_tokens_are_the_references(stories, text):
    ids = stories.tokenizer.encode(" " + text)
    assert ids == reference_encode(text, stories.pieces, stories.scores)
    assert stories.tokenizer.decode(ids) == " " + text


def test_the_file_turns_pairs_by_the_angles_that_config_says(stories):
    c = stories.checkpoint
    angles = np.outer(np.arange(c.len), 10_000.0 ** (-np.arange(0, c.size, 2) / c.size))
    np.testing.assert_allclose(c.weights["cosines"], np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(c.weights["sines"], np.sin(angles), atol=1e-5)
