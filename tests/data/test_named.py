"""Prompts that do not name the value of a marker get a sentence that does."""

import pytest

from marker_lm.data.parse import parse_row
from marker_lm.data.row_format import RowFormat
from marker_lm.markers.taxonomy import MarkerError
from tests.data.small import taxonomy

FIELDS = {"named": {"lang": "It {}."}, "named_where": {"source": ("a", "b")}}


def prompt(fields=FIELDS, **row):
    row = {"prompt": "Say hi.", "completion": "hi", "markers": {"lang": "de"}, **row}
    return parse_row(row, taxonomy(), fields).prompt


def test_the_value_is_named_by_its_definition():
    assert prompt(source="a") == "Say hi.\n\nIt is de."
    assert prompt(source="a", prompt="Say hi; it Is DE.") == "Say hi; it Is DE."
    assert prompt(source="a", markers={"task": "List"}) == "Say hi."
    assert prompt({"named": FIELDS["named"]}, source="c") == "Say hi.\n\nIt is de."


def test_a_part_of_a_word_is_not_its_name():
    assert prompt(source="a", prompt="Say his den.") == "Say his den.\n\nIt is de."
    assert prompt(source="a", prompt="Say (is de).") == "Say (is de)."


def test_only_where_it_is_asked_for():
    assert prompt(source="c") == prompt() == "Say hi."
    assert prompt({}, source="a") == "Say hi."


def test_an_unknown_category_is_told():
    with pytest.raises(MarkerError, match="langs"):
        RowFormat(named={"langs": "In {}."}).check(taxonomy())
