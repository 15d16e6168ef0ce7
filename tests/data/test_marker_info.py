"""Where markers come from, how sure they are, and which are trusted."""

from collections import Counter

import pytest

from marker_lm.annotate.registry import MODULES
from marker_lm.data.example import ORIGINS, MarkerInfo, RowError
from marker_lm.data.parse import parse_row
from marker_lm.data.row_format import RowFormat
from marker_lm.data.sources import Rejects, read_examples
from marker_lm.markers.taxonomy import MarkerError
from tests.data.small import taxonomy, write_rows

ROW = {
    "prompt": "p",
    "completion": "c",
    "markers": {"lang": "en", "task": "List", "words": 1},
    "marker_info": {
        "lang": {"origin": "lang", "confidence": 0.75},
        "task": {"origin": "classifier", "confidence": 0.5},
        "words": None,
    },
}


def test_origins():
    example = parse_row(ROW, taxonomy())
    assert example.marker_info == {
        "lang": MarkerInfo("lang", 0.75),
        "task": MarkerInfo("classifier", 0.5),
        "words": MarkerInfo("row", 1.0),
    }
    assert example.extra == {}
    mapped = RowFormat(markers={"lang": "language"}, defaults={"task": "Answer"})
    example = parse_row({"prompt": "p", "completion": "c", "language": "de"}, taxonomy(), mapped)
    assert example.marker_info == {"lang": MarkerInfo("metadata"), "task": MarkerInfo("default")}


@pytest.mark.parametrize(
    ("trust", "stay"),
    [
        ({}, ["lang", "task", "words"]),
        ({"classifier": 0.5, "lang": 0.75}, ["lang", "task", "words"]),
        ({"classifier": 0.51}, ["lang", "words"]),
        ({"task": 0.6}, ["lang", "words"]),
        ({"lang": 0.8, "classifier": 0.0}, ["task", "words"]),
        ({"lang": 1, "task": 1, "words": 1}, ["words"]),
    ],
)
def test_trust(trust, stay):
    untrusted = Counter()
    example = parse_row(ROW, taxonomy(), RowFormat(trust=trust), untrusted=untrusted)
    assert list(example.markers) == list(example.marker_info) == stay
    assert untrusted == Counter({"lang", "task", "words"} - set(stay))


def test_untrusted_markers_are_counted_where_rows_are_read(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", [ROW] * 3)
    with Rejects(None) as rejects:
        examples = list(read_examples(file, taxonomy(), {"trust": {"classifier": 0.9}}, rejects))
    assert len(examples) == 3 and rejects.rejected == 0
    assert rejects.summary()["untrusted"] == {"task": 3}


def test_trust_that_cannot_be():
    for least in (1.5, -0.1, "much", float("nan")):
        with pytest.raises(ValueError, match="trust of lang is .* from 0 to 1"):
            RowFormat(trust={"lang": least})
    with pytest.raises(MarkerError, match="'clasifier'.*did you mean 'classifier'"):
        RowFormat(trust={"clasifier": 0.5}).check(taxonomy())
    RowFormat(trust={"task": 0.5, "llm": 1}).check(taxonomy())


@pytest.mark.parametrize(
    "info",
    [
        "sure",
        ["lang"],
        {"lang": "sure"},
        {"lang": {"origin": "lang"}},
        {"lang": {"origin": None, "confidence": 0.5}},
        {"lang": {"origin": "lang", "confidence": float("nan")}},
        {"lang": {"origin": "lang", "confidence": 1.1}},
        {"lang": {"origin": "lang", "confidence": True}},
        {"lang": {"origin": "lang", "confidence": "0.5"}},
    ],
)
def test_marker_info_that_is_none(info):
    with pytest.raises(RowError, match="the marker_info .* with 'origin'|the marker_info is a"):
        parse_row(ROW | {"marker_info": info}, taxonomy())


def test_every_annotator_is_an_origin():
    assert set(MODULES) < set(ORIGINS) and len(set(ORIGINS)) == len(MODULES) + 3
