"""Any tokenizer as a tokenizer.json: the same ids, and for markers those of the codec."""

import json

import hypothesis.strategies as st
import pytest
import sentencepiece
from hypothesis import given, settings

from marker_lm.data.tokenizers.base import TokenizerError
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.data.tokenizers.export import as_hf, with_marker_tokens
from marker_lm.data.tokenizers.hf import HFTokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.sentencepiece import SentencePieceTokenizer
from marker_lm.data.tokenizers.training import train_bpe, train_sentencepiece
from marker_lm.markers.category import Category
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy
from marker_lm.markers.template import reserved_tokens

LINES = [
    "The capital of France is Paris.\nThe capital of Japan is 東京.\n\n- one\n- two",
    "def f(x):\n    return x + 12345\n",
    "| a | b |\n|---|---|\n\tSchlüssel: Größe, ¿qué tal?",
    "ประเทศไทย คือ อะไร 日本の首都は東京です。",
] * 5


def train_others(folder, **options):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_prefix=str(folder / "others"),
        vocab_size=420,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return load_tokenizer(folder / "others.model")


def with_a_gap():
    content = json.loads(train_bpe(LINES, 300).json)
    far = {**content["added_tokens"][-1], "id": 400, "content": "<far>"}
    content["added_tokens"].append(far)
    return HFTokenizer(content, {"eos_token": "<|endoftext|>"})


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    return {
        "bytes": ByteTokenizer(),
        "unigram": train_sentencepiece(LINES, 500),
        "sentencepiece bpe": train_sentencepiece(LINES, 500, model_type="bpe"),
        "llama": train_others(folder, model_type="bpe", normalization_rule_name="identity"),
        "nfkc": train_others(
            folder, normalization_rule_name="nfkc", user_defined_symbols=["<sep>"]
        ),
        "bpe": train_bpe(LINES, 400),
        "gap": with_a_gap(),
    }


KINDS = ["bytes", "unigram", "sentencepiece bpe", "llama", "nfkc", "bpe", "gap"]


@pytest.fixture(params=KINDS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


@pytest.mark.parametrize("name", ["paper", "atlas"])
def test_marker_tokens_have_the_ids_of_the_codec(tokenizer, name, tmp_path):
    taxonomy = load_taxonomy(name)
    codec = MarkerCodec(taxonomy, "compact", tokenizer)
    with_marker_tokens(tokenizer, taxonomy).save(tmp_path)
    served = load_tokenizer(tmp_path)
    names = reserved_tokens(taxonomy)
    assert served.size == tokenizer.size + len(names)
    assert served.encode("".join(names)) == list(range(tokenizer.size, served.size))
    assert [served.piece(tokenizer.size + i) for i in range(len(names))] == names
    assert served.eos_id == tokenizer.eos_id and served.bos_id == tokenizer.bos_id
    value = next(iter(taxonomy.categories["length_bucket"].values))
    ids = codec.open + codec.marker("length_bucket", value) + codec.close
    text = f"<|MARKER_LIST|><|length_bucket|><|length_bucket={value}|><|/MARKER_LIST|>"
    assert served.encode(f"12 a{text} b") == [
        *tokenizer.encode("12 a"),
        *ids,
        *tokenizer.encode(" b"),
    ]
    assert served.decode(ids) == text


@settings(deadline=None, max_examples=150)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
def test_any_text_has_the_same_ids_and_comes_back_the_same(tokenizers, text):
    for kind, tokenizer in tokenizers.items():
        ids = tokenizer.encode(text)
        found = as_hf(tokenizer).encode(text)
        # Two ways to cut a text may be equally likely.
        assert found == ids or ("unigram" in kind and sorted(found) == sorted(ids))
        assert as_hf(tokenizer).decode(ids) == tokenizer.decode(ids)


def test_names_of_byte_pieces_are_text(tokenizers):
    for tokenizer in tokenizers.values():
        for text in ("<0x0A>", "a <0xE6><0x0a>\n", "<<0x41>>"):
            assert as_hf(tokenizer).decode(as_hf(tokenizer).encode(text)) == text


def test_a_model_that_is_not_the_same_as_tokenizer_json_is_refused(tokenizers):
    def shouts(tokenizer, texts):
        upper = [text.upper() for text in texts]
        return SentencePieceTokenizer.encode_batch(tokenizer, upper)

    class Shouting(SentencePieceTokenizer):
        encode_batch = shouts

    with pytest.raises(TokenizerError, match="as tokenizer.json the tokenizer would give"):
        as_hf(Shouting(tokenizers["unigram"].model))
    with pytest.raises(TokenizerError, match="as tokenizer.json the tokenizer would give 'x▁'"):
        as_hf(tokenizers["unigram"], ["x▁"])


def test_kinds_that_tokenizer_json_has_not(tmp_path):
    characters = train_others(tmp_path, model_type="char", normalization_rule_name="nfkc")
    with pytest.raises(TokenizerError, match="only unigram and BPE models"):
        as_hf(characters)
    with pytest.raises(TokenizerError, match="a str can't be written as tokenizer.json"):
        as_hf("text")


def test_a_name_that_is_a_token_already():
    category = Category("pad", "closed", "d", "metadata", "prompt", {"x": "d"})
    with pytest.raises(TokenizerError, match=r"has a token '<\|pad\|>' already \(id 0\)"):
        with_marker_tokens(ByteTokenizer(), Taxonomy("small", {"pad": category}))


@pytest.mark.extra
def test_transformers_reads_marker_tokens_to_the_same_ids(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    taxonomy = load_taxonomy("paper")
    with_marker_tokens(tokenizer, taxonomy).save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "".join(reserved_tokens(taxonomy))
    ids = theirs.encode(text, add_special_tokens=False)
    assert ids == list(range(tokenizer.size, tokenizer.size + len(ids)))
    assert theirs.decode(ids, skip_special_tokens=True) == ""
    for text in LINES[:4]:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
