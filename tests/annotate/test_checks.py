"""What programs tell of an answer, and when that counts as what was asked for."""

from pathlib import Path

import pytest

from marker_lm.annotate.checks import LEAST, NEAR, judges, make_checks, make_counters, obeys
from marker_lm.markers.category import Category
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy

MIX = Path(__file__).resolve().parents[2] / "configs" / "mix.yaml"
GERMAN = "Der Hund läuft heute sehr schnell durch den Wald und kommt am Abend wieder nach Hause."


@pytest.fixture(scope="module")
def checks():
    return make_checks(load_taxonomy(str(MIX)))


@pytest.mark.parametrize(
    ("category", "text", "value"),
    [
        ("lang", GERMAN, "de"),
        ("lang", "", None),
        ("format", '{"a": [1, 2]}', "JSON"),
        ("code_type", "```python\nprint(1)\n```", "python"),
        ("length_tokens", GERMAN, 16),
    ],
)
def test_values_that_a_program_tells(checks, category, text, value):
    assert checks[category](text) == value


def test_a_bucket_is_told_by_the_same_words(checks):
    taxonomy = load_taxonomy(str(MIX))
    for n in (0, 1, 30, 500):
        found = checks["length_bucket"]("word " * n)
        assert found == taxonomy.bucket("length_bucket", checks["length_tokens"]("word " * n))


def number(unit: str) -> dict[str, int | None]:
    """What the number and its bucket are counted as in a text, where its unit is this."""
    described = ("computed", "completion")
    categories = [
        Category("n", "integer", "how long", *described, {}, unit=unit),
        Category(
            "b", "bucket", "how long", *described, {"few": "", "many": ""}, of="n", edges=(3,)
        ),
        Category("alone", "integer", "how long", *described, {}, unit=unit),
    ]
    taxonomy = Taxonomy("t", {one.name: one for one in categories})
    assert make_counters(taxonomy).keys() == make_checks(taxonomy).keys() - {"b"}
    return {name: count("it's one-two, 书") for name, count in make_counters(taxonomy).items()}


def test_words_are_counted_as_their_unit_says():
    assert number("words") == {"n": 3}
    assert number("words (UAX 29)") == {"n": 4}
    assert number("characters") == {}


def test_numbers_are_obeyed_nearly_and_values_exactly():
    assert NEAR == 0.2
    assert obeys(50, 40) and obeys(50, 60) and not obeys(50, 39) and not obeys(50, 61)
    assert not obeys(50, None)
    assert obeys("de", "de") and not obeys("de", "en") and not obeys("de", None)


def test_rows_are_judged_where_the_check_is_right_and_the_number_is_large():
    def count(text):
        return len(text.split())

    assert judges(count, LEAST + 1, "a " * (LEAST + 1))
    assert not judges(count, LEAST, "a " * LEAST)
    assert not judges(count, 100, "a " * 50)
    assert not judges(lambda text: None, "de", GERMAN)
