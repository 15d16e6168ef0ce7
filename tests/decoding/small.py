"""A small taxonomy with every type of category, and random tiny models that write its markers."""

import dataclasses
import functools

import jax
import numpy as np

from marker_lm.data.assembly import Layout, block, prompt_part
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.decoding.engine import Engine
from marker_lm.markers.category import Category
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import Taxonomy
from marker_lm.model.config import ModelConfig
from marker_lm.model.params import abstract_arrays
from marker_lm.model.transformer import Transformer
from marker_lm.sharding.mesh import make_mesh

TOKENIZER = ByteTokenizer()
ORDER = ("lang", "score", "style", "topics", "words", "words_bucket")
MAX_LEN = 512


def category(name, kind, *values, **more):
    lines = {value: f"is {value}" for value in values}
    return Category(name, kind, f"the {name}", "metadata", "completion", lines, **more)


def make_taxonomy() -> Taxonomy:
    """Values that begin alike, names that begin alike, one value with all that is escaped, and a
    category of several values."""
    made = [
        category("lang", "closed", "English", "Engl", "German"),
        category("style", "closed", "a<b&c", "a"),
        category("topics", "closed", "art", "arts", "law", "music", several=True),
        category("words", "integer", unit="words"),
        category("score", "number", unit="points"),
        category("words_bucket", "bucket", "few", "many", of="words", edges=(10,)),
    ]
    return Taxonomy("small", {one.name: one for one in made})


@functools.cache
def make_codec(template: str) -> MarkerCodec:
    return MarkerCodec(make_taxonomy(), template, TOKENIZER)


def make_layout(template: str, blocks: bool = True) -> Layout:
    codec = make_codec(template)
    order = ORDER if blocks else ()
    return Layout(
        prompt_side=order,
        completion_side=order,
        open=codec.open,
        close=codec.close,
        separator=tuple(TOKENIZER.encode("\n")),
        bos=(),
        eos=TOKENIZER.eos_id,
    )


def make_config(template: str = "text") -> ModelConfig:
    vocab = TOKENIZER.size + make_codec(template).n_reserved
    return ModelConfig(
        vocab=-(-vocab // 32) * 32,
        width=16,
        layers=2,
        heads=2,
        kv_heads=1,
        head_size=8,
        ff=24,
        max_len=MAX_LEN,
        scan=True,
    )


@functools.cache
def make_params(config: ModelConfig):
    """Random parameters of sizes as after training, so that no two logits are nearly equal."""
    random = np.random.default_rng(0)

    def make(path, array):
        mean, std = (1, 0.1) if "norm" in jax.tree_util.keystr(path) else (0, 0.4)
        return jax.numpy.asarray(random.normal(mean, std, array.shape), np.float32)

    return jax.tree_util.tree_map_with_path(make, abstract_arrays(config))


def make_engine(template: str = "text", blocks: bool = True, **layout) -> Engine:
    """An engine on one device, with random parameters; the same one again, so it compiles once."""
    return _make_engine(template, blocks, tuple(layout.items()))


@functools.cache
def _make_engine(template: str, blocks: bool, layout: tuple) -> Engine:
    config = make_config(template)
    codec = make_codec(template)
    return Engine(
        make_params(config),
        config,
        codec.taxonomy,
        codec,
        dataclasses.replace(make_layout(template, blocks), **dict(layout)),
        TOKENIZER,
        make_mesh(devices=jax.devices()[:1]),
        batch=4,
    )


def prefix(engine, prompt, pinned) -> list[int]:
    """Prompt and prompt-side block of one row."""
    spans = {c: np.asarray(engine.codec.marker(c, v)) for c, v in pinned.items()}
    ids = np.asarray(TOKENIZER.encode(prompt), np.int32)
    return prompt_part(engine.layout, ids, spans, set(spans))[0].tolist()


def block_ids(engine, markers) -> list[int]:
    spans = {c: np.asarray(engine.codec.marker(c, v)) for c, v in markers.items()}
    return block(engine.layout, ORDER, spans).tolist()


def between_spaces(text: str) -> int:
    """Words, the simplest way."""
    return len(text.split())


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, tokens_BxL):
    positions = np.broadcast_to(np.arange(tokens_BxL.shape[1]), tokens_BxL.shape)
    segments = np.ones_like(positions)
    return Transformer(config).apply({"params": params}, tokens_BxL, positions, segments)[0]


def full_logits(engine: Engine, ids, length: int = 512) -> np.ndarray:
    """Logits after each token of one sequence, [n, V]: a plain forward pass without a cache.

    The sequence is filled up at its end, which a causal model can't see, so that one program does.
    """
    tokens = np.zeros((1, length), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(_logits(engine.config, engine.params, tokens))[0, : len(ids)]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
