"""The taxonomy: shipped files, canonical values, hash and difference."""

import json
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.markers.category import mend
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from tests.markers.small import SMALL, load

PAPER = load_taxonomy("paper")
ATLAS = load_taxonomy("atlas")


def test_paper_has_its_categories_and_values():
    assert list(PAPER.categories) == [
        "quality", "quality_bucket", "length_tokens", "length_sentences", "length_paragraphs",
        "length_bucket", "task", "domain", "code_type", "format", "source", "style", "lang",
    ]  # fmt: skip
    counts = {name: len(c.values) for name, c in PAPER.categories.items() if c.values}
    assert counts == {
        "quality_bucket": 4, "length_bucket": 3, "task": 14, "domain": 11, "code_type": 17,
        "format": 8, "source": 4, "style": 3, "lang": 23,
    }  # fmt: skip
    assert "Finance" in PAPER.categories["domain"].values
    assert PAPER.categories["quality_bucket"].quantiles_per == "lang"
    assert list(PAPER.categories["quality_bucket"].values)[-1] == "1", "ascending: 1 is the best"
    assert PAPER.categories["length_tokens"].unit == "words (UAX 29)"
    for category in PAPER.categories.values():
        assert category.definition and all(category.values.values())


def test_atlas_extends_the_paper():
    assert list(ATLAS.categories) == list(PAPER.categories)
    assert len(ATLAS.categories["lang"].values) == 26
    assert "Romanian" not in ATLAS.categories["lang"].values
    for name, extra in {
        "domain": ["Geography", "Calendar", "Languages", "Numbers", "Measurement"],
        "format": ["Plain"],
    }.items():
        assert ATLAS.categories[name].values == {
            **PAPER.categories[name].values,
            **{value: ATLAS.categories[name].values[value] for value in extra},
        }
    assert ATLAS.categories["length_tokens"].unit.startswith("words (UAX 29")
    replaced = {"length_tokens", "length_bucket", "domain", "format", "lang"}
    for name in set(PAPER.categories) - replaced:
        assert ATLAS.categories[name] == PAPER.categories[name]
    assert ATLAS.hash != PAPER.hash


@pytest.mark.parametrize(
    ("taxonomy", "x", "value"),
    [
        (PAPER, 0, "concise"), (PAPER, 299, "concise"), (PAPER, 300, "medium"),
        (PAPER, 999, "medium"), (PAPER, 1000, "long"), (PAPER, 10**9, "long"),
        (ATLAS, 3, "concise"), (ATLAS, 4, "medium"), (ATLAS, 20, "medium"), (ATLAS, 21, "long"),
    ],
)  # fmt: skip
def test_buckets_take_their_lower_edge(taxonomy, x, value):
    assert taxonomy.bucket("length_bucket", x) == value


@pytest.mark.parametrize(
    ("category", "x", "says"),
    [
        ("length_bucket", 1.5, "not an integer"),
        ("length_bucket", math.nan, "not an integer"),
        ("quality_bucket", 0.5, "quantiles per lang"),
        ("lang", 1, "no buckets"),
    ],
)
def test_bucket_faults(category, x, says):
    with pytest.raises(MarkerError, match=says):
        PAPER.bucket(category, x)


@pytest.mark.parametrize("value", ["12", 12, 12.0, np.int64(12), np.float32(12), Fraction(12)])
def test_integers(value):
    checked = PAPER.check("length_tokens", value)
    assert checked == 12 and type(checked) is int


@pytest.mark.parametrize(
    "value",
    [True, np.True_, "x", "", " 12", "1_2", "１２", "12.0", 1.5, math.nan, math.inf, None, [12],
     10**30, "9" * 5000, 2**63],
)  # fmt: skip
def test_what_is_no_integer(value):
    with pytest.raises(MarkerError, match="length_tokens=.*not an integer.*words"):
        PAPER.check("length_tokens", value)


@pytest.mark.parametrize("value", ["0.5", 0.5, "5e-1", ".5", np.float64(0.5), Fraction(1, 2)])
def test_numbers(value):
    checked = PAPER.check("quality", value)
    assert checked == 0.5 and type(checked) is float


def test_zero_has_one_form():
    assert math.copysign(1, PAPER.check("quality", -0.0)) == 1


@pytest.mark.parametrize(
    "value", [True, "nan", "inf", math.nan, math.inf, "1e999", 10**400, "", "x", None, "1,5"]
)
def test_what_is_no_number(value):
    with pytest.raises(MarkerError, match="quality=.*not a finite number"):
        PAPER.check("quality", value)


def test_closed_values(tmp_path):
    assert PAPER.check("quality_bucket", 4) == "4"
    own = load(tmp_path, SMALL.replace("English:", "Fran\u00e7ais:"))
    assert own.check("lang", "Franc\u0327ais") == "Fran\u00e7ais"
    for value in (True, 5, 4.0, None, ["4"], "4 "):
        with pytest.raises(MarkerError, match="quality_bucket=.*not a value"):
            PAPER.check("quality_bucket", value)


SEVERAL = SMALL.replace("type: closed", "type: closed\n    several: true")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("no", ("no",)),
        (["no"], ("no",)),
        (["no", "English"], ("English", "no")),
        (("English", "no", "English"), ("English", "no")),
    ],
)
def test_several_values_are_a_tuple_in_the_order_of_the_taxonomy(tmp_path, given, value):
    several = load(tmp_path, SEVERAL)
    assert several.check("lang", given) == value
    assert several.check("lang", value) == value
    assert several.check_all({"lang": given, "words": 3}) == {"words": 3, "lang": value}


