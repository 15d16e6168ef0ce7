"""The text template and the names of reserved tokens."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.markers.category import Category
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from marker_lm.markers.template import (
    TextTemplate,
    escape,
    number_text,
    reserved_tokens,
    unescape,
)

TEXT = TextTemplate()
PAPER = load_taxonomy("paper")

strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
hard = st.text(st.sampled_from("<>&;/\n\r alt#103m\u2028\x85\x0bह中ش\U0001f600"), max_size=12)
names = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True)


@st.composite
def taxonomy_and_markers(draw):
    """A taxonomy whose closed values are any strings, and markers that it knows."""
    categories, markers = {}, {}
    for name in draw(st.lists(names, unique=True, min_size=1, max_size=5)):
        kind = draw(st.sampled_from(["closed", "several", "integer", "number"]))
        values = draw(st.lists(strings | hard, unique=True, min_size=1, max_size=4))
        categories[name] = Category(
            name, "closed" if kind == "several" else kind, "d", "metadata", "prompt",
            values=dict.fromkeys(values, "d") if kind in ("closed", "several") else {}, unit="u",
            several=kind == "several",
        )  # fmt: skip
        if draw(st.booleans()):
            integers = st.integers(-(2**63), 2**63 - 1)
            floats = st.floats(allow_nan=False, allow_infinity=False)
            sets = st.sets(st.sampled_from(values), min_size=1)
            pool = {"closed": st.sampled_from(values), "integer": integers, "number": floats}
            markers[name] = draw((pool | {"several": sets})[kind])
            if kind == "several":
                markers[name] = tuple(value for value in values if value in markers[name])
    order = draw(st.permutations(list(markers)))
    return Taxonomy("any", categories), {name: markers[name] for name in order}


def test_is_the_papers_text():
    markers = {"domain": "Culture", "length_bucket": "concise", "length_tokens": 199,
               "task": "QuestionAnswering"}  # fmt: skip
    text = TEXT.render(markers)
    assert text == (
        "<MARKER_LIST>\n<domain>Culture</domain>\n<length_bucket>concise</length_bucket>\n"
        "<length_tokens>199</length_tokens>\n<task>QuestionAnswering</task>\n</MARKER_LIST>\n"
    )
    assert TEXT.parse(text + "The answer <b>", PAPER) == (markers, "The answer <b>")
    assert TEXT.parse(TEXT.render({}), PAPER) == ({}, "")


@given(taxonomy_and_markers(), strings | hard)
def test_render_then_parse_is_the_identity(drawn, rest):
    taxonomy, markers = drawn
    parsed, after = TEXT.parse(TEXT.render(markers) + rest, taxonomy)
    assert parsed == markers and after == rest
    assert list(parsed) == list(markers), "the order is the one written"
    assert all(type(parsed[name]) is type(value) for name, value in markers.items())


def two_domains():
    values = dict.fromkeys(["Law", "Math", "News"], "d")
    domain = Category("domain", "closed", "d", "metadata", "prompt", values, several=True)
    return Taxonomy("two", {"domain": domain, "lang": PAPER.categories["lang"]})


def test_each_of_several_values_is_a_line():
    lines = "<domain>Law</domain>\n<domain>News</domain>\n<lang>Hindi</lang>\n"
    markers = {"domain": ("Law", "News"), "lang": "Hindi"}
    assert TEXT.render(markers) == OPEN + lines + CLOSE
    assert TEXT.parse(OPEN + lines + CLOSE, two_domains()) == (markers, "")
    assert TEXT.render({"domain": ("Law",)}) == TEXT.render({"domain": "Law"})


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("<lang>Hindi</lang>\n<lang>Dutch</lang>\n", "lang stands twice"),
        ("<domain>Law</domain>\n<lang>Hindi</lang>\n<domain>Law</domain>\n", "domain stands twice"),
        ("<domain>Law</domain>\n<domain>Nws</domain>\n", "did you mean 'News'"),
    ],
)
def test_several_values_stand_together_in_a_category_that_allows_them(lines, says):
    with pytest.raises(MarkerError, match=says):
        TEXT.parse(OPEN + lines + CLOSE, two_domains())


def test_several_values_in_another_order_are_read():
    lines = "<domain>News</domain>\n<domain>Law</domain>\n<domain>News</domain>\n"
    assert TEXT.parse(OPEN + lines + CLOSE, two_domains())[0] == {"domain": ("Law", "News")}


@given(strings | hard)
def test_escape_is_reversible_and_minimal(value):
    text = escape(value)
    assert unescape(text) == value
    assert not set(text) & set("<\n\r")
    if not set(value) & set("&<\n\r"):
        assert text == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_text_reads_back_and_is_no_longer_than_repr(x):
    text = number_text(x)
    assert float(text) == x and set(text) <= set("0123456789.-")
    if "e" not in repr(x):
        assert text == repr(x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None, [1], b"x"])
def test_values_that_cannot_be_written(value):
    with pytest.raises(MarkerError):
        TEXT.render({"quality": value})


def test_name_that_cannot_be_written():
    with pytest.raises(MarkerError, match="no category name"):
        TEXT.render({"a><b": "x"})


OPEN, CLOSE = "<MARKER_LIST>\n", "</MARKER_LIST>\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with"),
        (" " + OPEN + CLOSE, "begins with"),
        (OPEN, "malformed at character 14"),
        (OPEN + "</MARKER_LIST>", "malformed"),
        (OPEN + "<lang>Hindi</lang>\n", "malformed"),
        (OPEN + "<lang>Hindi</lang>" + CLOSE, "malformed"),
        (OPEN + "<lang>Hindi</task>\n" + CLOSE, "malformed"),
        (OPEN + "<lang> Hindi</lang>\n" + CLOSE, "did you mean 'Hindi'"),
        (OPEN + "<lang>Hin\ndi</lang>\n" + CLOSE, "malformed"),
        (OPEN + "<lang>A & B</lang>\n" + CLOSE, "stray '&'"),
        (OPEN + "<lnag>Hindi</lnag>\n" + CLOSE, "did you mean 'lang'"),
        (OPEN + "<length_tokens>1.5</length_tokens>\n" + CLOSE, "not an integer"),
        (OPEN + "<lang>Hindi</lang>\n<lang>Hindi</lang>\n" + CLOSE, "stands twice"),
    ],
)
def test_malformed_text(text, says):
    with pytest.raises(MarkerError, match=says):
        TEXT.parse(text, PAPER)


@given(st.lists(st.sampled_from([OPEN, CLOSE, "<lang>", "Hindi", "</lang>\n", "&", "<", "\n"])))
def test_parse_never_fails_otherwise(pieces):
    text = "".join(pieces)
    try:
        markers, rest = TEXT.parse(text, PAPER)
    except MarkerError:
        return
    assert TEXT.render(markers) + rest == text


def test_unescape_refuses_raw_breaks():
    for text in ("a<b", "a\nb", "a\rb"):
        with pytest.raises(MarkerError, match="write it as"):
            unescape(text)


def test_reserved_tokens():
    tokens = reserved_tokens(PAPER)
    assert tokens[:3] == ["<|MARKER_LIST|>", "<|/MARKER_LIST|>", "<|quality|>"]
    assert len(tokens) == len(set(tokens)) == 2 + 13 + 87
    assert "<|lang=Hindi|>" in tokens


@given(taxonomy_and_markers())
def test_reserved_tokens_all_differ(drawn):
    taxonomy, _ = drawn
    tokens = reserved_tokens(taxonomy)
    values = sum(len(category.values) for category in taxonomy.categories.values())
    assert len(set(tokens)) == 2 + len(taxonomy.categories) + values
