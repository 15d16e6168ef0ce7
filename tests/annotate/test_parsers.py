import pytest

from marker_lm.annotate import parsers


def test_json():
    assert parsers.json_container(' {"a": [1, "b", {"c": null}]} ') == {"a": [1, "b", {"c": None}]}
    assert list(parsers.leaves({"a": [1, "b", {"c": None}], "d": "e"})) == [1, "b", None, "e"]
    for text in ("3", '"a"', "null", "[1", "[1] x", "{'a': 1}", "", "[" * 100_000):
        assert parsers.json_container(text) is None


def test_xml():
    assert parsers.xml_root("<a b='c'>d<e/></a>").attrib == {"b": "c"}
    for text in (
        "a",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a>&nbsp;</a>",
        "<a>\0</a>",
        "<a>\ud800</a>",
        "",
    ):
        assert parsers.xml_root(text) is None


def test_tables():
    head, whole = "|a|b|\n|-|-|", "|a|b|\n|-|-|\n|*c*|d|"
    assert parsers.table_cells(parsers.tree(head).children[0]) == []
    assert parsers.table_cells(parsers.tree(whole).children[0]) == [["c", "d"]]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a,b\n1,2\n3,4", 2),
        ("a\tb\tc\n1\t2\t3\n4\t5\t6\n", 3),
        ('name;note\n"x; y";1\nz;2', 2),
        ("a,b\n1,2", 0),
        ("a,b\n1,2\n3", 0),
        ("a, b\n1, 2\n3, 4", 0),
        ("a,a\n1,2\n3,4", 0),
        ("one\ntwo\nthree", 0),
        ('a,"b\n1,2\n3,4', 0),
        ("", 0),
    ],
)
def test_separated_rows(text, columns):
    rows = parsers.separated_rows(text)
    assert (len(rows[0]) if rows else 0) == columns


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("- a", True), ("* a", True), ("|a|b|", True), ("# a", True), ("**a", True), ("a]", True),
        ("1. a\n2. b", True), ("</i>", True), ("-7", False), ("a - b", False), ("1. May", False),
        ("#a", False), ("a < b", False),
    ],
)  # fmt: skip
def test_markup_that_is_left(text, left):
    assert parsers.has_markup_left(text) == left