def test_several_values_are_checked_one_by_one(tmp_path):
    several, single = load(tmp_path, SEVERAL), load(tmp_path, SMALL, "single.yaml")
    assert several.check_all({"lang": [], "words": None}) == {} == single.check_all({"lang": []})
    for value in ([], (), None):
        with pytest.raises(MarkerError, match="has no value; leave the marker out"):
            several.check("lang", value)
    for value in (["English", "noo"], "noo", [["no"]], [None], {"no"}):
        with pytest.raises(MarkerError, match="is not a value of this category; .*'no'"):
            several.check("lang", value)
    with pytest.raises(MarkerError, match="a list.*one value only; .*'several: true' in the tax"):
        single.check("lang", ["English", "no"])
    with pytest.raises(MarkerError, match="one value only; give one$"):
        single.check("size", ["small"])


def test_several_changes_the_hash_only_where_it_is_set(tmp_path):
    single, several = load(tmp_path, SMALL), load(tmp_path, SEVERAL, "several.yaml")
    spelled = load(tmp_path, SEVERAL.replace("several: true", "several: false"), "spelled.yaml")
    assert "several" not in json.dumps(single.to_dict())
    assert spelled.hash == single.hash and spelled.diff(single) == []
    assert several.hash != single.hash
    assert single.diff(several) == ["lang: several is True, was False"]
    again = Taxonomy.from_dict(json.loads(json.dumps(several.to_dict())))
    assert again == several and again.categories["lang"].several


def test_faults_name_the_nearest():
    with pytest.raises(MarkerError, match="did you mean 'English'"):
        PAPER.check("lang", "english ")
    with pytest.raises(MarkerError, match="did you mean 'length_tokens'"):
        PAPER.check("lenght_tokens", 3)
    with pytest.raises(MarkerError, match="one of 'Formal', 'Informal', 'Custom'"):
        PAPER.check("style", "zzz")
    assert "and 88 more" in mend("zzz", [f"name{i}" for i in range(100)])


def test_check_all_orders_and_drops_none():
    markers = {"lang": "Hindi", "style": None, "task": "Rewrite", "length_tokens": "7"}
    checked = PAPER.check_all(markers)
    assert list(checked.items()) == [("length_tokens", 7), ("task", "Rewrite"), ("lang", "Hindi")]
    with pytest.raises(MarkerError, match="unknown category 'colour'"):
        PAPER.check_all({"colour": 1})
    with pytest.raises(MarkerError, match="not a mapping"):
        PAPER.check_all(["lang"])


def test_round_trips():
    for taxonomy in (PAPER, ATLAS):
        stored = json.loads(json.dumps(taxonomy.to_dict(), sort_keys=True))
        again = Taxonomy.from_dict(stored)
        assert again == taxonomy and again.hash == taxonomy.hash
        assert list(again.categories) == list(taxonomy.categories)
        assert pickle.loads(pickle.dumps(taxonomy)) == taxonomy


@pytest.mark.parametrize(
    "stored", [{}, {"name": "x"}, {"name": "x", "categories": [3]}, {"name": "x", "categories": 3},
               {"name": "x", "categories": [{"name": "lang", "type": "closed"}]}],
)  # fmt: skip
def test_damaged_dict(stored):
    with pytest.raises(MarkerError):
        Taxonomy.from_dict(stored)


def test_hash_ignores_layout(tmp_path):
    plain = load(tmp_path, SMALL)
    layout = SMALL.replace("name: small", "# a comment\nname: renamed").replace(
        "definition: The language.", "definition: >\n      The\n        language."
    )
    layout = layout.replace("[10, 20.5]", "\n    - 10.0\n    - 20.5").replace("'no'", '"no"')
    other = load(tmp_path, layout, "other.yaml")
    assert other.hash == plain.hash and plain.diff(other) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("definition: A score.", "definition: Another.", "score: definition"),
        ("In English.", "In the English language.", "definition of 'English'"),
        ("English:", "Englisch:", "'English' is removed"),
        ("[10, 20.5]", "[10, 21]", "size: edges"),
        ("origin: classified", "origin: metadata", "score: origin"),
        ("unit: points", "unit: stars", "score: unit"),
        ("of: words", "of: score", "size: of"),
        ("describes: completion", "describes: prompt", "words: describes"),
        ("  score:", "  points:", "category score is removed"),
        ("      small: Few words.\n      middle: Some words.",
         "      middle: Some words.\n      small: Few words.", "order of values"),
    ],
)  # fmt: skip
def test_hash_and_diff_see_meaning(tmp_path, old, new, says):
    before = load(tmp_path, SMALL)
    after = load(tmp_path, SMALL.replace(old, new, 1), "after.yaml")
    assert before.hash != after.hash
    assert any(says in line for line in before.diff(after)), before.diff(after)


@given(st.permutations(list(PAPER.categories)), st.integers(0, 13))
def test_diff_is_empty_iff_hashes_agree(order, kept):
    other = Taxonomy("other", {name: PAPER.categories[name] for name in order[:kept]})
    assert (other.hash == PAPER.hash) == (PAPER.diff(other) == [])
    assert (PAPER.diff(other) == []) == (other.diff(PAPER) == [])
