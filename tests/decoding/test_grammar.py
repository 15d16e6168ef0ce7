"""Random walks: what is written parses, obeys the controls, and is canonical."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.grammar import (
    MAX_FRACTION,
    MAX_WHOLE,
    Block,
    Grammar,
    choose,
    number_steps,
    probabilities,
)
from marker_lm.markers.template import number_text
from tests.decoding.small import ORDER, TOKENIZER, make_codec, make_layout, make_taxonomy

TAXONOMY = make_taxonomy()
TEMPLATES = ("text", "compact")
VOCAB = {t: TOKENIZER.size + make_codec(t).n_reserved for t in TEMPLATES}
VALUES = {
    "lang": st.sampled_from(["English", "Engl", "German"]),
    "style": st.sampled_from(["a<b&c", "a"]),
    "topics": st.lists(st.sampled_from(["art", "arts", "law", "music"]), min_size=1).map(
        lambda topics: make_taxonomy().check("topics", topics)
    ),
    "words": st.integers(-(2**63), 2**63 - 1),
    "score": st.floats(allow_nan=False, allow_infinity=False),
    "words_bucket": st.sampled_from(["few", "many"]),
}


def make_grammar(template: str) -> Grammar:
    return Grammar(TAXONOMY, make_codec(template), make_layout(template))


@st.composite
def controls(draw):
    states = {c: draw(st.sampled_from(["free", "pinned", "banned", "asked"])) for c in ORDER}
    return Controls(
        pinned={c: draw(VALUES[c]) for c, state in states.items() if state == "pinned"},
        banned=frozenset(c for c, state in states.items() if state == "banned"),
        asked=frozenset(c for c, state in states.items() if state == "asked"),
    )


def walk(block: Block, template: str, seed: int, temperature: float = 1.0) -> list[list[int]]:
    """Writes a block from random logits; returns what was allowed at each choice."""
    rng, choices = np.random.default_rng(seed), []
    block.forced()
    while not block.done:
        choices.append(block.allowed())
        logits = rng.normal(0, 3, VOCAB[template])
        block.push(*choose(logits[block.allowed()], block, temperature, rng))
        block.forced()
    return choices


@pytest.mark.parametrize("template", TEMPLATES)
@given(controls(), st.integers(0, 2**32))
def test_any_walk_parses_back_and_obeys(template, asked, seed):
    block = Block(make_grammar(template), asked)
    choices = walk(block, template, seed)

    markers, consumed = make_codec(template).parse(block.tokens)
    assert consumed == len(block.tokens)
    assert markers == block.markers and list(markers) == list(block.markers)
    assert [c for c in ORDER if c in markers] == list(markers)
    canonical = TAXONOMY.check_all(asked.pinned)
    assert {c: markers[c] for c in canonical} == canonical
    assert not asked.banned & set(markers)
    assert asked.asked <= set(markers)
    assert all(len(allowed) > 1 for allowed in choices)
    assert block.allowed() == [] and set(probabilities(block)) == set(markers)
    assert all(0 < p <= 1 for p in probabilities(block).values())


@pytest.mark.parametrize("template", TEMPLATES)
@given(controls(), st.integers(0, 2**32))
def test_what_is_written_is_what_training_shows(template, asked, seed):
    """Ids of the block are those that the codec writes for the same markers; numbers included."""
    grammar, codec = make_grammar(template), make_codec(template)
    block = Block(grammar, asked)
    walk(block, template, seed)
    spans = [codec.marker(c, v) for c, v in block.markers.items()]
    assert tuple(block.tokens) == (*codec.open, *itertools.chain(*spans), *codec.close)
    assert len(block.tokens) <= grammar.room(asked.pinned)


ONLY_TOPICS = Controls(asked=frozenset({"topics"}), banned=frozenset(ORDER) - {"topics"})
SETS = [s for n in range(1, 5) for s in itertools.combinations(("art", "arts", "law", "music"), n)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_ten_thousand_walks_write_canonical_sets(template):
    grammar, random, written = make_grammar(template), np.random.default_rng(0), Counter()
    for n in range(10_000):
        controls = ONLY_TOPICS if n % 2 else Controls(banned=frozenset({"lang", "score", "words"}))
        block = Block(grammar, controls)
        while not block.done:
            allowed = block.allowed()
            token = allowed[int(random.integers(len(allowed)))]
            block.push(token, dict.fromkeys(allowed, -math.log(len(allowed))))
        markers, consumed = make_codec(template).parse(block.tokens)
        assert consumed == len(block.tokens) and markers == block.markers
        written[markers.get("topics")] += 1
        if "topics" in markers:
            assert TAXONOMY.check("topics", markers["topics"]) == markers["topics"]
    assert set(written) == {None, *SETS}, "every set can be written"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("pinned", SETS)
def test_a_pinned_set_comes_back_as_it_is(template, pinned):
    for seed in range(5):
        block = Block(make_grammar(template), Controls(pinned={"topics": pinned}))
        walk(block, template, seed)
        assert block.markers["topics"] == pinned and probabilities(block)["topics"] == 1
        assert make_codec(template).parse(block.tokens)[0] == block.markers


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_probabilities_of_all_sets_sum_to_one(template):
    """Both where nothing may follow the set and where another category may."""
    grammar, codec, logits = make_grammar(template), make_codec(template), fixed_logits(800)
    more = Controls(asked=frozenset({"topics"}), banned=frozenset({"lang", "score", "style"}))
    for controls, further in ((ONLY_TOPICS, {}), (more, {}), (more, {"words_bucket": "few"})):
        total = 0.0
        for topics in SETS:
            block = Block(grammar, controls)
            spans = [codec.marker(c, v) for c, v in ({"topics": topics} | further).items()]
            push_all(block, (*codec.open, *itertools.chain(*spans), *codec.close), logits)
            assert block.done and block.markers["topics"] == topics
            total += probabilities(block)["topics"]
        assert total == pytest.approx(1)


def test_probability_of_a_set_is_that_of_its_values_and_of_its_end():
    codec, logits = make_codec("compact"), fixed_logits(VOCAB["compact"])
    more = Controls(asked=frozenset({"topics"}), banned=frozenset({"lang", "score", "style"}))
    block = Block(make_grammar("compact"), more)
    ids = (*codec.marker("topics", ["arts", "law"]), *codec.marker("words_bucket", "few"))
    push_all(block, (*codec.open, *ids, *codec.close), logits)

    def weight(values, ends=()):
        return sum(math.exp(logits[i]) for v in values for i in codec.value("topics", v)) + sum(
            math.exp(logits[i]) for ids in ends for i in ids
        )

    ends = [codec.prefix("words"), codec.prefix("words_bucket"), codec.close]
    expected = weight(["arts"]) / weight(["art", "arts", "law", "music"])
    expected *= weight(["law"]) / weight(["law", "music"], ends)
    expected *= weight([], ends) / weight(["music"], ends)
    assert probabilities(block)["topics"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("template", TEMPLATES)
@given(st.fixed_dictionaries(VALUES))
def test_everything_pinned_leaves_no_choice(template, pinned):
    block = Block(make_grammar(template), Controls(pinned=pinned))
    assert block.forced() == block.tokens and block.done
    assert make_codec(template).parse(block.tokens)[0] == block.markers
    assert block.markers == {c: TAXONOMY.check(c, pinned[c]) for c in ORDER}
    assert set(probabilities(block).values()) == {1.0}


@pytest.mark.parametrize("template", TEMPLATES)
def test_everything_banned_leaves_an_empty_block(template):
    block = Block(make_grammar(template), Controls(banned=frozenset(ORDER)))
    block.forced()
    assert block.done and block.markers == {}
    assert tuple(block.tokens) == make_layout(template).open + make_layout(template).close


def fixed_logits(vocab: int) -> np.ndarray:
    """Logits that stay the same at each step, so that paths can be multiplied by hand."""
    return np.random.default_rng(5).normal(0, 2, vocab)


def push_all(block: Block, ids, logits) -> None:
    """Writes the given ids with the probabilities that `choose` gives."""
    for token in ids:
        _, log_p = choose(logits[block.allowed()], block, 0, np.random.default_rng(0))
        block.push(token, log_p)


@pytest.mark.parametrize("template", TEMPLATES)
def test_probability_of_a_closed_value_is_the_product_over_its_tree(template):
    """Brute force: at each id, the share of the values that are still possible."""
    grammar, codec = make_grammar(template), make_codec(template)
    logits = fixed_logits(VOCAB[template])
    only = Controls(asked=frozenset({"lang"}), banned=frozenset(ORDER) - {"lang"})
    paths = {
        v: codec.value("lang", v) + codec.suffix("lang") for v in ("English", "Engl", "German")
    }
    total = 0.0
    for value, path in paths.items():
        expected = 1.0
        for at, token in enumerate(path):
            heads = {p[at] for p in paths.values() if p[:at] == path[:at]}
            expected *= math.exp(logits[token]) / sum(math.exp(logits[h]) for h in heads)
        block = Block(grammar, only)
        push_all(block, (*codec.open, *codec.marker("lang", value), *codec.close), logits)
        assert block.done and block.markers == {"lang": value}
        assert probabilities(block)["lang"] == pytest.approx(expected, rel=1e-12)
        total += expected
    assert total == pytest.approx(1)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("follows", [True, False])
def test_probability_of_a_number_is_its_digits_and_its_end(template, follows):
    """In the compact template a number ends by what follows: whatever that is, it is one end."""
    grammar, codec = make_grammar(template), make_codec(template)
    logits = fixed_logits(VOCAB[template])
    markers = {"words": 40} | ({"words_bucket": "many"} if follows else {})
    spans = [codec.marker(c, v) for c, v in markers.items()]
    block = Block(grammar, Controls(asked=frozenset({"words"}), banned=frozenset(["lang"])))
    push_all(block, (*codec.open, *itertools.chain(*spans), *codec.close), logits)
    assert block.markers == markers

    def weight(ids):
        return sum(math.exp(logits[i]) for i in ids)

    digit = {d: codec.number_ids[d] for d in "0123456789-"}
    ends = (
        {codec.suffix("words")[0]}
        if template == "text"
        else {codec.prefix("words_bucket")[0], codec.close[0]}
    )
    figures = [digit[d] for d in "0123456789"]
    expected = weight([digit["4"]]) / weight(digit.values())
    expected *= weight([digit["0"]]) / weight([*figures, *ends])
    expected *= weight(ends) / weight([*figures, *ends])
    assert probabilities(block)["words"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("integer", [True, False])
@given(st.randoms(use_true_random=False))
def test_numbers_are_canonical_wherever_they_may_end(integer, random):
    text, ends = "", []
    while True:
        more, complete = number_steps(text, integer)
        if complete:
            value = int(text) if integer else float(text)
            assert number_text(value) == text
            ends.append(text)
        if not more:
            break
        text += random.choice(more)
    assert ends and ends[-1] == text, "a number that can't go on can end"


def test_number_limits():
    assert number_steps("9" * MAX_WHOLE, True) == ("", True)
    assert number_steps("9" * MAX_WHOLE, False) == (".", False)
    assert number_steps("0." + "0" * (MAX_FRACTION - 1), False) == ("123456789", False)
    assert number_steps("0", True) == ("", True)
    assert number_steps("-", True) == ("123456789", False)
    assert number_steps("-0", False) == (".", False)
    assert not number_steps("-0.0", False)[1] and number_steps("0.0", False)[1]
    assert not number_steps("1.50", False)[1] and number_steps("1.5", False)[1]


def test_a_token_that_is_not_allowed_is_refused():
    block = Block(make_grammar("compact"), Controls())
    block.forced()
    with pytest.raises(ValueError, match="not among the allowed"):
        block.push(0, {0: 0.0})


def test_greedy_takes_the_likeliest_allowed_token():
    block = Block(make_grammar("compact"), Controls())
    block.forced()
    allowed = block.allowed()
    logits = np.zeros(VOCAB["compact"])
    logits[allowed[2]] = 1
    token, log_p = choose(logits[allowed], block, 0, np.random.default_rng(0))
    assert token == allowed[2] and set(log_p) == set(allowed)
    assert sum(map(math.exp, log_p.values())) == pytest.approx(1)


def test_marker_temperature_follows_the_powered_distribution():
    block = Block(make_grammar("compact"), Controls())
    block.forced()
    allowed, rng = block.allowed(), np.random.default_rng(1)
    logits = np.random.default_rng(2).normal(0, 1, VOCAB["compact"])
    drawn = [choose(logits[allowed], block, 0.5, rng)[0] for _ in range(4000)]
    expected = np.exp(logits[allowed] / 0.5)
    shares = [drawn.count(token) / len(drawn) for token in allowed]
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.03)
