"""Lengths counted token by token, and answers that are held to them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate.lengths import words
from marker_lm.data.tokenizers.training import train_sentencepiece
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.lengths import LEAST, PULL, hold, longer, no_length, token_units
from marker_lm.decoding.sampling import Sampling
from tests.decoding.small import (
    TOKENIZER,
    between_spaces,
    block_ids,
    full_logits,
    make_engine,
    prefix,
)

TEXTS = ["It's the 1st of 20 days.", "यह मेरी किताब है", "Der Hund läuft - schnell.", "我 有 书"]


@pytest.fixture(scope="module")
def pieces():
    """A tokenizer whose tokens are characters and pieces of words."""
    return train_sentencepiece(TEXTS * 20, 330)


def length(tokenizer, count, ids: list[int]) -> int:
    units, found = token_units(tokenizer, count, tokenizer.size + 5), no_length(1)
    for id in ids:
        found = longer(found, units, np.asarray([id]))
    return int(found.count_B[0])


@given(st.text("ab,' -\n\té書", max_size=30))
def test_words_between_spaces_are_counted_exactly(text):
    assert length(TOKENIZER, between_spaces, TOKENIZER.encode(text)) == between_spaces(text)


@given(st.text("ab1 .-\n", max_size=30))
def test_characters_are_counted_exactly(text):
    assert length(TOKENIZER, len, TOKENIZER.encode(text)) == len(text)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("count", [between_spaces, words])
def test_words_of_real_sentences_are_counted_exactly(pieces, text, count):
    assert length(pieces, count, pieces.encode(text)) == count(text)


def test_ends_are_kept_off_and_then_pulled():
    count = np.asarray([0, 7, 8, 10, 12, 7], np.int32)
    asked = np.asarray([10, 10, 10, 10, 10, 0], np.int32)
    logits = np.arange(24, dtype=np.float32).reshape(6, 4)
    held = np.asarray(hold(jnp.asarray(logits), (1, 3), jnp.asarray(count), jnp.asarray(asked)))
    np.testing.assert_array_equal(held[:, [0, 2]], logits[:, [0, 2]])
    pulls = [-np.inf, -np.inf, 0, PULL, PULL * 0.4 / 0.2, 0]
    for end in (1, 3):
        np.testing.assert_allclose(held[:, end] - logits[:, end], pulls, atol=1e-4)


def test_an_answer_is_held_and_its_likelihood_is_the_models():
    """Every token is the argmax of a full forward pass, once the ends are held."""
    engine = make_engine("compact")
    engine.measure("characters", len)
    free = Sampling(max_tokens=60)
    asked = (0, 3, 20, 40)
    prompts, sampling = ["a b"] * len(asked), [dataclasses.replace(free, length=n) for n in asked]
    results = engine.generate(prompts, None, sampling)
    assert results[0].tokens == engine.generate(["a b"], None, [free])[0].tokens
    for n, result in zip(asked, results, strict=True):
        head = prefix(engine, "a b", {}) + block_ids(engine, result.markers)
        written = [*result.tokens, *[engine.layout.eos] * (result.reason == "end")]
        all_logits = full_logits(engine, [*head, *written])[len(head) - 1 : -1]
        for at, (row, token) in enumerate(zip(all_logits, written, strict=True)):
            row = row[: TOKENIZER.size].copy()
            share = sum(map(len, map(TOKENIZER.decode, [[id] for id in written[:at]]))) / max(n, 1)
            pull = -np.inf if share < LEAST else PULL * (share - LEAST) / (1 - LEAST)
            row[engine.layout.eos] += pull if n else 0
            assert token == np.argmax(row)
        whole = np.logaddexp.reduce(all_logits, axis=-1)
        chosen = all_logits[np.arange(len(written)), written]
        assert result.log_likelihood == pytest.approx((chosen - whole).sum(), rel=1e-4)
    assert all(r.reason == "end" for r in results[1:])
    assert len(results[1].tokens) < len(results[2].tokens) < len(results[3].tokens)


def test_an_answer_under_guidance_is_held():
    engine = make_engine("compact")
    engine.measure("characters", len)
    sampling = Sampling(max_tokens=60, length=12)
    [result] = engine.generate(["a b"], Controls({"lang": "Engl"}), sampling, Guidance(2.0))
    assert result.reason == "end" and len(result.text) >= LEAST * 12


def test_a_length_of_nothing_is_refused():
    engine = make_engine("compact", separator=(10, 10))  # one that no other test has measured
    with pytest.raises(ValueError, match="length is 3, and nothing says of what"):
        engine.generate(["a"], None, Sampling(length=3))
    with pytest.raises(ValueError, match="length is -1; it must be 0 or more"):
        Sampling(length=-1)
