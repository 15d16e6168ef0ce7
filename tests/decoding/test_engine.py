"""Decoding with the cache against plain forward passes, batching, controls, and what is refused."""

import dataclasses

import numpy as np
import pytest

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.grammar import Block
from marker_lm.decoding.request import Request
from marker_lm.decoding.sampling import Sampling, row_seed
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.small import (
    MAX_LEN,
    TOKENIZER,
    block_ids,
    full_logits,
    make_engine,
    prefix,
)

# The longest row comes first, so that most tests share the shapes that are compiled for it.
PROMPTS = ["Name the capital of Japan, please.", "Zähl bis drei.", "Hi.", "x"]
CONTROLS = [
    Controls(
        pinned=dict(
            lang="Engl",
            score=2.5,
            style="a<b&c",
            topics=("art", "law"),
            words=-7,
            words_bucket="few",
        )
    ),
    Controls(pinned={"lang": "German", "words": 12}),
    Controls(banned=frozenset({"score", "style"}), asked=frozenset({"words_bucket"})),
    Controls(),
]
GREEDY = Sampling(max_tokens=34)
RANDOM = Sampling(temperature=1.2, top_k=50, marker_temperature=1.5, max_tokens=34, seed=3)
KINDS = [("text", True), ("compact", True), ("text", False)]


def same(results, others) -> bool:
    """Equal but for rounding: the room in the cache, which attention sums over, moves last bits."""
    for a, b in zip(results, others, strict=True):
        assert a.probability == pytest.approx(b.probability, rel=1e-4)
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-4)
    exact = {"probability": {}, "log_likelihood": 0.0}
    whole = [[dataclasses.replace(r, **exact) for r in rows] for rows in (results, others)]
    return whole[0] == whole[1]


def given(engine, controls):
    return controls if engine.layout.completion_side else [Controls()] * len(controls)


@pytest.mark.parametrize("template, blocks", KINDS)
def test_greedy_with_the_cache_equals_full_forward_passes(template, blocks):
    """Every token, marker or text, is the argmax of a forward pass over all that stands before."""
    engine = make_engine(template, blocks)
    controls = given(engine, CONTROLS)
    for prompt, control, result in zip(
        PROMPTS, controls, engine.generate(PROMPTS, controls, GREEDY), strict=True
    ):
        assert len(result.tokens) >= 30
        head = prefix(engine, prompt, control.pinned)
        written = block_ids(engine, result.markers) if blocks else []
        logits = full_logits(engine, [*head, *written, *result.tokens])
        if blocks:
            walk = Block(engine.grammar, control)
            for at, token in enumerate(written, len(head)):
                allowed = walk.allowed()
                assert token == allowed[int(np.argmax(logits[at - 1][allowed]))]
                walk.push(token, dict.fromkeys(allowed, 0.0))
            assert walk.done
        first = len(head) + len(written) - 1
        expected = np.argmax(logits[first:-1, : TOKENIZER.size], axis=-1)
        assert result.tokens == tuple(expected)
        assert result.text == TOKENIZER.decode(result.tokens)


def test_the_repetition_penalty_counts_the_answer_alone():
    """Every token is the argmax of a full forward pass, once what the answer has is lowered."""
    engine = make_engine("compact")
    sampling = dataclasses.replace(GREEDY, repetition_penalty=1.5)
    plain = engine.generate(PROMPTS, CONTROLS, GREEDY)
    results = engine.generate(PROMPTS, CONTROLS, sampling)
    assert [r.markers for r in results] == [r.markers for r in plain]
    assert any(a.tokens != b.tokens for a, b in zip(plain, results, strict=True))
    for prompt, control, result in zip(PROMPTS, CONTROLS, results, strict=True):
        head = prefix(engine, prompt, control.pinned) + block_ids(engine, result.markers)
        all_logits = full_logits(engine, [*head, *result.tokens])[len(head) - 1 : -1]
        logits = all_logits[:, : TOKENIZER.size]
        for at, (row, token) in enumerate(zip(logits, result.tokens, strict=True)):
            seen = np.isin(np.arange(TOKENIZER.size), result.tokens[:at])
            lowered = np.where(seen, np.where(row > 0, row / 1.5, row * 1.5), row)
            assert token == np.argmax(lowered)
        chosen = logits[np.arange(len(result.tokens)), result.tokens]
        whole = np.logaddexp.reduce(all_logits, axis=-1)
        assert result.log_likelihood == pytest.approx((chosen - whole).sum(), rel=1e-4)


