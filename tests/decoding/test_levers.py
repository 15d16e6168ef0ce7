"""Sweeps and the best of several answers, on a random tiny model."""

import dataclasses

import pytest

from marker_lm.annotate.checks import make_checks
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.levers import Pins, best_of, rank_by_pins, sweep
from marker_lm.decoding.result import Result
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.scoring import Scorer
from marker_lm.markers.taxonomy import MarkerError
from tests.decoding.small import make_engine

SHORT = Sampling(max_tokens=6)
WARM = dataclasses.replace(SHORT, temperature=1.0, seed=3)


def test_a_sweep_pins_every_value():
    engine = make_engine("compact")
    controls = Controls({"words": 4, "lang": "Engl"}, frozenset({"score"}), frozenset({"style"}))
    found = sweep(engine, "Hi.", "lang", controls=controls, sampling=SHORT)
    assert list(found) == ["English", "Engl", "German"]
    for value, result in found.items():
        assert result.markers["lang"] == value and result.markers["words"] == 4
        assert set(result.pinned) == {"lang", "words"} and "score" not in result.markers
        alone = dataclasses.replace(controls, pinned={"words": 4, "lang": value})
        assert engine.generate(["Hi."], [alone], [SHORT]) == [result]


def test_a_sweep_frees_the_lever_first():
    engine = make_engine("compact")
    for state in (Controls(banned=frozenset({"lang"})), Controls(asked=frozenset({"lang"}))):
        found = sweep(engine, "Hi.", "lang", controls=state, sampling=SHORT)
        assert [r.markers["lang"] for r in found.values()] == list(found)


def test_a_sweep_over_numbers_needs_them():
    engine = make_engine("compact")
    found = sweep(engine, "Hi.", "words", [3, 12], sampling=SHORT)
    assert [r.markers["words"] for r in found.values()] == [3, 12]
    with pytest.raises(MarkerError, match="'words' is a number.*give some"):
        sweep(engine, "Hi.", "words")
    with pytest.raises(MarkerError, match="unknown category 'lagn'"):
        sweep(engine, "Hi.", "lagn")


def test_all_answers_of_a_sweep_have_the_same_seed():
    engine = make_engine("compact")
    found = sweep(engine, "Hi.", "lang", ["German", "English"], sampling=WARM)
    [again] = engine.generate(["Hi."], [Controls({"lang": "English"})], [WARM])
    assert found["English"] == again


@pytest.mark.parametrize("by", ["likelihood", "total_likelihood", ("lang", "German")])
def test_best_of(by):
    engine = make_engine("compact")
    controls = Controls({"words": 4})
    found = best_of(engine, "Hi.", 6, by, controls, WARM)
    scores = [one.score for one in found]
    assert len(found) == 6 and scores == sorted(scores, reverse=True)
    assert len({one.result.text for one in found}) > 1
    assert all(one.result.markers["words"] == 4 for one in found)
    results = engine.generate(["Hi."] * 6, controls, WARM)
    assert sorted(map(repr, results)) == sorted(repr(one.result) for one in found)
    if by == "total_likelihood":
        assert scores == [one.result.log_likelihood for one in found]
    elif by == "likelihood":
        for one in found:
            read = len(one.result.tokens) + (one.result.reason == "end")
            assert one.score == pytest.approx(one.result.log_likelihood / read)
    else:
        texts, given = [one.result.text for one in found], [{"words": 4}] * 6
        posteriors = Scorer(engine).posterior(["Hi."] * 6, "lang", given, texts)
        for one, posterior in zip(found, posteriors, strict=True):
            assert one.score == pytest.approx(posterior["German"], abs=1e-6)
    assert [one.result for one in best_of(engine, "Hi.", 6, by, controls, WARM)] == [
        one.result for one in found
    ]


def test_the_best_by_pins_is_the_nearest_to_what_is_pinned():
    engine = make_engine("compact")
    sampling = Sampling(temperature=1.0, max_tokens=80, seed=3)
    pins = Pins(make_checks(engine.taxonomy))
    found = best_of(engine, "Hi.", 8, pins, Controls({"words": 3, "style": "a"}), sampling)
    words = [len(one.result.text.split()) for one in found]
    assert len(set(words)) > 1
    assert [one.score for one in found] == [max(1 - abs(n - 3) / 3, 0) for n in words]
    assert words[0] == min(words, key=lambda n: abs(n - 3))


def said(text: str, nats: float) -> Result:
    return Result(text, {}, (), {}, (1, 2), "end", nats)


def test_pins_count_alike_and_the_likelier_comes_first_where_they_are_even():
    pins = Pins({"words": lambda text: len(text.split()), "loud": str.isupper})
    results = [said("a b", -3.0), said("A B C", -9.0), said("A B", -6.0), said("A D", -3.0)]
    found = rank_by_pins(pins, {"words": 2, "loud": True, "score": 1.0}, results)
    assert [one.result.text for one in found] == ["A D", "A B", "A B C", "a b"]
    assert [one.score for one in found] == [1.0, 1.0, 0.75, 0.5]
    with pytest.raises(ValueError, match=r"what is pinned \(score\); pin one of words, loud"):
        rank_by_pins(pins, {"score": 1.0}, results)
    with pytest.raises(ValueError, match=r"what is pinned \(nothing\)"):
        rank_by_pins(pins, {}, results)


@pytest.mark.parametrize(
    "n, by, sentence",
    [
        (0, "likelihood", "the best of 0 answers is none"),
        (2, "beauty", "by='beauty' ranks nothing"),
        (2, Pins({"lang": str}), r"what is pinned \(nothing\); pin one of lang"),
        (2, ("lang", "Germn"), "did you mean 'German'"),
        (2, ("words", 3), "'words' has no posterior"),
        (2, ("lagn", "x"), "unknown category 'lagn'"),
    ],
)
def test_what_is_refused(n, by, sentence):
    with pytest.raises(ValueError, match=sentence):
        best_of(make_engine("compact"), "Hi.", n, by)
