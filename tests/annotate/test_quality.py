"""Scores to quantile buckets: exact ranks but for the width of a bin, whole in any order."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate.quality import bin_of, make
from marker_lm.annotate.settings import SettingsError
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import load_taxonomy
from tests.annotate.made import TAXONOMY

PAPER = load_taxonomy("paper")
finite = st.floats(allow_nan=False, allow_infinity=False)


def example(score, lang="English", **markers):
    markers |= {} if lang is None else {"lang": lang}
    return Example("a", "p", "c", markers, {"meta": {"score": score}})


def learn(examples, parts=1, **config):
    config = {"field": "meta.score", "min_rows": 1, **config}
    learners = [make(config, PAPER) for _ in range(parts)]
    for i, one in enumerate(examples):
        learners[i % parts].add(one)
    for other in learners[1:]:
        learners[0].merge(pickle.loads(pickle.dumps(other)))
    return learners[0].finish()


def buckets(annotator, examples):
    found = annotator.annotate(examples)
    return [one["quality_bucket"].value if "quality_bucket" in one else None for one in found]


def test_one_is_the_best_quarter():
    rows = [example(score) for score in range(100)]
    found = buckets(learn(rows), rows)
    assert found == ["4"] * 25 + ["3"] * 25 + ["2"] * 25 + ["1"] * 25


def test_quarters_are_taken_within_each_language():
    rows = [example(i, "English") for i in range(40)] + [
        example(i + 1000, "Thai") for i in range(4)
    ]
    rows[-4:] = [example(1000 + i, "German") for i in range(40)]
    found = buckets(learn(rows), rows)
    assert found[:40].count("1") == found[40:].count("1") == 10


@given(st.lists(finite, min_size=1, max_size=60), st.integers(1, 5))
def test_buckets_are_those_of_exact_ranks_but_for_a_bin(scores, parts):
    rows = [example(score) for score in scores]
    annotator = learn(rows, parts)
    assert buckets(annotator, rows) == buckets(learn(rows), rows), "the same in parts"
    ordered = sorted(scores)
    for score, bucket in zip(scores, buckets(annotator, rows), strict=True):
        # The ranks of the scores in the same bin bound that of the score.
        alike = [s for s in ordered if bin_of(s) == bin_of(score)]
        below = sum(s < alike[0] for s in ordered)
        first = 4 * (2 * below + 1) // (2 * len(ordered))
        last = 4 * (2 * (below + len(alike)) - 1) // (2 * len(ordered))
        assert first <= "4321".index(bucket) <= last


@given(finite, finite)
def test_bins_are_in_order_and_narrow(a, b):
    low, high = min(a, b), max(a, b)
    assert bin_of(low) <= bin_of(high)
    if bin_of(a) == bin_of(b) and abs(a) > 1e-300:
        assert abs(a - b) <= 2**-11 * abs(a) * 2
    assert bin_of(0.0) == bin_of(-0.0)


def test_the_error_is_bounded():
    """Of scores without ties, hardly one is in another quarter than by exact ranks."""
    scores = np.random.default_rng(0).normal(size=20_000)
    rows = [example(float(score)) for score in scores]
    found = buckets(learn(rows), rows)
    exact = np.argsort(np.argsort(scores)) * 4 // len(scores)
    wrong = np.flatnonzero(["4321".index(bucket) for bucket in found] != exact)
    edges = np.quantile(scores, [0.25, 0.5, 0.75])
    distance = np.abs(scores[wrong, None] - edges).min(axis=1)
    assert len(wrong) / len(scores) < 5e-4
    # 0.05 % of an edge; the median of these is nearly 0, where bins are narrower still.
    assert (distance <= 2**-11 * np.maximum(np.abs(scores[wrong]), 1e-2) + 1e-4).all()


def test_ties_share_a_bucket_and_ratings_have_bins_of_their_own():
    rows = [example(score) for score in [1, 2, 3, 4, 5] * 20 + [5] * 40]
    scores = [row.extra["meta"]["score"] for row in rows]
    found = dict(zip(scores, buckets(learn(rows), rows), strict=True))
    assert found == {1: "4", 2: "4", 3: "3", 4: "2", 5: "1"}
    assert len({bin_of(i) for i in range(4097)}) == 4097
    assert len({bin_of(i / 100) for i in range(1, 1001)}) == 1000


def test_what_is_no_score_is_counted_and_not_guessed():
    rows = [
        example(None),
        example(math.nan),
        example(math.inf),
        example("9.5"),
        example(True),
        example(10**400),
        example(1.0, lang=None),
        example(1.0, lang="Thai"),
        *[example(float(i), "German") for i in range(8)],
    ]
    annotator = learn(rows, min_rows=5)
    assert buckets(annotator, rows)[:8] == [None] * 8
    assert annotator.facts()["quality_bucket"] == {
        "no score": 1,
        "not a number": 5,
        "no lang": 1,
        "in groups too small": 1,
        "scored": {"German": 8},
    }
    found = annotator.annotate(rows)
    assert found[0] == {} and found[6]["quality"].value == 1.0


def test_a_marker_is_a_score_too():
    rows = [example(None, quality=float(i)) for i in range(4)]
    assert buckets(learn(rows, field=""), rows) == ["4", "3", "2", "1"]


def test_a_taxonomy_without_quantiles(tmp_path):
    (tmp_path / "t.yaml").write_text(TAXONOMY.replace("quantiles_per: lang", "edges: [5]"))
    with pytest.raises(SettingsError, match="has no bucket with quantiles_per"):
        make({}, load_taxonomy(str(tmp_path / "t.yaml")))
