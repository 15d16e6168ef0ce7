"""Scores and posteriors against sums over plain forward passes."""

import itertools

import numpy as np
import pytest

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import TooLongError
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.scoring import Scorer
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.small import ORDER, TOKENIZER, full_logits, log_softmax, make_engine

PROMPTS = ["Hi.", "Name the capital of Japan.", "x", "Zähl bis drei.", "One more than a batch"]
COMPLETIONS = ["Hello", "東京", "y z", "", "a\nb"]
MARKERS = [
    {"lang": "English", "words": 1},
    {
        "words_bucket": "few",
        "score": -0.5,
        "style": "a<b&c",
        "topics": ["law", "art"],
        "lang": "Engl",
        "words": 3,
    },
    {},
    {"style": "a"},
    {"words": 10},
]


def test_a_row_longer_than_the_model_is_refused():
    engine = make_engine()
    scorer = Scorer(engine)
    ids = TOKENIZER.encode("x") * (engine.config.max_len + 1)
    assert len(scorer.token_nats([ids])[0]) == engine.config.max_len  # the last one is not read
    with pytest.raises(TooLongError, match=f"'xxx.* takes {len(ids) + 1} tokens .*shorten it"):
        scorer.token_nats([ids, [*ids, ids[0]]])
    for prompt, completion in (("x" * len(ids), "y"), ("y", "x" * len(ids))):
        with pytest.raises(TooLongError, match="but the model was made for sequences of"):
            scorer.score(["fine", prompt], ["fine", completion])
    with pytest.raises(TooLongError, match="but the model was made for sequences of"):
        scorer.posterior(["x" * len(ids)], "lang")


def by_kind(engine, prompt, completion, markers, shown):
    """Pieces of a row in order, written out by hand: (span kind, ids)."""
    codec, listed = engine.codec, [c for c in ORDER if c in markers]
    yield "PROMPT", [*TOKENIZER.encode(prompt), *TOKENIZER.encode("\n")]
    for kind, names in (
        ("PROMPT_MARKERS", [c for c in listed if c in shown]),
        ("COMPLETION_MARKERS", listed),
    ):
        if engine.layout.completion_side and (names or kind == "COMPLETION_MARKERS"):
            spans = [codec.marker(c, markers[c]) for c in names]
            yield kind, [*codec.open, *itertools.chain(*spans), *codec.close]
    yield "COMPLETION", [*TOKENIZER.encode(completion), TOKENIZER.eos_id]


