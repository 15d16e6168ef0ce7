"""Tokenizers of GGUF files against llama.cpp's and SentencePiece's own."""

import gzip
import io
import json
import re
from pathlib import Path

import gguf
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marker_lm.convert import gguf_tokenizer
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.gguf_config import Metadata
from tests.convert.gguf_files import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    bytes_vocabulary,
    smollm2,
    write_vocabulary,
)

ROOT = Path(__file__).resolve().parents[2]
HELDOUT = ROOT.parent / "shared" / "data" / "mix" / "heldout-dev.jsonl.gz"
# Bytes for which SmolLM2 has no token: it leaves them out, in every implementation.
NOT_IN_SMOLLM2 = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}
PRE_TOKENIZERS = ("smollm", "gpt-2", "llama-bpe", "qwen2", "default")
TEXTS = [
    "",
    " ",
    "Hello world",
    "I'll say: it's 1234567 o'clock,\r\n\r\n  isn't IT'S?\n\n\n\tx  y   z ",
    "def f(x):\n    return x**2  # naïve\n",
    "Ⅻ ½ ٣٤ 三 ④ x² a1b22c333d4444",
    "Größe ñandú Ελλάδα привет नमस्ते ภาษาไทย 日本語。中文!한국어 עברית العربية 👩‍👩‍👧‍👦🇩🇪",
    "e\u0301 A\u030a \u00a0\u2003\u200b\ufeff\u0000\x7f",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|> <|endoftext|><|im_end|",
    "a" * 300 + " " * 40 + "\n" * 12 + "!?!?..." * 9,
    "https://example.org/a_b?c=1&d=%20#é $5+3=8 ~^|<>",
]


def metadata_of(path) -> Metadata:
    fields = gguf.GGUFReader(path).fields
    return Metadata(str(path), {key: field.contents() for key, field in fields.items()})