@pytest.mark.parametrize("template, blocks", KINDS)
@pytest.mark.parametrize("sampling", [GREEDY, RANDOM], ids=["greedy", "random"])
def test_a_row_does_not_depend_on_its_neighbours(template, blocks, sampling):
    engine = make_engine(template, blocks)
    controls = given(engine, CONTROLS)
    together = engine.generate(PROMPTS, controls, sampling)
    assert same(engine.generate(PROMPTS[:1], controls[:1], sampling), together[:1])
    others = engine.generate(
        [*PROMPTS[:1], "Other", "neighbours", *PROMPTS[3:]], controls, sampling
    )
    assert same(others[3:], together[3:]) and others[1] != together[1]
    # Numbers count through the batches: six rows are two batches of four.
    twice = engine.generate(PROMPTS + PROMPTS[:2], controls + controls[:2], sampling)
    assert same(twice[:4], together)
    if sampling is GREEDY:
        assert same(twice[4:], together[:2])
    else:
        assert twice[4].tokens != together[0].tokens, "another row, other random numbers"


def test_seeds_differ_and_repeat():
    engine = make_engine("compact")
    other = dataclasses.replace(RANDOM, seed=4)
    first, second, again = (
        engine.generate(PROMPTS, CONTROLS, sampling) for sampling in (RANDOM, other, RANDOM)
    )
    assert all(a.tokens != b.tokens for a, b in zip(first, second, strict=True))
    assert first == again


def test_eos_ends_a_row_and_the_others_go_on():
    free = make_engine("text", blocks=False).generate(PROMPTS, None, GREEDY)
    eos = free[0].tokens[7]
    ended = make_engine("text", blocks=False, eos=eos).generate(PROMPTS, None, GREEDY)
    for before, after in zip(free, ended, strict=True):
        if eos in before.tokens:
            assert after.finished and after.reason == "end"
            assert after.tokens == before.tokens[: before.tokens.index(eos)]
        else:
            assert not after.finished and after.tokens == before.tokens
    assert ended[0].finished and len(ended[0].tokens) <= 7


@pytest.mark.parametrize("before", [MAX_LEN - 11, MAX_LEN - 1])
def test_answers_end_where_the_models_length_is_full(before):
    """The model reads MAX_LEN tokens at most; the one after them is the last that it may write."""
    engine = make_engine("text", blocks=False)
    prompt = "x" * (before - 1)  # and the separator
    full, short = engine.generate([prompt, "Hi."], None, GREEDY)
    assert len(full.tokens) == MAX_LEN + 1 - before and full.reason == "length"
    assert same([short], engine.generate(["Hi."], None, GREEDY)), "the other row goes on"
    ids = [*prefix(engine, prompt, {}), *full.tokens]
    expected = np.argmax(full_logits(engine, ids[:-1])[before - 1 :, : TOKENIZER.size], axis=-1)
    assert full.tokens == tuple(expected)


def test_a_list_that_fills_the_models_length_leaves_no_answer():
    engine, controls = make_engine("compact"), [CONTROLS[0], Controls()]
    result, other = engine.generate(["x" * (MAX_LEN - 20), "Hi."], controls, GREEDY)
    assert result.markers == CONTROLS[0].pinned
    assert (result.text, result.tokens, result.reason) == ("", (), "length")
    assert result.log_likelihood == 0 and not result.finished
    assert len(other.tokens) == GREEDY.max_tokens


def test_max_tokens_is_counted_without_the_block():
    engine = make_engine("compact")
    long = engine.generate(PROMPTS, CONTROLS, GREEDY)
    short = engine.generate(PROMPTS, CONTROLS, Sampling(max_tokens=30))
    assert [r.tokens for r in short] == [r.tokens[:30] for r in long]
    assert [r.markers for r in short] == [r.markers for r in long]
    assert {r.reason for r in short} == {"max_tokens"} and not any(r.finished for r in short)


@pytest.mark.parametrize("template", ["text", "compact"])
def test_results_say_what_was_pinned_and_how_sure_the_model_is(template):
    engine = make_engine(template)
    everything, some, without, free = engine.generate(PROMPTS, CONTROLS, GREEDY)
    assert free.pinned == () and set(free.probability) == set(free.markers)
    assert some.pinned == ("lang", "words")
    assert some.markers["lang"] == "German" and some.markers["words"] == 12
    assert some.probability["lang"] == some.probability["words"] == 1
    assert not {"score", "style"} & set(without.markers) and "words_bucket" in without.markers
    assert everything.markers == CONTROLS[0].pinned
    for result in (free, some, without, everything):
        assert "MARKER_LIST" not in result.text
        assert all(token < TOKENIZER.size for token in result.tokens)
    plain = some.to_dict()
    assert plain["pinned"] == ["lang", "words"] and "tokens" not in plain


