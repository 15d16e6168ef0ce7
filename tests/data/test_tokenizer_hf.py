"""Tokenizers of Hugging Face folders: ids are the library's, texts come back, damage is named."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import tokenizers
from hypothesis import given, settings

from marker_lm.data.tokenizers.base import Tokenizer, TokenizerError
from marker_lm.data.tokenizers.hf import HFTokenizer, load_hf
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import train_bpe
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.markers.template import TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
BYTE_LEVEL |= {"use_regex": True}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ODD_TEXT = st.text(st.sampled_from("▁ \n\t<>0xA/s⁇a1\0東é<|e"))


def added(content, id, **flags):
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {"id": id, "content": content, "special": True} | dict.fromkeys(names, False) | flags


def byte_level(*more, **parts):
    """GPT-2's kind: every byte is a token, id 0 is a real one, two merges; `more` are added."""
    vocab = {character: i for i, character in enumerate(ALPHABET)} | {"th": 256, "Ġth": 257}
    model = {"type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["Ġ", "th"]]}
    model |= {"dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    content = {"version": "1.0", "added_tokens": [added("<eos>", 258), *more]}
    content |= {"normalizer": None, "pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL}
    return content | {"model": model, "post_processor": None} | parts


def metaspace(pre_tokenizer=True):
    """Llama's kind: spaces are ▁, one before every text, and unknown characters are bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    pieces += [chr(i) for i in range(33, 127)] + ["th", "▁th"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    content = byte_level()
    content["model"] |= {"vocab": vocab, "merges": [["t", "h"], ["▁", "th"]], "unk_token": "<unk>"}
    content["model"] |= {"fuse_unk": True, "byte_fallback": True}
    content["added_tokens"] = [added(piece, i) for i, piece in enumerate(pieces[:3])]
    content["decoder"] = {"type": "Sequence", "decoders": decoders}
    content["pre_tokenizer"] = None
    if pre_tokenizer:
        space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
        content["pre_tokenizer"] = space | {"split": False}
    else:
        to_space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        prepend = {"type": "Prepend", "prepend": "▁"}
        content["normalizer"] = {"type": "Sequence", "normalizers": [prepend, to_space]}
    return content


EOS = {"eos_token": "<eos>"}
LLAMA = {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "unk_token": "<unk>"}
LLAMA |= {"add_bos_token": True}
PLAIN = HFTokenizer(byte_level(), EOS)
PREPEND = HFTokenizer(metaspace(False), LLAMA)
METASPACE = HFTokenizer(metaspace(), LLAMA)
KINDS = {"byte level": PLAIN, "prepend": PREPEND, "metaspace": METASPACE}
every_kind = pytest.mark.parametrize("tokenizer", KINDS.values(), ids=KINDS)


@settings(deadline=None, max_examples=200)
@given(st.lists(ANY_TEXT | ODD_TEXT, min_size=1, max_size=4))
def test_ids_are_the_library_s_and_texts_come_back(texts):
    for tokenizer in KINDS.values():
        library = tokenizers.Tokenizer.from_str(tokenizer.json)
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert ids == tokenizer.encode(text)
            assert ids == library.encode(text, add_special_tokens=False).ids
            special = any(token in text for token in ("<eos>", "<s>", "</s>", "<unk>"))
            if not special and (tokenizer is PLAIN or "▁" not in text):
                assert tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_ids_decode_and_have_pieces(data):
    for tokenizer in KINDS.values():
        ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1)))
        assert isinstance(tokenizer.decode(ids), str)
        assert all(isinstance(tokenizer.piece(i), str) for i in ids)


@every_kind
def test_codecs_of_both_templates(tokenizer):
    for name in ("paper", "atlas"):
        for template in TEMPLATES:
            codec = MarkerCodec(load_taxonomy(name), template, tokenizer)
            assert codec.n_reserved == 0 or codec.open == (tokenizer.size,)


def test_ids_of_special_tokens_and_what_stands_in_where_there_is_none():
    assert isinstance(PLAIN, Tokenizer)
    assert (PLAIN.size, PLAIN.eos_id, PLAIN.pad_id, PLAIN.unk_id) == (259, 258, 258, 258)
    assert PLAIN.bos_id is None and PLAIN.special == EOS
    assert (PREPEND.bos_id, PREPEND.eos_id, PREPEND.unk_id, PREPEND.pad_id) == (1, 2, 0, 2)
    assert PREPEND.special["bos_token"] == "<s>"
    generation = {"eos_token_id": [258, 3], "pad_token_id": 0}
    other = HFTokenizer(byte_level(), {"eos_token": None}, generation)
    assert (other.eos_id, other.pad_id) == (258, 0)
    both = HFTokenizer(byte_level(), EOS, {"eos_token_id": 3})
    assert both.eos_id == 258


def test_bos_only_where_the_tokenizer_puts_it_before_a_text():
    config = EOS | {"bos_token": "<bos>"}
    with_bos = byte_level(added("<bos>", 259))
    template = {"type": "TemplateProcessing", "pair": []}
    template["single"] = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}]
    template["single"] += [{"Sequence": {"id": "A", "type_id": 0}}]
    template["pair"] = template["single"] + [{"Sequence": {"id": "B", "type_id": 1}}]
    tokens = {"<bos>": {"id": "<bos>", "ids": [259], "tokens": ["<bos>"]}}
    adding = with_bos | {"post_processor": template | {"special_tokens": tokens}}
    assert HFTokenizer(with_bos, config).bos_id is None
    assert HFTokenizer(with_bos, config | {"add_bos_token": True}).bos_id == 259
    assert HFTokenizer(adding, config).bos_id == 259
    assert HFTokenizer(adding, config | {"add_bos_token": False}).bos_id is None
    # What is never put anywhere is a token like others: a chat template may write it.
    assert HFTokenizer(with_bos, config).decode([259, 0]) == "<bos>!"
    assert HFTokenizer(adding, config).decode([259, 0]) == "!"


def test_special_tokens_gaps_and_both_ends_of_the_range():
    tokenizer = HFTokenizer(byte_level(added("<|Größe|>", 300), added("<end>", 511)), EOS)
    assert tokenizer.size == 512
    ids = tokenizer.encode("!<|Größe|> th<end>é<eos>")
    assert ids == [0, 300, 257, 511, *tokenizer.encode("é"), 258]
    assert tokenizer.decode(ids) == "!<|Größe|> th<end>é"
    assert tokenizer.decode([0, 299, 0]) == "!\ufffd!" and tokenizer.piece(299) == "<no token 299>"
    assert [tokenizer.piece(i) for i in ids[:4]] == ["!", "<|Größe|>", " th", "<end>"]
    for bad in (-1, 512):
        with pytest.raises(TokenizerError, match=f"the id {bad} is outside"):
            tokenizer.decode([bad])


@every_kind
def test_broken_bytes_and_their_pieces(tokenizer):
    first, *rest = tokenizer.encode("東")
    assert tokenizer.decode([first]) == "\ufffd" and tokenizer.piece(first) == "<0xE6>"
    assert tokenizer.decode([first, tokenizer.pad_id, *rest, tokenizer.eos_id]) == "東"
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


def test_a_space_before_every_text_is_switched_off_and_logged_once(tmp_path, caplog):
    for content in (metaspace(True), metaspace(False)):
        before = tokenizers.Tokenizer.from_str(json.dumps(content))
        assert before.encode("the").tokens == ["▁th", "e"]
        caplog.clear()
        tokenizer = HFTokenizer(content, LLAMA)
        assert [record.getMessage() for record in caplog.records] == [
            "tokenizer.json: switched off for spans: the space before every text"
        ]
        assert [tokenizer.piece(i) for i in tokenizer.encode("the th")] == ["th", "e", " th"]
        assert tokenizer.decode(tokenizer.encode(" a")) == " a"
        caplog.clear()
        tokenizer.save(tmp_path)
        assert load_tokenizer(tmp_path).hash == tokenizer.hash and not caplog.records


def test_texts_are_never_cut_padded_or_tokenized_by_chance(caplog):
    content = byte_level()
    content["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content["truncation"] |= {"direction": "Right"}
    content["padding"] = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_id": 0}
    content["padding"] |= {"pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "!"}
    content["model"]["dropout"] = 0.5
    tokenizer = HFTokenizer(content, EOS)
    assert "truncation, padding, dropout" in caplog.text
    assert tokenizer.encode("a") == PLAIN.encode("a")
    assert {tuple(tokenizer.encode(" the" * 9)) for _ in range(20)} == {
        tuple(PLAIN.encode(" the" * 9))
    }


def test_normalizers_are_kept():
    tokenizer = HFTokenizer(byte_level(normalizer={"type": "NFC"}), EOS)
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "\u00e9"


def test_save_load_hash_and_pickle(tmp_path):
    templates = [{"name": "default", "template": "{{ x }}\n"}, {"name": "rag", "template": "r"}]
    config = LLAMA | {"chat_template": templates, "model_max_length": 64}
    tokenizer = HFTokenizer(metaspace(), config)
    assert tokenizer.chat_template == "{{ x }}\n"
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for other in (
        loaded,
        load_tokenizer(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
        pickle.loads(pickle.dumps(loaded)),
    ):
        assert other.hash == tokenizer.hash and other.special == tokenizer.special
        assert other.chat_templates == {"default": "{{ x }}\n", "rag": "r"}
        assert other.bos_id == 1 and other.encode("the 東") == tokenizer.encode("the 東")
    assert (
        PLAIN.hash != tokenizer.hash != HFTokenizer(metaspace(), LLAMA | {"eos_token": "<s>"}).hash
    )
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.j*")}
    assert names == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
    }


def test_folders_say_things_in_several_files(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(byte_level()), "utf-8")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 258}')
    assert load_tokenizer(tmp_path).eos_id == 258
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "!"}}')
    assert load_tokenizer(tmp_path).eos_id == 0
    config = {"eos_token": "<eos>", "chat_template": "old"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).eos_id == 258
    assert load_tokenizer(tmp_path).chat_template == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert load_tokenizer(tmp_path).chat_template == "new"


def test_workers_and_forks_hear_no_warning_of_the_library():
    code = """
import multiprocessing, os
from tests.data.test_tokenizer_hf import PLAIN
PLAIN.encode_batch(["the"] * 100)
for way in ("fork", "spawn"):
    with multiprocessing.get_context(way).Pool(1) as pool:
        assert pool.apply(PLAIN.encode, ["the"]) == PLAIN.encode("the")
"""
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "parallelism" not in done.stderr


def without(content, *keys):
    return {key: value for key, value in content.items() if key not in keys}


WORD_PIECE = {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
LOSSY = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, BYTE_LEVEL]}
DAMAGE = {
    "no eos": (byte_level(), {}, "has no eos token"),
    "unknown eos": (byte_level(), {"eos_token": "<x>"}, "eos_token '<x>' is no token"),
    "word piece": (byte_level(model=WORD_PIECE), EOS, "holds a WordPiece model"),
    "no model": (without(byte_level(), "model"), EOS, "has no 'model'"),
    "no spaces": (byte_level(pre_tokenizer=LOSSY), EOS, "does not even give a plain English text"),
    "no decoder": (byte_level(decoder=None), EOS, "does not even give a plain English text"),
    "unknown part": (byte_level(decoder={"type": "Magic"}), EOS, "can't read tokenizer.json"),
    "same id": (byte_level(added("<x>", 258)), EOS, "id 258 of the added token '<x>' collides"),
    "id of a piece": (byte_level(added("<x>", 7)), EOS, "the id 7 of the added token '<x>'"),
    "two ids": (byte_level(added("th", 300)), EOS, "id 300 of the added token 'th' collides"),
}


@pytest.mark.parametrize(("content", "config", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_sentence(content, config, words, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=words) as found:
        load_tokenizer(tmp_path)
    assert str(found.value).startswith(f"{tmp_path}: ") and "\n" not in str(found.value)


def test_two_pieces_of_one_id():
    content = byte_level()
    content["model"]["vocab"]["th"] = 3
    with pytest.raises(TokenizerError, match="gives '.*' and '.*' the same id 3"):
        HFTokenizer(content, EOS)


def test_files_that_are_not_there_or_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json"):
        load_hf(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(TokenizerError, match="tokenizer.json is no JSON"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(TokenizerError, match="holds no JSON object"):
        load_tokenizer(tmp_path)


@pytest.mark.extra
@pytest.mark.parametrize("kind", [*KINDS, "trained"])
@pytest.mark.parametrize("model_type", ["", "llama", "qwen3", "gemma2"])
def test_transformers_reads_a_saved_folder_to_the_same_ids(kind, model_type, tmp_path):
    transformers = pytest.importorskip("transformers")
    trained = train_bpe(["The 1st line.\n", "東京 2024"] * 5, 300)
    tokenizer = KINDS.get(kind, trained)
    tokenizer.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the th  a\n\n 東京 2024é", " x", "", "<eos>a</s>", "a\tb \x00"):
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        assert theirs.encode(text) == bos + ids
        if not set(ids) & {tokenizer.eos_id}:
            assert theirs.decode(ids) == tokenizer.decode(ids) == text
    assert theirs.eos_token_id == tokenizer.eos_id and len(theirs) == tokenizer.size
