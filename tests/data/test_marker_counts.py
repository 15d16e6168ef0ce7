"""Counts of the values of markers: over rows, over parts, in a cache."""

import json

import pytest

from marker_lm.data.marker_counts import count_markers, join_counts
from marker_lm.data.prepare import prepare
from marker_lm.markers.taxonomy import load_taxonomy
from tests.tiny import TAXONOMY, make_rows, tiny_config, write_data


@pytest.fixture
def taxonomy(tmp_path):
    (tmp_path / "taxonomy.yaml").write_text(TAXONOMY, encoding="utf-8")
    return load_taxonomy(str(tmp_path / "taxonomy.yaml"))


ROWS = [
    {"lang": "en", "task": ("Repeat", "Answer"), "words": 3},
    {"lang": "de", "task": ("Answer",)},
    {"lang": "en", "words": -2},
    {},
]


def test_every_value_counts_and_numbers_have_a_range(taxonomy):
    counts = count_markers(ROWS, taxonomy)
    assert counts == {
        "lang": {"en": 2, "de": 1},
        "task": {"Repeat": 1, "Answer": 2},
        "words": [-2, 3],
    }


def test_parts_join_to_the_counts_of_all(taxonomy):
    order = list(taxonomy.categories)
    parts = [count_markers(rows, taxonomy) for rows in (ROWS[:1], ROWS[1:3], ROWS[3:])]
    whole = join_counts([count_markers(ROWS, taxonomy)], order)
    assert join_counts(parts, order) == whole == json.loads(json.dumps(whole))
    assert list(whole) == ["words", "lang", "task"] and list(whole["lang"]) == ["de", "en"]


def test_a_cache_says_which_values_its_rows_have(tmp_path):
    write_data(tmp_path, train=60, heldout=8)
    manifest = prepare(tiny_config(tmp_path), tmp_path / "prepared", lambda line: None)["train"]
    taxonomy = load_taxonomy(str(tmp_path / "taxonomy.yaml"))
    rows = [taxonomy.check_all(row["markers"]) for row in make_rows(60)]
    for category in ("lang", "task", "words"):
        expected = join_counts([count_markers(rows, taxonomy)], taxonomy.categories)[category]
        assert manifest["seen"][category] == expected
    assert sum(manifest["seen"]["size"].values()) == sum("words" in row for row in rows)
