"""Near duplicates: found on made-up ones, and not where rows share an instruction alone."""

import random

import numpy as np
import pytest

from marker_lm.annotate import duplicates
from marker_lm.annotate.duplicates import DuplicateSearch, report
from marker_lm.annotate.sketches import NGRAM, SKETCH, normalize, sketch
from tests.annotate.rows import changed, row, text


def search(rows, block=100, **options):
    """Labels of the rows, taken in by blocks."""
    with DuplicateSearch(**options) as found:
        for at in range(0, len(rows), block):
            found.add(sketch(rows[at : at + block]))
        return found.labels()


def ngrams(one):
    whole = f"{normalize(one.prompt)}\n{normalize(one.completion)}"
    return {whole[i : i + NGRAM] for i in range(len(whole) - NGRAM + 1)}


def jaccard(a, b):
    return len(ngrams(a) & ngrams(b)) / len(ngrams(a) | ngrams(b))


def test_sketch_is_the_smallest_hashes_of_each_row():
    draw = random.Random(0)
    rows = [
        row("a", "hi", "no"),
        row("b", text(draw, 20)),
        row("c", text(draw, 400)),
        row("d", "x"),
    ]
    whole = sketch(rows)
    assert whole.lengths_N.tolist()[0] == 1 and whole.lengths_N.tolist()[2] == SKETCH
    parts = np.split(whole.hashes, np.cumsum(whole.lengths_N)[:-1])
    for one, part in zip(rows, parts, strict=True):
        assert np.array_equal(sketch([one]).hashes, part)  # whatever stands beside it
        assert np.all(np.diff(part.astype(np.int64)) > 0)
        assert len(part) == min(len(ngrams(one)), SKETCH)


def test_precision_and_recall_on_made_up_near_duplicates():
    """Of 2,000 rows 400 are copies with some words changed: to both sides of the threshold."""
    draw = random.Random(1)
    rows = [row(f"r{i}", text(draw, draw.randint(15, 90)), text(draw, 25)) for i in range(1600)]
    copies = []
    for i in range(400):
        words = rows[i].prompt.split()
        count = draw.choice((1, 1, 2, 3, len(words) // 2))
        copies.append(row(f"c{i}", changed(draw, rows[i].prompt, count), rows[i].completion))
    label_N = search(rows + copies)
    likeness = np.array([jaccard(a, b) for a, b in zip(rows, copies, strict=False)])
    hit = label_N[1600:] == np.arange(400)
    near, far = likeness > 0.83, likeness < 0.77
    assert near.sum() > 150 and far.sum() > 50
    assert hit[near].mean() > 0.97  # recall
    assert hit[far].mean() < 0.03
    assert np.array_equal(label_N[:1600], np.arange(1600))  # no pair of other rows: precision


def test_a_shared_instruction_does_not_make_duplicates():
    draw = random.Random(2)
    instruction = text(draw, 80)
    rows = [row(f"r{i}", f"{instruction}\n\n{text(draw, 8)}", "yes") for i in range(300)]
    rows.append(row("copy", rows[7].prompt.replace("\n\n", "\n"), "yes."))
    label_N = search(rows)
    assert np.flatnonzero(label_N != np.arange(301)).tolist() == [300] and label_N[300] == 7


def test_short_rows_count_only_when_they_are_equal():
    rows = [row("a", "Say hi.", "hi"), row("b", "say  HI.", "hi"), row("c", "Say hi!", "hi")]
    assert search(rows).tolist() == [0, 0, 2]
    assert search([row("a", "x", "y")]).tolist() == [0]


def test_result_does_not_depend_on_blocks():
    draw = random.Random(3)
    rows = [row(f"r{i}", text(draw, 40)) for i in range(150)]
    rows += [row(f"c{i}", changed(draw, rows[i].prompt, 2)) for i in range(50)]
    assert np.array_equal(search(rows, block=7), search(rows, block=1000))


def test_long_rows_are_compared_by_their_sketches():
    draw = random.Random(4)
    rows = [row(f"r{i}", text(draw, 1500)) for i in range(20)]
    rows += [row(f"c{i}", changed(draw, rows[i].prompt, 60)) for i in range(20)]
    rows += [row(f"f{i}", changed(draw, rows[i].prompt, 700)) for i in range(20)]
    label_N = search(rows)
    assert label_N[20:40].tolist() == list(range(20))
    assert label_N[40:].tolist() == list(range(40, 60))


def test_chunks_of_any_size_give_the_same(monkeypatch):
    draw = random.Random(5)
    rows = [row(f"r{i}", text(draw, 60)) for i in range(100)]
    rows += [row(f"c{i}", changed(draw, rows[i].prompt, 2)) for i in range(100)]
    want = search(rows)
    assert (want != np.arange(200)).sum() > 90
    monkeypatch.setattr(duplicates, "_CHUNK", 2000)
    assert np.array_equal(search(rows), want)


def test_report_counts_and_shows_the_largest_groups():
    draw = random.Random(6)
    heldout = [row(f"h{i}", text(draw, 40)) for i in range(10)]
    train = [row(f"t{i}", text(draw, 40)) for i in range(40)]
    train += [row(f"e{i}", train[0].prompt.upper()) for i in range(3)]
    train += [row("leak", changed(draw, heldout[4].prompt, 1))]
    train += [row("other", train[1].prompt, "another answer")]
    with DuplicateSearch() as found:
        found.add(sketch(heldout + train))
        result = report(found, heldout=10, most=1)
    assert result["rows"] == 55 and result["left_out"] == 0
    assert result["equal"] == 3 and result["near"] == 2  # the leak, and the other answer
    assert result["heldout_in_train"] == 1 and result["further_answers"] == 1
    assert result["groups"] == 3 and result["sizes"] == {2: 2, 4: 1}
    [largest] = result["largest"]
    assert largest["rows"] == 4
    assert [one["id"] for one in largest["examples"]] == ["t0", "e2"]


def test_rows_beyond_the_limit_are_counted():
    draw = random.Random(7)
    rows = [row(f"r{i}", text(draw, 40)) for i in range(30)]
    with DuplicateSearch(max_rows=25) as found:
        for at in range(0, 30, 10):
            found.add(sketch(rows[at : at + 10]))
        result = report(found, heldout=0, most=5)
    assert result["rows"] == 25 and result["left_out"] == 5 and result["groups"] == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_rows(rows):
    with DuplicateSearch() as found:
        found.add(sketch([row("a")][:rows]))
        result = report(found, heldout=0, most=5)
    assert result["groups"] == 0 and result["equal"] == 0 and result["largest"] == []
