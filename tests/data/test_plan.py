"""The plan of an epoch: every row where it belongs, by numbers alone."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marker_lm.data import plan as plan_module
from marker_lm.data.assembly import Layout, sequence_lengths
from marker_lm.data.plan import donors, draw_epoch, kept_markers, plan_epoch
from marker_lm.data.spans import Index
from marker_lm.markers.dropout import Dropout, hash_ids

CATEGORIES = ("lang", "words")
LAYOUT = Layout(CATEGORIES, CATEGORIES, (1,), (2,), (3,), (), 0)
PLAIN = Layout((), (), (1,), (2,), (3,), (), 0)
SHUFFLED = dataclasses.replace(LAYOUT, shuffled=True)


def make_index(rows, seed=0, longest=40):
    random = np.random.default_rng(seed)
    return Index(
        CATEGORIES,
        hash_ids([f"row-{i}" for i in range(rows)]),
        random.integers(1, longest, rows, np.int32),
        random.integers(1, longest, rows, np.int32),
        random.integers(0, 5, (rows, 2), np.int32),
    )


def make_plan(index, layouts=(LAYOUT,), dropout=None, **changes):
    known = dict(sizes=[len(index)], rates=[1.0], seed=0, epoch=0, epochs=2, length=64)
    return plan_epoch(index, layouts=layouts, dropout=dropout or Dropout(), **(known | changes))


def slots(plan, index, layout, dropout, seed=0):
    """The slots of each placed draw, as the loader will write it."""
    kept = kept_markers(
        layout, dropout, seed, plan.visits_P, index.example_hash_N[plan.rows_P], plan.progress_P
    )
    written = index.take(plan.rows_P)
    if layout.shuffled:
        given_PxC = index.marker_len_NxC[donors(len(index), seed)[plan.rows_P]]
        written = dataclasses.replace(written, marker_len_NxC=given_PxC)
    return sequence_lengths(layout, written, kept)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(20, 90), st.integers(0, 3), st.integers(0, 9))
def test_every_row_is_placed_once_or_too_long(rows, length, epoch, seed):
    index = make_index(rows, seed)
    plan = make_plan(index, (LAYOUT, SHUFFLED, PLAIN), length=length, epoch=epoch, seed=seed)
    assert sorted([*plan.rows_P.tolist(), *plan.too_long.tolist()]) == list(range(rows))
    assert plan.starts[0] == 0 and plan.starts[-1] == len(plan.rows_P)
    assert (np.diff(plan.starts) > 0).all() and plan.sequences == len(plan.starts) - 1
    for layout in (LAYOUT, SHUFFLED, PLAIN):
        each = slots(plan, index, layout, Dropout(), seed)
        if plan.sequences:
            assert np.add.reduceat(each, plan.starts[:-1]).max() <= length
    assert plan.used_slots <= plan.sequences * length


def test_the_plan_is_a_pure_function():
    index = make_index(300)
    first, again = make_plan(index), make_plan(index)
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not np.array_equal(first.rows_P, make_plan(index, epoch=1).rows_P)
    assert not np.array_equal(first.rows_P, make_plan(index, seed=1).rows_P)


def test_windows_change_nothing_of_what_is_placed(monkeypatch):
    index = make_index(300)
    monkeypatch.setattr(plan_module, "WINDOW", 37)
    plan = make_plan(index)
    assert sorted([*plan.rows_P.tolist(), *plan.too_long.tolist()]) == list(range(300))
    each = slots(plan, index, LAYOUT, Dropout())
    assert np.add.reduceat(each, plan.starts[:-1]).max() <= 64
    assert plan.used_slots == each.sum()


def test_a_row_too_long_for_one_layout_is_left_out_for_all():
    index = make_index(4)
    index.prompt_len_N[:] = 50
    index.completion_len_N[:] = 5
    index.marker_len_NxC[:] = [[0, 0], [4, 4], [1, 0], [4, 4]]
    # With separator and all of its markers on the completion side only: 50 + 1 + 2 + markers + 5.
    nothing_shown = Dropout(example=1.0)
    assert make_plan(index, (PLAIN,), nothing_shown, length=60).too_long.tolist() == []
    both = make_plan(index, (PLAIN, LAYOUT), nothing_shown, length=60)
    assert sorted(both.too_long.tolist()) == [1, 3]
    assert sorted(both.rows_P.tolist()) == [0, 2]
    none = make_plan(index, (PLAIN, LAYOUT), nothing_shown, length=20)
    assert none.sequences == 0 and len(none.rows_P) == 0 and len(none.too_long) == 4


def test_progress_runs_through_the_training():
    index = make_index(200)
    plans = [make_plan(index, epoch=epoch, epochs=4, length=200) for epoch in range(4)]
    for epoch, plan in enumerate(plans):
        progress = np.sort(plan.progress_P)
        np.testing.assert_allclose(progress, (epoch + np.arange(200) / 200) / 4)


def test_a_schedule_of_dropout_moves_the_lengths():
    index = make_index(300)
    index.marker_len_NxC[:] = 4
    ramp = Dropout(example=1.0, schedule=((0.0, 0.0), (1.0, 1.0)))
    plan = make_plan(index, dropout=ramp, epochs=1, length=200)
    shown = slots(plan, index, LAYOUT, ramp) > slots(plan, index, LAYOUT, Dropout(example=1.0))
    early = plan.progress_P < 0.5
    assert shown[early].mean() > shown[~early].mean() + 0.1


def test_rates_of_single_categories_do_not_trouble_an_arm_without_prompt_side():
    dropout = Dropout(example=0.0, per_category={"lang": 1.0})
    plan = make_plan(make_index(50), (LAYOUT, PLAIN), dropout)
    assert len(plan.rows_P) + len(plan.too_long) == 50
    with pytest.raises(ValueError, match="'lnag'"):
        make_plan(make_index(50), (LAYOUT, PLAIN), Dropout(per_category={"lnag": 1.0}))


def test_donors_are_other_rows():
    for rows in (2, 3, 10, 1001):
        donor = donors(rows, seed=5)
        assert sorted(donor.tolist()) == list(range(rows))
        assert (donor != np.arange(rows)).all()
    assert donors(1, 0).tolist() == [0]
    assert not np.array_equal(donors(100, 0), donors(100, 1))


def test_one_task_is_shuffled_anew_each_epoch():
    rows, visits = zip(*(draw_epoch([50], [3.0], 0, epoch) for epoch in range(3)), strict=True)
    for epoch in range(3):
        assert sorted(rows[epoch].tolist()) == list(range(50))
        assert (visits[epoch] == epoch).all()
    assert rows[0].tolist() != rows[1].tolist() != list(range(50))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_a_mixture_is_drawn_by_rate_and_without_repetition(tasks, epochs, seed):
    sizes, rates = zip(*tasks, strict=True)
    if not sum(rates):
        rates = [1] * len(rates)
    task_of = np.repeat(np.arange(len(sizes)), sizes)
    drawn = np.zeros(sum(sizes), np.int64)
    for epoch in range(epochs):
        rows, visits = draw_epoch(sizes, rates, seed, epoch)
        for row, visit in sorted(
            zip(rows.tolist(), visits.tolist(), strict=True), key=lambda x: x[1]
        ):
            assert drawn[row] == visit
            drawn[row] += 1
        for task in range(len(sizes)):
            counts = drawn[task_of == task]
            assert counts.max() - counts.min() <= 1  # no row again before all were drawn
            exact = sum(sizes) * (epoch + 1) * rates[task] / sum(rates)
            assert counts.sum() == int(np.floor(exact + 1e-9))
