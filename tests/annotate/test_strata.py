"""Strata: proposed from counts, frozen once, and refused under another taxonomy."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate import strata
from marker_lm.annotate.strata import StrataError
from marker_lm.markers.taxonomy import load_taxonomy
from tests.tiny import TAXONOMY, tiny_taxonomy

VALUES = {"lang": {"en": 970, "de": 20, "ja": 10}, "task": {"Repeat": 600}}
ROWS = {"count": 1000, "hash": "0123456789abcdef"}


@pytest.fixture
def taxonomy(tmp_path):
    return tiny_taxonomy(tmp_path)


def make(taxonomy, threshold=0.05, values=VALUES, category="lang"):
    return strata.make_strata(category, values, {"de": 3}, threshold, taxonomy, ROWS)


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 10**5), min_size=1, max_size=40),
    st.dictionaries(st.text(max_size=3), st.integers(0, 900), max_size=40),
    st.floats(0.001, 0.5),
)
def test_pools_hold_the_whole_tail_and_enough_rows(train, heldout, threshold):
    found = strata.propose(train, heldout, threshold, pool_rows=400)
    pooled = [value for pool in found["pools"] for value in pool["values"]]
    assert pooled == found["tail"]["values"]
    assert sorted(pooled + found["head"]["values"]) == sorted(train)
    if len(found["pools"]) > 1:
        assert all(pool["heldout_rows"] >= 400 for pool in found["pools"])
    rows = sum(pool["train_rows"] for pool in found["pools"]) + found["head"]["train_rows"]
    assert rows == sum(train.values())


def test_detectable_difference_is_found_at_the_stated_power():
    """Draws paired answers with that difference and counts how often McNemar's test finds it."""
    n, random = 600, np.random.default_rng(0)
    difference = strata.detectable(n)
    better, worse = (strata.DISCORDANT + difference) / 2, (strata.DISCORDANT - difference) / 2
    counts = random.multinomial(n, [better, worse, 1 - better - worse], size=4000)
    z = (counts[:, 0] - counts[:, 1]) / np.sqrt(counts[:, 0] + counts[:, 1])
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.03)
    assert strata.detectable(0) == 1


def test_what_is_frozen(taxonomy, tmp_path):
    path = tmp_path / "new" / "strata.json"
    assert strata.freeze(make(taxonomy), path)
    loaded = strata.load_strata(path, taxonomy)
    assert loaded["head"] == ["en"] and loaded["tail"] == ["de", "ja"]
    assert loaded["train_shares"]["lang"] == {"en": 0.97, "de": 0.02, "ja": 0.01}
    assert loaded["rule"] == (
        "tail: values of lang under 5 % of the training rows, counted before training"
    )
    assert loaded["rows"] == ROWS and loaded["taxonomy_hash"] == taxonomy.hash
    assert loaded["date"] and list(path.parent.iterdir()) == [path]


def test_frozen_strata_are_never_replaced(taxonomy, tmp_path):
    path = tmp_path / "strata.json"
    assert strata.freeze(make(taxonomy), path)
    before = path.read_bytes()
    assert not strata.freeze(make(taxonomy) | {"date": "2099-01-01"}, path)
    with pytest.raises(StrataError, match="threshold is 0.05, was to be 0.015.*tails differ in de"):
        strata.freeze(make(taxonomy, 0.015), path)
    with pytest.raises(StrataError, match="1000 other training rows"):
        strata.freeze(make(taxonomy) | {"rows": {"count": 999, "hash": "f"}}, path)
    assert path.read_bytes() == before


def test_another_taxonomy_is_refused_with_the_difference(taxonomy, tmp_path):
    path = tmp_path / "strata.json"
    strata.freeze(make(taxonomy), path)
    other = tmp_path / "other.yaml"
    other.write_text(TAXONOMY.replace("      ja: Japanese\n", ""), encoding="utf-8")
    with pytest.raises(StrataError, match="another taxonomy .*lang: value 'ja' is removed"):
        strata.load_strata(path, load_taxonomy(str(other)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{oops", "is damaged"),
        ("[]", "lacks rule, category"),
        (json.dumps({"rule": ""}), "lacks category, head"),
    ],
)
def test_a_file_that_holds_no_strata(taxonomy, tmp_path, text, words):
    path = tmp_path / "strata.json"
    path.write_text(text)
    with pytest.raises(StrataError, match=words):
        strata.load_strata(path, taxonomy)
    with pytest.raises(StrataError, match=words):
        strata.freeze(make(taxonomy), path)
    assert path.read_text() == text


def test_a_missing_file_and_another_format(taxonomy, tmp_path):
    path = tmp_path / "strata.json"
    with pytest.raises(StrataError, match="there is no .*--freeze="):
        strata.load_strata(path, taxonomy)
    path.write_text(json.dumps(make(taxonomy) | {"format": 99}))
    with pytest.raises(StrataError, match="has format 99"):
        strata.load_strata(path, taxonomy)


def test_categories_that_have_no_strata(taxonomy):
    with pytest.raises(StrataError, match="words is a number"):
        make(taxonomy, category="words")
    with pytest.raises(StrataError, match="no training row has a marker size"):
        make(taxonomy, category="size")
    with pytest.raises(StrataError, match="task allows several values"):
        make(taxonomy, category="task")
