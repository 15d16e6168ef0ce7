"""Prompt, markers and answer stand where the layout says, and the index knows how long that is."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marker_lm.data.assembly import (
    Kind,
    Layout,
    assemble,
    order_categories,
    prompt_part,
    sequence_lengths,
)
from marker_lm.data.spans import Spans, build_index
from tests.tiny import tiny_taxonomy

CATEGORIES = ("a", "b", "c")
LAYOUT = Layout(("a", "c"), ("a", "b", "c"), (90, 91), (92,), (80,), (70,), 1)
SPANS = Spans(
    "x",
    np.array([10, 11], np.int32),
    np.array([20, 21, 22], np.int32),
    {"c": np.array([33], np.int32), "a": np.array([31, 31], np.int32)},
)


def ids(text):
    return [int(word) for word in text.split()]


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ({"a", "c"}, "90 91 31 31 33 92"),
        ({"c"}, "90 91 33 92"),
        ({"b"}, ""),  # b does not stand on the prompt side
        (set(), ""),
    ],
)
def test_a_whole_sequence(kept, shown):
    sequence, kinds = assemble(LAYOUT, SPANS, kept)
    parts = ["70 10 11 80", shown, "90 91 31 31 33 92", "20 21 22 1"]
    assert sequence.tolist() == ids(" ".join(parts))
    of_part = [Kind.PROMPT, Kind.PROMPT_MARKERS, Kind.COMPLETION_MARKERS, Kind.COMPLETION]
    want = [kind for kind, part in zip(of_part, parts, strict=True) for _ in part.split()]
    assert kinds.tolist() == want
    assert sequence.dtype == kinds.dtype == np.int32


def test_the_prompt_part_begins_the_whole_sequence():
    for kept in ({"a", "c"}, {"a"}, set()):
        part, part_kinds = prompt_part(LAYOUT, SPANS.prompt, SPANS.markers, kept)
        sequence, kinds = assemble(LAYOUT, SPANS, kept)
        assert sequence[: len(part)].tolist() == part.tolist()
        assert kinds[: len(part)].tolist() == part_kinds.tolist()
        assert set(kinds[len(part) :].tolist()) == {Kind.COMPLETION_MARKERS, Kind.COMPLETION}


def test_without_a_completion_side_there_is_no_block():
    layout = Layout((), (), (90, 91), (92,), (80,), (), 1)
    sequence, kinds = assemble(layout, SPANS, set())
    assert sequence.tolist() == ids("10 11 80 20 21 22 1")
    assert kinds.tolist() == [Kind.PROMPT] * 3 + [Kind.COMPLETION] * 4


def test_a_row_without_markers_has_an_empty_list_on_the_completion_side_only():
    bare = Spans("x", SPANS.prompt, SPANS.completion, {})
    sequence, kinds = assemble(LAYOUT, bare, {"a", "c"})
    assert sequence.tolist() == ids("70 10 11 80 90 91 92 20 21 22 1")
    assert Kind.PROMPT_MARKERS not in kinds


def test_orders(tmp_path):
    taxonomy = tiny_taxonomy(tmp_path)
    names = {"words", "task", "lang", "size"}
    assert order_categories(taxonomy, names, "alphabetical") == ("lang", "size", "task", "words")
    # The computed ones are the lengths.
    assert order_categories(taxonomy, names, "lengths_last") == ("lang", "task", "size", "words")
    with pytest.raises(ValueError, match="'random' is not one of alphabetical, lengths_last"):
        order_categories(taxonomy, names, "random")


SIZES = st.fixed_dictionaries(
    {
        "prompt": st.integers(0, 5),
        "completion": st.integers(0, 5),
        "markers": st.dictionaries(st.sampled_from(CATEGORIES), st.integers(1, 4)),
    }
)
SOME_IDS = st.lists(st.integers(0, 9), max_size=3).map(tuple)
SIDES = st.lists(st.sampled_from(CATEGORIES), unique=True).map(tuple)
LAYOUTS = st.builds(Layout, SIDES, SIDES, SOME_IDS, SOME_IDS, SOME_IDS, SOME_IDS, st.just(1))


@settings(deadline=None, max_examples=200)
@given(st.lists(SIZES, min_size=1, max_size=8), LAYOUTS, st.data())
def test_planned_lengths_are_those_of_assembled_sequences(sizes, layout, data):
    if not layout.open + layout.close:
        layout = LAYOUT
    rows = [
        Spans(
            str(i),
            np.zeros(one["prompt"], np.int32),
            np.zeros(one["completion"], np.int32),
            {c: np.zeros(n, np.int32) for c, n in one["markers"].items()},
        )
        for i, one in enumerate(sizes)
    ]
    width = len(layout.prompt_side)
    flat = data.draw(
        st.lists(st.booleans(), min_size=len(rows) * width, max_size=len(rows) * width)
    )
    kept_NxC = np.array(flat, bool).reshape(len(rows), width)
    found = sequence_lengths(layout, build_index(rows, CATEGORIES), kept_NxC)
    for row, kept, length in zip(rows, kept_NxC, found, strict=True):
        shown = {c for c, k in zip(layout.prompt_side, kept, strict=True) if k}
        assert len(assemble(layout, row, shown)[0]) - 1 == length