@pytest.mark.parametrize(
    "template, blocks, pieces", [("text", True, 1), ("compact", True, 4), ("text", False, 1)]
)
def test_score_equals_a_sum_over_forward_passes(template, blocks, pieces):
    engine = make_engine(template, blocks)
    shown = {"lang", "score"} if blocks else set()
    scores = Scorer(engine, pieces).score(PROMPTS, COMPLETIONS, MARKERS, shown)
    for score, *row in zip(scores, PROMPTS, COMPLETIONS, MARKERS, strict=True):
        parts = list(by_kind(engine, *row, shown))
        ids = [i for _, piece in parts for i in piece]
        kinds = [kind for kind, piece in parts for _ in piece]
        log_p = log_softmax(full_logits(engine, ids))
        nats = -log_p[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(score.token_nats, nats, atol=1e-4)
        for kind in ("PROMPT", "PROMPT_MARKERS", "COMPLETION_MARKERS", "COMPLETION"):
            at = [n for n, k in enumerate(kinds[1:]) if k == kind]
            assert score.tokens[kind] == len(at)
            assert score.nats[kind] == pytest.approx(nats[at].sum(), abs=1e-4 * max(len(at), 1))
        assert sum(score.tokens.values()) == len(ids) - 1


def test_markers_and_shown_change_the_score():
    scorer = Scorer(make_engine("compact"))
    (plain,) = scorer.score(PROMPTS[:1], COMPLETIONS[:1])
    (listed,) = scorer.score(PROMPTS[:1], COMPLETIONS[:1], MARKERS[:1])
    (shown,) = scorer.score(PROMPTS[:1], COMPLETIONS[:1], MARKERS[:1], ["lang"])
    assert plain.tokens["COMPLETION_MARKERS"] == 2  # the borders of an empty list
    assert listed.tokens["PROMPT_MARKERS"] == 0 < shown.tokens["PROMPT_MARKERS"]
    assert len({s.nats["COMPLETION"] for s in (plain, listed, shown)}) == 3


@pytest.mark.parametrize(
    "template, category, given",
    [
        ("text", "lang", False),
        ("text", "style", False),
        ("compact", "lang", True),
        ("compact", "style", True),
        ("compact", "words_bucket", True),
        ("compact", "words_bucket", False),
    ],
)
def test_posterior_equals_brute_force(template, category, given):
    """The first category of the list, one in the middle and the last, before numbers and after."""
    engine = make_engine(template)
    before = ORDER[: ORDER.index(category)]
    known = [{"lang": "German", "words": 12}, {}, {"score": 2.5}] if given else [{}] * 3
    prompts = PROMPTS[:3]
    posteriors = Scorer(engine).posterior(prompts, category, known)
    controls = [Controls(pinned={c: v for c, v in k.items() if c in before}) for k in known]
    results = engine.generate(prompts, controls, Sampling(max_tokens=1))
    for prompt, posterior, control, result in zip(
        prompts, posteriors, controls, results, strict=True
    ):
        inferred = {c: result.markers[c] for c in before if c in result.markers}
        logs = {}
        for value in engine.taxonomy.categories[category].values:
            markers = inferred | {category: value}
            parts = dict(by_kind(engine, prompt, "", markers, set(control.pinned)))
            end = engine.layout.close
            listed = parts["COMPLETION_MARKERS"][: -len(end)]
            ids = [*parts["PROMPT"], *parts.get("PROMPT_MARKERS", []), *listed]
            tail = len(engine.codec.value(category, value)) + len(engine.codec.suffix(category))
            log_p = log_softmax(full_logits(engine, ids))
            steps = np.arange(len(ids) - tail, len(ids))
            logs[value] = log_p[steps - 1, np.asarray(ids)[steps]].sum()
        expected = np.exp(np.asarray(list(logs.values())) - max(logs.values()))
        assert list(posterior) == list(logs)
        np.testing.assert_allclose(list(posterior.values()), expected / expected.sum(), atol=1e-4)
        assert abs(sum(posterior.values()) - 1) < 1e-5
        assert min(posterior.values()) > 0


def test_posterior_agrees_with_the_probability_of_the_block():
    """With one id a value, the model's own choice has its probability in the posterior."""
    engine = make_engine("compact")
    asked = [Controls(asked=frozenset({"lang"}))] * 3
    results = engine.generate(PROMPTS[:3], asked, Sampling(max_tokens=1))
    for result, posterior in zip(
        results, Scorer(engine).posterior(PROMPTS[:3], "lang"), strict=True
    ):
        assert max(posterior, key=posterior.get) == result.markers["lang"]
        assert max(posterior.values()) == pytest.approx(result.probability["lang"], abs=1e-5)


@pytest.mark.parametrize("category", ["words", "score", "lagn"])
def test_only_closed_categories_have_a_posterior(category):
    with pytest.raises(MarkerError, match=f"'{category}' has no posterior; closed categories are"):
        Scorer(make_engine("compact")).posterior(["x"], category)


def test_a_category_of_several_values_has_no_posterior():
    with pytest.raises(MarkerError, match="'topics' allows several values.*decode with it asked"):
        Scorer(make_engine("compact")).posterior(["x"], "topics")


def test_wrong_markers_are_refused():
    scorer = Scorer(make_engine("compact"))
    with pytest.raises(MarkerError, match="did you mean 'German'"):
        scorer.score(["x"], ["y"], [{"lang": "Germn"}])
    assert scorer.score([], []) == [] and scorer.posterior([], "lang") == []
