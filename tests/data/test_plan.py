"""The plan of an epoch: every row where it belongs, by numbers alone."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marker_lm.data import plan as plan_module
from marker_lm.data.assembly import Layout, sequence_lengths
from marker_lm.data.mixture import make_mixture
from marker_lm.data.plan import TOO_LONG, Planner, PlanSummary, donors, kept_markers
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
        random.integers(0, 5, (rows, 2), np.int16),
        np.full((rows, 2), -1, np.int16),
    )


def make_planner(index, layouts=(LAYOUT,), dropout=None, **changes):
    known = dict(mixture=make_mixture([len(index)], [1.0]), seed=0, epochs=2, length=64)
    return Planner(index, layouts=layouts, dropout=dropout or Dropout(), **(known | changes))


def make_plan(index, layouts=(LAYOUT,), dropout=None, epoch=0, window=0, **changes):
    return make_planner(index, layouts, dropout, **changes).plan(epoch, window)


def slots(plan, index, layout, dropout, seed=0):
    """The slots of each placed piece, as the loader will write it."""
    pieces = plan.pieces
    kept = kept_markers(
        layout,
        dropout,
        seed,
        pieces.visits_P,
        index.example_hash_N[pieces.rows_P],
        pieces.progress_P,
    )
    written = index.take(pieces.rows_P)
    if layout.shuffled:
        given_PxC = index.marker_len_NxC[donors(len(index), seed)[pieces.rows_P]]
        written = dataclasses.replace(written, marker_len_NxC=given_PxC)
    whole = sequence_lengths(layout, written, kept)
    return whole - (written.completion_len_N + 1) + pieces.size_P


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(20, 90), st.integers(0, 3), st.integers(0, 9))
def test_every_row_is_placed_once_or_too_long(rows, length, epoch, seed):
    index = make_index(rows, seed)
    plan = make_plan(index, (LAYOUT, SHUFFLED, PLAIN), length=length, epoch=epoch, seed=seed)
    assert sorted([*plan.pieces.rows_P.tolist(), *plan.rejected.tolist()]) == list(range(rows))
    assert (plan.pieces.start_P == 0).all()
    assert (plan.pieces.size_P == index.completion_len_N[plan.pieces.rows_P] + 1).all()
    assert plan.starts[0] == 0 and plan.starts[-1] == len(plan.pieces)
    assert (np.diff(plan.starts) > 0).all() and plan.sequences == len(plan.starts) - 1
    for layout in (LAYOUT, SHUFFLED, PLAIN):
        each = slots(plan, index, layout, Dropout(), seed)
        if plan.sequences:
            assert np.add.reduceat(each, plan.starts[:-1]).max() <= length
    assert plan.used_slots <= plan.sequences * length


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 120), st.integers(20, 90), st.sampled_from(TOO_LONG), st.integers(0, 9))
def test_rows_too_long_follow_the_policy(rows, length, too_long, seed):
    index = make_index(rows, seed, longest=120)
    plan = make_plan(index, (LAYOUT, PLAIN), length=length, too_long=too_long, seed=seed)
    pieces, answer_N = plan.pieces, index.completion_len_N + 1
    if plan.sequences:
        for layout in (LAYOUT, PLAIN):
            each = slots(plan, index, layout, Dropout(), seed)
            assert np.add.reduceat(each, plan.starts[:-1]).max() <= length
    cut = {*plan.truncated.tolist(), *plan.split.tolist()}
    assert len(plan.truncated) == 0 or too_long == "truncate_completion"
    assert len(plan.split) == 0 or too_long == "split"
    assert not cut & set(plan.rejected.tolist())
    assert set(pieces.rows_P.tolist()) | set(plan.rejected.tolist()) == set(range(rows))
    lost = 0
    for row in set(pieces.rows_P.tolist()):
        at = np.flatnonzero(pieces.rows_P == row)
        at = at[np.argsort(pieces.start_P[at])]
        ends = pieces.start_P[at] + pieces.size_P[at]
        assert pieces.start_P[at].tolist() == [0, *ends[:-1]] and (pieces.size_P[at] > 0).all()
        assert ends[-1] <= answer_N[row]
        assert (ends[-1] < answer_N[row]) == (row in plan.truncated)
        assert (len(at) > 1) == (row in plan.split)
        lost += answer_N[row] - ends[-1]
    assert plan.cut_tokens == lost


def test_a_prompt_that_leaves_no_room_is_left_out_under_any_policy():
    index = make_index(3)
    index.marker_len_NxC[:] = 0
    index.prompt_len_N[:] = [63, 30, 70]
    index.completion_len_N[:] = [90, 90, 5]
    for too_long in ("truncate_completion", "split"):
        plan = make_plan(index, (PLAIN,), too_long=too_long)
        assert sorted(plan.rejected.tolist()) == [0, 2]
        assert set(plan.pieces.rows_P.tolist()) == {1}
    # 30 of prompt and one of separator leave 34 tokens of 91.
    assert sorted(plan.pieces.size_P.tolist()) == [23, 34, 34]
    with pytest.raises(ValueError, match="too_long='cut' is not one of reject, trunc"):
        make_plan(index, too_long="cut")


def test_the_summary_counts_rows_once_and_says_so():
    index = make_index(40, longest=90)
    for too_long, words in (
        ("reject", "are left out"),
        ("truncate_completion", "lose the end of their completion"),
        ("split", "are split into several sequences"),
    ):
        planner = make_planner(index, (PLAIN,), too_long=too_long)
        summary, plans = PlanSummary(64), [planner.plan(epoch, 0) for epoch in range(2)]
        for plan in plans:
            summary.add(plan)
        long = np.flatnonzero(index.prompt_len_N + index.completion_len_N + 1 > 64).tolist()
        kinds = ("rejected", "truncated", "split")
        found = {kind: summary.rows(kind).tolist() for kind in kinds}
        assert sorted(sum(found.values(), [])) == long and long
        assert summary.sequences == sum(plan.sequences for plan in plans)
        assert 0.5 < summary.fill <= 1
        first, *rest = summary.lines()
        assert first.startswith(f"packed {summary.pieces} pieces in 2 window(s) into ")
        assert any(words in line and "train.length=64" in line for line in rest)


def test_the_plan_is_a_pure_function():
    index = make_index(300)
    first, again = make_plan(index), make_plan(index)
    for field in dataclasses.fields(first.pieces):
        assert np.array_equal(getattr(first.pieces, field.name), getattr(again.pieces, field.name))
    assert np.array_equal(first.starts, again.starts)
    rows = first.pieces.rows_P
    assert not np.array_equal(rows, make_plan(index, epoch=1).pieces.rows_P)
    assert not np.array_equal(rows, make_plan(index, seed=1).pieces.rows_P)


def test_windows_change_nothing_of_what_is_placed(monkeypatch):
    index = make_index(300)
    monkeypatch.setattr(plan_module, "WINDOW", 37)
    monkeypatch.setattr(plan_module, "_BLOCK", 10)
    planner = make_planner(index)
    assert planner.windows(0) == 9
    plans = [planner.plan(0, window) for window in range(9)]
    placed = [row for plan in plans for row in [*plan.pieces.rows_P, *plan.rejected]]
    assert sorted(placed) == list(range(300))
    for plan in plans:
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
    assert make_plan(index, (PLAIN,), nothing_shown, length=60).rejected.tolist() == []
    both = make_plan(index, (PLAIN, LAYOUT), nothing_shown, length=60)
    assert sorted(both.rejected.tolist()) == [1, 3]
    assert sorted(both.pieces.rows_P.tolist()) == [0, 2]
    none = make_plan(index, (PLAIN, LAYOUT), nothing_shown, length=20)
    assert none.sequences == 0 and len(none.pieces) == 0 and len(none.rejected) == 4


def test_progress_runs_through_the_training():
    index = make_index(200)
    plans = [make_plan(index, epoch=epoch, epochs=4, length=200) for epoch in range(4)]
    for epoch, plan in enumerate(plans):
        progress = np.sort(plan.pieces.progress_P)
        np.testing.assert_allclose(progress, (epoch + np.arange(200) / 200) / 4)


def test_a_schedule_of_dropout_moves_the_lengths():
    index = make_index(300)
    index.marker_len_NxC[:] = 4
    ramp = Dropout(example=1.0, schedule=((0.0, 0.0), (1.0, 1.0)))
    plan = make_plan(index, dropout=ramp, epochs=1, length=200)
    shown = slots(plan, index, LAYOUT, ramp) > slots(plan, index, LAYOUT, Dropout(example=1.0))
    early = plan.pieces.progress_P < 0.5
    assert shown[early].mean() > shown[~early].mean() + 0.1


def test_rates_of_single_categories_do_not_trouble_an_arm_without_prompt_side():
    dropout = Dropout(example=0.0, per_category={"lang": 1.0})
    plan = make_plan(make_index(50), (LAYOUT, PLAIN), dropout)
    assert len(plan.pieces) + len(plan.rejected) == 50
    with pytest.raises(ValueError, match="'lnag'"):
        make_plan(make_index(50), (LAYOUT, PLAIN), Dropout(per_category={"lnag": 1.0}))


def test_donors_are_other_rows():
    for rows in (2, 3, 10, 1001):
        donor = donors(rows, seed=5)
        assert sorted(donor.tolist()) == list(range(rows))
        assert (donor != np.arange(rows)).all()
    assert donors(1, 0).tolist() == [0]
    assert not np.array_equal(donors(100, 0), donors(100, 1))
