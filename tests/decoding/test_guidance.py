"""Guidance and contrast against sums over two forward passes; the ends of w are plain decoding."""

import dataclasses

import numpy as np
import pytest

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.request import Request
from marker_lm.decoding.sampling import Sampling
from tests.decoding.small import TOKENIZER, full_logits, log_softmax, make_engine

PROMPTS = ["Name the capital of Japan, please.", "Hi.", "x"]
PINNED = Controls({"lang": "German", "words": 12}, banned=frozenset({"style"}))
GREEDY = Sampling(max_tokens=20)
RANDOM = Sampling(temperature=1.0, top_k=30, marker_temperature=1.0, max_tokens=20, seed=5)


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM], ids=["greedy", "random"])
@pytest.mark.parametrize("template", ["text", "compact"])
def test_weight_one_is_plain_and_zero_is_unpinned_to_the_bit(template, sampling):
    engine = make_engine(template)
    without = dataclasses.replace(PINNED, pinned={})
    plain = engine.generate(PROMPTS, PINNED, sampling)
    assert engine.generate(PROMPTS, PINNED, sampling, Guidance(1.0)) == plain
    unpinned = engine.generate(PROMPTS, without, sampling)
    zero = engine.generate(PROMPTS, PINNED, sampling, Guidance(0.0))
    for a, b, c in zip(zero, unpinned, plain, strict=True):
        assert a.tokens == b.tokens and a.text == b.text and a.tokens != c.tokens
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-5)
        assert a.markers == c.markers and a.pinned == c.pinned


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(2.0),
        Guidance(-0.5),
        Guidance(1.5, categories=frozenset({"words"})),
        Guidance(3.0, against=Controls({"lang": "English"}, asked=frozenset({"topics"}))),
    ],
    ids=["all", "negative", "one category", "contrast"],
)
@pytest.mark.parametrize("template", ["text", "compact"])
def test_each_token_is_the_argmax_of_the_mixture(template, guidance):
    engine = make_engine(template)
    other = guidance.other(engine.check(PINNED))
    results = engine.generate(PROMPTS, PINNED, GREEDY, guidance)
    # The other row writes its own block, as it would by itself.
    alone = engine.generate(PROMPTS, other, GREEDY)
    for prompt, result, single in zip(PROMPTS, results, alone, strict=True):
        rows = []
        for controls, markers in ((PINNED, result.markers), (other, single.markers)):
            given = engine.check(controls)
            head = engine.lane(prompt, given, GREEDY)
            begun = len(head.block.tokens)
            spans = [engine.codec.marker(c, v) for c, v in markers.items()]
            block = [*engine.layout.open, *sum(map(list, spans), []), *engine.layout.close]
            ids = head.ids[: len(head.ids) - begun] + block
            rows.append(full_logits(engine, [*ids, *result.tokens])[len(ids) - 1 : -1])
        c, u = rows
        mixed = u + guidance.weight * (c - u)
        assert result.tokens == tuple(np.argmax(mixed[:, : TOKENIZER.size], axis=-1))
        log_p = log_softmax(mixed)[np.arange(len(mixed)), result.tokens].sum()
        assert result.log_likelihood == pytest.approx(log_p, abs=2e-3)
    assert [r.tokens for r in results] != [
        r.tokens for r in engine.generate(PROMPTS, PINNED, GREEDY)
    ]


def test_guided_and_plain_rows_share_a_job():
    engine = make_engine("compact")
    guides = [None, Guidance(2.0), Guidance(0.5), None, Guidance(2.0), Guidance(1.0), None]
    requests = [Request(PROMPTS[i % 3], PINNED, RANDOM, guide) for i, guide in enumerate(guides)]
    together = dict(engine.run(requests))
    for number, request in enumerate(requests):
        [(_, alone)] = engine.run([request])
        assert alone.tokens == together[number].tokens
    assert together[1].tokens == together[4].tokens != together[2].tokens


def test_nothing_pinned_is_plain():
    engine = make_engine("compact")
    plain = engine.generate(PROMPTS, None, GREEDY)
    guided = engine.generate(PROMPTS, None, GREEDY, Guidance(4.0))
    assert [r.tokens for r in guided] == [r.tokens for r in plain]


def test_a_long_answer_ends_where_the_longer_of_both_is_full():
    engine = make_engine("compact")
    prompt = "x" * (engine.config.max_len - 30)
    plain = engine.generate([prompt], PINNED, Sampling(max_tokens=99))[0]
    guided = engine.generate([prompt], PINNED, Sampling(max_tokens=99), Guidance(2.0))[0]
    assert plain.reason == guided.reason == "length"
    assert len(guided.tokens) <= len(plain.tokens)


def test_weights_and_settings_that_can_not_be():
    with pytest.raises(ValueError, match="guidance weight is nan; it must be a finite number"):
        Guidance(float("nan"))
    with pytest.raises(ValueError, match="give one of the two"):
        Guidance(2.0, Controls(), frozenset({"lang"}))