@pytest.mark.parametrize("template", ["text", "compact"])
def test_the_prompt_side_shows_the_pinned_markers_and_no_others(template):
    engine = make_engine(template)
    control = Controls(pinned={"words": 12, "lang": "German"}, asked=frozenset({"style"}))
    ids = engine.lane("Hi.", engine.check(control), GREEDY).ids
    start = len(TOKENIZER.encode("Hi.\n"))
    assert TOKENIZER.decode(ids[:start]) == "Hi.\n"
    markers, consumed = engine.codec.parse(ids[start:])
    assert markers == {"lang": "German", "words": 12}
    # The completion-side block begins right after it, as far as nothing is to be chosen.
    assert ids[start + consumed :][: len(engine.layout.open)] == list(engine.layout.open)
    # With nothing pinned there is no block but that one, begun.
    free = engine.lane("Hi.", Controls(), GREEDY)
    assert free.ids[start:] == free.block.tokens


@pytest.mark.parametrize("template", ["text", "compact"])
def test_a_pin_that_is_not_forced_is_shown_and_the_list_is_the_models_own(template):
    engine = make_engine(template)
    shown = Controls(pinned={"lang": "German", "words": 12}, forced=False)
    lane, forced = (
        engine.lane(PROMPTS[0], dataclasses.replace(shown, forced=forced), GREEDY)
        for forced in (False, True)
    )
    before = prefix(engine, PROMPTS[0], shown.pinned)
    assert lane.ids[: len(before)] == forced.ids[: len(before)] == before
    assert lane.block.controls == Controls(forced=False)
    [result] = engine.generate([PROMPTS[0]], shown, GREEDY)
    assert result.pinned == ()


def test_completion_side_only_shows_nothing_in_the_prompt():
    engine = make_engine("compact", prompt_side=())
    row = engine.lane("Hi.", Controls(pinned={"lang": "German"}), GREEDY)
    assert row.ids.count(engine.layout.open[0]) == 1


@pytest.mark.parametrize(
    "prompt, controls, sentence",
    [
        ("", Controls(), "the prompt is empty"),
        (" \n", Controls(), "the prompt is empty"),
        ("x" * MAX_LEN, Controls(), "takes 513 tokens with its markers"),
        ("x", Controls(pinned={"lagn": "German"}), "unknown category 'lagn'.*did you mean 'lang'"),
        ("x", Controls(banned=frozenset({"lagn"})), "no lever 'lagn'; did you mean 'lang'"),
        ("x", Controls(asked=frozenset({"zzz"})), "no lever 'zzz'; it has lang, score"),
        ("x", Controls(pinned={"lang": "Germann"}), "not a value.*did you mean 'German'"),
        ("x", Controls(pinned={"words": 1.5}), "words=1.5 is not an integer"),
        (
            "x",
            Controls(pinned={"lang": "German"}, banned=frozenset({"lang"})),
            "'lang' is banned and wanted at once",
        ),
        (
            "x",
            Controls(asked=frozenset({"lang"}), banned=frozenset({"lang"})),
            "'lang' is banned and wanted at once",
        ),
    ],
)
def test_each_refusal_is_one_sentence(prompt, controls, sentence):
    engine = make_engine("compact")
    with pytest.raises(ValueError, match=sentence) as caught:
        engine.generate([prompt], [controls])
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert engine.refusal(prompt, controls) == str(caught.value)


def test_a_model_without_markers_says_so():
    engine = make_engine("text", blocks=False)
    with pytest.raises(MarkerError, match="no lever 'lang'; it has none: it was trained without"):
        engine.generate(["x"], [Controls(pinned={"lang": "German"})])


def test_a_bad_row_is_refused_and_the_others_are_answered():
    engine = make_engine("compact")
    prompts = [PROMPTS[0], "", PROMPTS[2], *PROMPTS, "y"]
    controls = [CONTROLS[0]] + [Controls()] * 6 + [Controls(pinned={"lang": "Dutch"})]
    rows = [dataclasses.replace(RANDOM, seed=row_seed(RANDOM.seed, i)) for i in range(8)]
    found = list(engine.run(map(Request, prompts, controls, rows)))
    results = dict(found)
    assert len(found) == 8 and sorted(results) == list(range(8))
    assert results[1] == "the prompt is empty."
    assert "lang='Dutch' is not a value" in results[7]
    good = [0, 2, 3, 4, 5, 6]
    assert all(results[i].tokens for i in good)
    # A row that fails takes no random numbers from those behind it.
    replaced = engine.generate([p or "fine" for p in prompts[:7]], controls[:7], RANDOM)
    assert same([results[i] for i in good], [replaced[i] for i in good])


def test_no_prompts_no_results():
    assert make_engine("compact").generate([]) == []
