"""Tokenizers as SeqIO vocabularies: the library's ids, in Python and in TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from marker_lm.data.tokenizers.training import train_bpe
from marker_lm.data.vocabularies import TokenizerVocabulary
from tests.data.small import mix_texts
from tests.data.test_tokenizer_hf import KINDS

TEXTS = ["!the th", "", "東京 é\n\n  x", "a\t\x00b"]


@pytest.mark.parametrize("tokenizer", KINDS.values(), ids=KINDS)
def test_python_and_tensorflow_agree_with_the_library(tokenizer):
    library = tokenizers.Tokenizer.from_str(tokenizer.json)
    vocabulary = TokenizerVocabulary(tokenizer, reserved=3)
    assert vocabulary.vocab_size == tokenizer.size + 3
    batch = vocabulary.encode_tf(tf.constant(TEXTS)).to_list()
    for text, ids in zip(TEXTS, batch, strict=True):
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert (
            ids
            == vocabulary.encode(text)
            == vocabulary.encode_tf(tf.constant(text)).numpy().tolist()
        )
        assert vocabulary.decode(ids) == text
        if ids:
            assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text
    ends = [0, tokenizer.size - 1, tokenizer.size, tokenizer.size + 2]
    text = tokenizer.decode([0, tokenizer.size - 1, tokenizer.unk_id, tokenizer.unk_id])
    assert vocabulary.decode(ends) == text
    assert vocabulary.decode_tf(tf.constant(ends)).numpy().decode() == text


@pytest.mark.slow
def test_rows_of_the_mix_have_the_library_s_ids_and_come_back():
    texts = list(mix_texts(5000))
    tokenizer = train_bpe(texts[::10], 2000)
    library = tokenizers.Tokenizer.from_str(tokenizer.json)
    vocabulary = TokenizerVocabulary(tokenizer)
    found = vocabulary.encode_tf(tf.constant(texts))
    ends = found.row_splits.numpy()
    expected = library.encode_batch_fast(texts, add_special_tokens=False)
    flat = np.concatenate([one.ids for one in expected])
    assert (np.diff(ends) == [len(one.ids) for one in expected]).all()
    assert (found.values.numpy() == flat).all()
    decoded = [vocabulary.decode(row) for row in np.split(flat, ends[1:-1])]
    assert decoded == texts