def llama_cpp_tokenizer(path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return lambda text: model.tokenize(text.encode(), add_bos=False, special=True)


@pytest.fixture(scope="module")
def smol():
    return open_pretrained(smollm2()).tokenizer()


@pytest.fixture(scope="module")
def smol_llama_cpp():
    return llama_cpp_tokenizer(smollm2())


@pytest.fixture(scope="module")
def smol_vocabulary():
    start = "tokenizer.ggml."
    values = metadata_of(smollm2()).values
    return {key.removeprefix(start): v for key, v in values.items() if key.startswith(start)}


@pytest.fixture(scope="module")
def texts():
    """Texts in many languages."""
    if not HELDOUT.exists():
        pytest.skip(f"{HELDOUT} is not there; its rows are in over a hundred languages")
    with gzip.open(HELDOUT, "rt") as file:
        rows = [json.loads(line) for line in file][::7]
    assert len(rows) > 900 and len({row["language"] for row in rows}) > 90
    return [f"{row['instruction']}\n{row['input']}\n\n{row['output']}" for row in rows]


@pytest.mark.extra
def test_smollm2_is_llama_cpps_on_a_thousand_rows(smol, smol_llama_cpp, texts):
    for text, ids in zip(texts, smol.encode_batch(texts), strict=True):
        assert ids == smol_llama_cpp(text)
        assert smol.decode(ids) == text


@pytest.mark.extra
@settings(max_examples=300, deadline=None)
@given(st.text())
@example("\u2581 \u0120\u010a")
@example("١٢٣ 12 345x67")
def test_smollm2_is_llama_cpps_on_any_text(smol, smol_llama_cpp, text):
    assert smol.encode(text) == smol_llama_cpp(text)
    if NOT_IN_SMOLLM2.isdisjoint(text.encode()):
        assert smol.decode(smol.encode(text)) == text


@pytest.mark.extra
def test_smollm2_cuts_as_its_pre_tokenizer_says(smol):
    pieces = [smol.piece(id) for id in smol.encode("In 1984, it's 3½ times")]
    assert pieces == ["In", " ", "1", "9", "8", "4", ",", " it", "'s", " ", "3", "½", " times"]
    assert smol.encode("<|endoftext|><|im_start|><|im_end|>") == [0, 1, 2]
    assert smol.encode("ectable") == [49151] and smol.size == 49152
    assert smol.piece(49151) == "ectable" and smol.decode([49151]) == "ectable"
    assert (smol.bos_id, smol.eos_id, smol.pad_id, smol.unk_id) == (None, 2, 2, 0)


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_every_pre_tokenizer_is_llama_cpps(tmp_path, texts, smol_vocabulary, name):
    """SmolLM2's pieces, cut as other models cut."""
    vocabulary = smol_vocabulary | {"pre": name}
    path = write_vocabulary(tmp_path / "vocabulary.gguf", vocabulary)
    metadata = Metadata(str(path), {f"tokenizer.ggml.{key}": v for key, v in vocabulary.items()})
    ours, theirs = gguf_tokenizer.tokenizer(metadata), llama_cpp_tokenizer(path)
    for text in TEXTS + texts[::5]:
        if name == "qwen2":  # llama.cpp does not compose characters, the model's tokenizer does
            text = ours.decode(ours.encode(text))
        assert ours.encode(text) == theirs(text), text


def sentencepiece_vocabulary(texts) -> tuple[dict, sentencepiece.SentencePieceProcessor]:
    """A trained SentencePiece BPE model as convert_hf_to_gguf.py writes it, and itself."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=1500,
        character_coverage=0.99,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        user_defined_symbols=["<mask>"],
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.vocab_size())

    def type(id):
        if processor.is_unknown(id):
            return UNKNOWN
        if processor.is_control(id):
            return CONTROL
        if processor.is_byte(id):
            return BYTE
        return USER_DEFINED if processor.id_to_piece(id) == "<mask>" else NORMAL

    return {
        "model": "llama",
        "tokens": [processor.id_to_piece(id) for id in ids],
        "scores": [processor.get_score(id) for id in ids],
        "token_type": [type(id) for id in ids],
        "bos_token_id": processor.bos_id(),
        "eos_token_id": processor.eos_id(),
        "unknown_token_id": processor.unk_id(),
        "add_space_prefix": False,
    }, processor


@pytest.mark.extra
def test_sentencepiece_is_sentencepieces(tmp_path, texts):
    vocabulary, processor = sentencepiece_vocabulary(texts[::2])
    path = write_vocabulary(tmp_path / "vocabulary.gguf", vocabulary)
    tokenizer, theirs = gguf_tokenizer.tokenizer(metadata_of(path)), llama_cpp_tokenizer(path)
    assert tokenizer.special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert tokenizer.bos_id == 1
    for text in [*texts[1::2], "a <mask>  b", "\u4e00\U00010348 x", "   "]:
        ids = tokenizer.encode(text)
        assert ids == processor.encode(text)
        assert ids == theirs(text)
        assert tokenizer.decode(ids) == text


def test_a_space_before_every_text():
    vocabulary = ["<unk>", "\u2581", "a", "b", "\u2581a", "ab", "\u2581ab"]
    parts = gguf_tokenizer.sentencepiece_parts(
        {piece: id for id, piece in enumerate(vocabulary)},
        [None, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0],
        unknown="<unk>",
        space_first=True,
    )
    assert parts["normalizer"]["normalizers"][0] == {"type": "Prepend", "prepend": "\u2581"}
    assert parts["model"]["merges"] == [
        ("a", "b"),
        ("\u2581", "a"),
        ("\u2581", "ab"),
        ("\u2581a", "b"),
    ]


def without(key):
    vocabulary = bytes_vocabulary()
    del vocabulary[key]
    return vocabulary


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (bytes_vocabulary() | {"model": "t5"}, "a tokenizer of the kind 't5'"),
        (bytes_vocabulary() | {"pre": "llama-bpo"}, "'llama-bpo'.*nearest: llama-bpe"),
        (bytes_vocabulary() | {"token_type": [1, 1]}, "261 tokens and 2 token types"),
        (bytes_vocabulary() | {"eos_token_id": 261}, "the special token 261, but has only 261"),
        (bytes_vocabulary() | {"model": "llama"}, "261 tokens and 0 scores"),
        (without("tokens"), "holds no tokenizer"),
    ],
)
def test_damaged_and_unknown_tokenizers(tmp_path, vocabulary, said):
    path = write_vocabulary(tmp_path / "vocabulary.gguf", vocabulary)
    with pytest.raises(ConvertError, match=said):
        gguf_tokenizer.tokenizer(metadata_of(path))


def test_a_token_twice_is_named(tmp_path):
    vocabulary = bytes_vocabulary()
    vocabulary["tokens"][259] = "th"
    path = write_vocabulary(tmp_path / "vocabulary.gguf", vocabulary)
    with pytest.raises(ConvertError, match=re.escape("the token 'th' more than once")):
        gguf_tokenizer.tokenizer(metadata_of(path))


def test_a_second_end_is_kept(tmp_path):
    path = write_vocabulary(tmp_path / "v.gguf", bytes_vocabulary() | {"eot_token_id": 260})
    assert gguf_tokenizer.generation(metadata_of(path))["eos_token_id"] == [1, 260]
