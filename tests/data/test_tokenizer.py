"""Tokenizers give every text back."""

import pickle
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import sentencepiece
from hypothesis import example, given, settings

from marker_lm.data.tokenizers.base import Tokenizer, TokenizerError
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import train_bpe, train_sentencepiece

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    "The capital of France is Paris.\nThe capital of Japan is 東京.\n\n- one\n- two",
    "def f(x):\n    return x + 12345\n",
    "| a | b |\n|---|---|\n\tSchlüssel: Größe, ¿qué tal?",
    "ประเทศไทย คือ อะไร 日本の首都は東京です。",
]
TRICKY = [
    "",
    " ",
    "\n",
    "a\nb",
    "\t\tx",
    "   two   spaces   ",
    "\r\n\r",
    "<0x0A>",
    "</s><unk><pad><s>",
    "▁",
    "a▁b",
    " ▁ ▁▁ a▁",
    "⁇ a ⁇ b",
    "e\u0301 \u00e9 \ufb01 \uff21",
    "\x00a\x00",
    "\ufeff\u200b\u2028\x85\ufffd",
    "𐍈👩‍👩‍👧 ወጪ",
]


@pytest.fixture(scope="module")
def pieces():
    return train_sentencepiece(LINES * 5, 500)


@pytest.fixture(scope="module")
def merges():
    return train_bpe(LINES * 5, 400)


@pytest.fixture(params=["pieces", "bytes", "merges"])
def tokenizer(request, pieces, merges):
    return {"pieces": pieces, "bytes": ByteTokenizer(), "merges": merges}[request.param]


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.size for i in ids)
    assert not {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id} & set(ids)
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ODD_TEXT = st.text(st.sampled_from("▁ \n\t<>0xA/s⁇a1\0東"))


@settings(deadline=None, max_examples=300)
@given(st.lists(ANY_TEXT | ODD_TEXT, min_size=1, max_size=4))
@example(["▁ ", " ▁"])
def test_any_text_round_trips_alone_and_in_a_batch(pieces, merges, texts):
    for tokenizer in (pieces, ByteTokenizer(), merges):
        batch = tokenizer.encode_batch(texts)
        assert [tokenizer.decode(ids) for ids in batch] == texts
        assert batch == [tokenizer.encode(text) for text in texts]


def test_ids_and_digits(pieces, merges):
    for tokenizer in (pieces, ByteTokenizer(), merges):
        assert isinstance(tokenizer, Tokenizer)
        assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
        assert tokenizer.unk_id == (1 if tokenizer is merges else 2)
        assert tokenizer.bos_id is None
        assert tokenizer.lossless is (tokenizer is not merges)
        digits = tokenizer.encode("0123456789")
        assert len(digits) == 10 == len(set(digits))
    assert len(pieces.encode("2024")) == len(merges.encode("2024")) == 4


def test_space_and_digits_are_pieces_even_without_any_in_the_training_text():
    tokenizer = train_sentencepiece(["東京大阪京都"] * 3, 400)
    assert tokenizer.decode(tokenizer.encode("東 京 12")) == "東 京 12"
    assert len(tokenizer.encode("12")) == 2


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "▁\udc00"])
def test_lone_surrogate_is_one_sentence(tokenizer, text):
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode_batch(["fine", text])


def test_decode_leaves_out_control_ids_and_refuses_reserved_ones(tokenizer):
    ids = tokenizer.encode("abc")
    assert tokenizer.decode([*ids, tokenizer.eos_id, tokenizer.pad_id]) == "abc"
    for bad in (tokenizer.size, -1):
        with pytest.raises(TokenizerError, match=f"the id {bad} is outside"):
            tokenizer.decode([*ids, bad])


def test_broken_bytes_become_replacement_characters():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"
    assert tokenizer.decode([tokenizer.unk_id]) == "\ufffd"


def test_save_load_hash_and_pickle(tokenizer, pieces, tmp_path):
    tokenizer.save(tmp_path / "saved")
    for other in (load_tokenizer(tmp_path / "saved"), pickle.loads(pickle.dumps(tokenizer))):
        assert type(other) is type(tokenizer)
        assert other.hash == tokenizer.hash
        assert other.encode(LINES[0]) == tokenizer.encode(LINES[0])
    assert pieces.hash != ByteTokenizer().hash
    assert load_tokenizer("bytes").hash == ByteTokenizer().hash


def test_training_is_deterministic(pieces, merges):
    assert train_sentencepiece(LINES * 5, 500).hash == pieces.hash
    assert train_bpe(LINES * 5, 400).hash == merges.hash


def test_a_sample_is_the_same_in_every_process_and_not_the_first_texts():
    """In one process the trainer's own sample repeats itself."""
    code = """
from marker_lm.data.tokenizers.training import train_bpe, train_sentencepiece
letters = str.maketrans("0123456789", "abcdefghij")
texts = [f"{n} {n * 7919 % 1000} {n * 104729 % 1000}".translate(letters) for n in range(2000)]
for chosen, most in ((texts, 500), (texts[:500], 0), (texts, 0)):
    for train in (train_sentencepiece, train_bpe):
        print(train(iter(chosen), 330, max_texts=most).hash)
"""
    run = [sys.executable, "-c", code]
    one, other = (
        subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
        for _ in range(2)
    )
    assert one == other and len(set(one)) == 6


def test_load_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no tokenizer at"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path / "bad.model")


def test_training_needs_text_and_room():
    with pytest.raises(TokenizerError, match="could not train"):
        train_sentencepiece([], 500)
    with pytest.raises(TokenizerError, match="could not train a model of 100 pieces"):
        train_sentencepiece(LINES, 100)
    with pytest.raises(TokenizerError, match="can't have 257 tokens"):
        train_bpe(LINES, 257)


def test_a_model_that_loses_text_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 5),
        model_prefix=str(tmp_path / "lossy"),
        vocab_size=100,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(TokenizerError, match="byte_fallback"):
        load_tokenizer(tmp_path / "lossy.model")


def train_others(folder, **options):
    """A SentencePiece model as Llama 2's: with a space before every text and bos."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 5),
        model_prefix=str(folder / "others"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return folder / "others.model"


def test_spaces_that_a_model_adds_and_removes_are_switched_off(tmp_path, caplog):
    path = train_others(tmp_path, normalization_rule_name="identity")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert processor.decode(processor.encode("  a  b ")) != "  a  b "
    tokenizer = load_tokenizer(path)
    assert "switched off" in caplog.text and "add_dummy_prefix" in caplog.text
    assert tokenizer.lossless and tokenizer.bos_id == 1
    # Its own ids are those that follow the space that it would put first.
    assert processor.encode("two") == tokenizer.encode(" two")
    for text in TRICKY:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    caplog.clear()
    tokenizer.save(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved")
    assert saved.hash == tokenizer.hash and not caplog.text


def test_a_model_that_normalizes_is_taken_and_says_so(tmp_path):
    tokenizer = load_tokenizer(train_others(tmp_path, normalization_rule_name="nfkc"))
    assert not tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode("  x\uff21\n")) == "  xA\n"


def test_a_model_that_loses_line_breaks_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="normalization rule is 'nmt_nfkc'"):
        load_tokenizer(train_others(tmp_path))
