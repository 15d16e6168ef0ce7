"""Measures of the tail and of what one category tells of another."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate import long_tail

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1000), min_size=1)
PAIRS = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), st.integers(1, 500), min_size=1
)


def test_entropy_of_known_distributions():
    assert long_tail.entropy({"a": 7}) == 0
    assert long_tail.entropy(dict.fromkeys("abcdefgh", 3)) == pytest.approx(3)
    assert long_tail.entropy({"a": 1, "b": 3}) == pytest.approx(0.811278, abs=1e-6)
    assert long_tail.effective_values({}) == 0


@given(COUNTS)
def test_effective_values_lie_between_one_and_all(counts):
    assert 1 - 1e-9 <= long_tail.effective_values(counts) <= len(counts) + 1e-9


@given(COUNTS, st.floats(0.01, 0.9))
def test_head_and_tail_split_all_values_at_the_threshold(counts, threshold):
    head, tail = long_tail.head_and_tail(counts, threshold)
    share = long_tail.shares(counts)
    assert sorted(head + tail) == sorted(counts)
    assert all(share[v] >= threshold for v in head) and all(share[v] < threshold for v in tail)
    assert list(share.values()) == sorted(share.values(), reverse=True)


def test_a_value_at_the_threshold_is_head():
    assert long_tail.head_and_tail({"a": 95, "b": 5}, 0.05) == (["a", "b"], [])


@given(PAIRS)
def test_mutual_information_is_that_of_the_definition(joint):
    total = sum(joint.values())
    first, second = long_tail.margins(joint)
    information = sum(
        n / total * math.log2(n * total / first[a] / second[b]) for (a, b), n in joint.items()
    )
    mean = (long_tail.entropy(first) + long_tail.entropy(second)) / 2
    found = long_tail.mutual_information(joint)
    if mean < 1e-9:
        assert found is None
    else:
        assert found == pytest.approx(information / mean, abs=1e-9)


def test_mutual_information_of_the_same_and_of_independent_categories():
    same = Counter({(v, v): n for v, n in zip("abc", (5, 9, 2), strict=True)})
    assert long_tail.mutual_information(same) == pytest.approx(1)
    product = Counter(
        {(a, b): n * m for a, n in (("a", 2), ("b", 3)) for b, m in (("x", 4), ("y", 1))}
    )
    assert long_tail.mutual_information(product) == pytest.approx(0, abs=1e-12)
    assert long_tail.mutual_information({}) is None


def test_surprising_pairs_have_the_sign_of_what_was_seen():
    joint = Counter(
        {("ja", "Poem"): 90, ("ja", "Code"): 10, ("en", "Poem"): 10, ("en", "Code"): 90}
    )
    found = long_tail.surprising(joint, most=2)
    assert {tuple(cell["pair"]) for cell in found[:2]} == {("ja", "Poem"), ("en", "Code")}
    assert {tuple(cell["pair"]) for cell in found[2:]} == {("ja", "Code"), ("en", "Poem")}
    assert all(cell["expected"] == pytest.approx(50) for cell in found)
    assert found[0]["surprise"] > 0 > found[2]["surprise"]


def test_a_pair_that_never_comes_is_surprising():
    joint = Counter({("a", "x"): 500, ("b", "x"): 500, ("a", "y"): 500})
    cells = {tuple(cell["pair"]): cell for cell in long_tail.surprising(joint, most=4)}
    assert cells["b", "y"]["rows"] == 0 and cells["b", "y"]["surprise"] < -100
