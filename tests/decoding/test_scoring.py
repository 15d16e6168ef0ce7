"""Scores and posteriors against sums over plain forward passes."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from marker_lm.decoding import shapes
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine, TooLongError
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.scoring import Scorer
from marker_lm.markers.taxonomy import MarkerError
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import param_shardings
from tests.decoding.small import (
    MAX_LEN,
    ORDER,
    TOKENIZER,
    full_logits,
    log_softmax,
    make_engine,
    make_params,
)


@functools.cache
def scorer_of(template: str) -> Scorer:
    return Scorer(make_engine(template))


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


def by_hand(engine, prompt, completion, markers, shown):
    """Ids, span kinds and nats (of each id after the first) of a row, by one plain forward pass."""
    parts = list(by_kind(engine, prompt, completion, markers, shown))
    ids = [i for _, piece in parts for i in piece]
    kinds = [kind for kind, piece in parts for _ in piece]
    log_p = log_softmax(full_logits(engine, ids))
    return ids, kinds, -log_p[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("template, blocks", [("text", True), ("compact", True), ("text", False)])
def test_score_equals_a_sum_over_forward_passes(template, blocks):
    engine = make_engine(template, blocks)
    shown = {"lang", "score"} if blocks else set()
    scorer = Scorer(engine)
    scores = scorer.score(PROMPTS, COMPLETIONS, MARKERS, shown)
    for score, *row in zip(scores, PROMPTS, COMPLETIONS, MARKERS, strict=True):
        ids, kinds, nats = by_hand(engine, *row, shown)
        np.testing.assert_allclose(score.token_nats, nats, atol=1e-5)
        for kind in ("PROMPT", "PROMPT_MARKERS", "COMPLETION_MARKERS", "COMPLETION"):
            at = [n for n, k in enumerate(kinds[1:]) if k == kind]
            assert score.tokens[kind] == len(at)
            assert score.nats[kind] == pytest.approx(nats[at].sum(), abs=1e-5 * max(len(at), 1))
        assert sum(score.tokens.values()) == len(ids) - 1
        tokens = scorer.describe(score)
        assert [t["id"] for t in tokens] == ids and [t["kind"] for t in tokens] == kinds
        assert tokens[0]["nats"] is None
        assert [t["nats"] for t in tokens[1:]] == score.token_nats.tolist()
        assert "".join(t["text"] for t in tokens).startswith(row[0][0])


def test_a_token_is_shown_as_text():
    scorer = Scorer(make_engine("compact"))
    [score] = scorer.score(["é"], ["a"], [{"lang": "German", "words": 1}])
    texts = [token["text"] for token in scorer.describe(score)]
    assert texts[:3] == ["<0xC3>", "<0xA9>", "\n"] and "German" in "".join(texts[3:7])


@pytest.mark.parametrize("least", [1, 3])
@pytest.mark.parametrize("piece_logits", [shapes.PIECE_LOGITS, 1 << 12])
def test_packed_scores_equal_unpacked_ones(monkeypatch, least, piece_logits):
    """Some hundred rows of all lengths in a few sequences, and each alone without padding."""
    monkeypatch.setattr(shapes, "PIECE_LOGITS", piece_logits)
    engine = make_engine("compact")
    random = np.random.default_rng(least)
    sequences = [
        random.integers(0, engine.config.vocab, n).tolist()
        for n in [*random.integers(least, 60, 90), 1, 2, 32, 33, 34, 200, MAX_LEN, MAX_LEN + 1]
    ]
    scorer, batches = Scorer(engine), []
    nll = scorer._nll
    scorer._nll = lambda params, batch: batches.append(batch) or nll(params, batch)
    packed = scorer.token_nats(sequences)
    assert len({b["tokens"].shape for b in batches}) == 1
    used = sum(map(len, sequences)) - len(sequences)
    assert used > 0.8 * sum(b["tokens"].size for b in batches[:-1])
    assert max(b["segment_ids"].max() for b in batches) > 5
    for ids, nats in zip(sequences, packed, strict=True):
        alone = log_softmax(full_logits(engine, ids[:-1]))
        expected = [-alone[n, token] for n, token in enumerate(ids[1:])]
        np.testing.assert_allclose(nats, expected, atol=1e-5)


def test_few_rows_take_a_small_batch():
    scorer, shapes_seen = Scorer(make_engine("compact")), []
    nll = scorer._nll
    scorer._nll = lambda params, batch: (
        shapes_seen.append(batch["tokens"].shape) or nll(params, batch)
    )
    scorer.token_nats([[5] * 20])
    scorer.token_nats([[5] * 20] * 3)
    scorer.token_nats([[5] * 20] * 24)
    scorer.token_nats([[5] * 300, [5, 6]])
    assert shapes_seen == [(1, 32), (4, 32), (4, 128), (1, 320)]


def test_markers_and_shown_change_the_score():
    scorer = Scorer(make_engine("compact"))
    (plain,) = scorer.score(PROMPTS[:1], COMPLETIONS[:1])
    (listed,) = scorer.score(PROMPTS[:1], COMPLETIONS[:1], MARKERS[:1])
    (shown,) = scorer.score(PROMPTS[:1], COMPLETIONS[:1], MARKERS[:1], ["lang"])
    assert plain.tokens["COMPLETION_MARKERS"] == 2  # the borders of an empty list
    assert listed.tokens["PROMPT_MARKERS"] == 0 < shown.tokens["PROMPT_MARKERS"]
    assert len({s.nats["COMPLETION"] for s in (plain, listed, shown)}) == 3


def enumerate_values(engine, category, prompt, completion, markers, pinned):
    """The posterior by one plain forward pass a value over the whole sequence."""
    codec, logs = engine.codec, {}
    for value in engine.taxonomy.categories[category].values:
        own = {**markers, category: value}
        ids, kinds, nats = by_hand(engine, prompt, completion or "", own, pinned)
        first = kinds.index("COMPLETION_MARKERS") + len(engine.layout.open)
        first += sum(len(codec.marker(c, own[c])) for c in before(category) if c in own)
        first += len(codec.prefix(category))
        end = first + len(codec.value(category, value)) + len(codec.suffix(category))
        logs[value] = -nats[first - 1 : end - 1].sum()
        if completion is not None:
            logs[value] -= nats[kinds.index("COMPLETION") - 1 :].sum()
    p = np.exp(np.asarray(list(logs.values())) - max(logs.values()))
    return dict(zip(logs, p / p.sum(), strict=True))


def before(category):
    return ORDER[: ORDER.index(category)]


KNOWN = [{"lang": "German", "words": 12}, {}, {"score": 2.5, "topics": ["law", "art"]}]


@pytest.mark.parametrize("attribution", [False, True])
@pytest.mark.parametrize("template", ["text", "compact"])
@pytest.mark.parametrize(
    "category, given", [("lang", False), ("style", True), ("words_bucket", True)]
)
def test_posterior_equals_brute_force(template, category, given, attribution):
    """The first category of the list, one in the middle and the last, before numbers and after."""
    engine = make_engine(template)
    listed = [c for c in ORDER if c != category] if attribution else before(category)
    known = KNOWN if given else [{}] * 3
    prompts, completions = PROMPTS[:3], COMPLETIONS[:3] if attribution else [None] * 3
    posteriors = scorer_of(template).posterior(
        prompts, category, known, completions if attribution else None
    )
    pins = [{c: v for c, v in k.items() if c in listed} for k in known]
    results = engine.generate(prompts, [Controls(pinned=p) for p in pins], Sampling(max_tokens=1))
    for prompt, completion, posterior, pinned, result in zip(
        prompts, completions, posteriors, pins, results, strict=True
    ):
        markers = {c: result.markers[c] for c in listed if c in result.markers}
        assert set(pinned) <= set(markers)
        expected = enumerate_values(engine, category, prompt, completion, markers, set(pinned))
        assert list(posterior) == list(expected)
        for value, p in expected.items():
            assert abs(posterior[value] - p) < 1e-5
        assert abs(sum(posterior.values()) - 1) < 1e-5
        assert min(posterior.values()) > 0


@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"context": 4, "data": 2}])
def test_sharded_over_a_mesh(sizes):
    one, mesh = make_engine("compact"), make_mesh(**sizes)
    config = dataclasses.replace(one.config, heads=2, kv_heads=2)
    scores, posteriors = [], []
    for where in (one.mesh, mesh):
        params = jax.device_put(make_params(config), param_shardings(config, where))
        known = one.taxonomy, one.codec, one.layout, TOKENIZER
        scorer = Scorer(Engine(params, config, *known, where, 4))
        scores.append(scorer.score(PROMPTS, COMPLETIONS, MARKERS))
        posteriors.append(scorer.posterior(PROMPTS[:3], "style", KNOWN, COMPLETIONS[:3]))
    for alone, split in zip(*scores, strict=True):
        np.testing.assert_allclose(split.token_nats, alone.token_nats, atol=1e-4)
    for alone, split in zip(*posteriors, strict=True):
        assert split == pytest.approx(alone, abs=1e-4)


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
