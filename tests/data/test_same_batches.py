"""The same batches, bit for bit, for any number of hosts and after a restart at any step."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marker_lm.data import plan as plan_module
from marker_lm.data.assembly import Layout, assemble
from marker_lm.data.cache import Cache
from marker_lm.data.loader import Batches, Stream, iterate
from marker_lm.data.mixture import make_mixture
from marker_lm.data.plan import TOO_LONG, donors
from marker_lm.data.spans import Spans
from marker_lm.markers.dropout import Dropout
from tests.cache_files import write_cache

CATEGORIES = ("a", "b", "c")
HOSTS = (1, 2, 4, 8)
WEIGHTS = {"prompt": 0.5, "completion_markers": 1.0, "completion": 2.0}
LENGTHS = st.tuples(
    st.integers(0, 20),
    st.integers(0, 40),
    st.dictionaries(st.sampled_from(CATEGORIES), st.integers(1, 4)),
)
SIDES = st.lists(st.sampled_from(CATEGORIES), unique=True).map(tuple)
SOME_IDS = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
LAYOUTS = st.builds(
    Layout, SIDES, SIDES, SOME_IDS, SOME_IDS, SOME_IDS, SOME_IDS, st.just(1), st.booleans()
)
DROPOUTS = st.builds(
    Dropout,
    st.floats(0, 1),
    st.floats(0, 1),
    schedule=st.sampled_from([(), ((0.0, 0.0), (0.7, 1.0))]),
)


def make_rows(lengths):
    random = np.random.default_rng(0)

    def ids(n):
        return random.integers(2, 1000, n, np.int32)

    return [
        Spans(f"row {n}", ids(prompt), ids(completion), {c: ids(size) for c, size in sizes.items()})
        for n, (prompt, completion, sizes) in enumerate(lengths)
    ]


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def same(a, b):
    assert a.keys() == b.keys()
    return all(a[name].dtype == b[name].dtype and (a[name] == b[name]).all() for name in a)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_hosts_and_restarts_change_nothing(data):
    lengths = data.draw(st.lists(LENGTHS, min_size=1, max_size=40), "lengths")
    layout = data.draw(LAYOUTS, "layout")
    others = data.draw(st.lists(LAYOUTS, max_size=2), "layouts of other arms")
    stream = Stream(
        layout=layout,
        plan_layouts=(layout, *others),
        dropout=data.draw(DROPOUTS, "dropout"),
        seed=data.draw(st.integers(0, 9), "seed"),
        length=data.draw(st.integers(30, 90), "length"),
        batch=8,
        weights=WEIGHTS,
        too_long=data.draw(st.sampled_from(TOO_LONG), "too long"),
    )
    cut = data.draw(st.integers(0, len(lengths)), "rows of the first task")
    sizes = [size for size in (cut, len(lengths) - cut) if size]
    rates = data.draw(st.lists(st.floats(0.1, 9), min_size=len(sizes), max_size=len(sizes)))
    factors = data.draw(st.sampled_from([None, np.arange(len(lengths)) % 3 + 1.0]), "factors")
    mixture = make_mixture(sizes, rates, data.draw(st.sampled_from([0.0, 3.0])), factors)
    plan_module.WINDOW, before = data.draw(st.sampled_from([7, 1 << 18]), "window"), 1 << 18
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = make_rows(lengths)
            manifest = {"categories": CATEGORIES}
            write_cache(rows, Path(folder) / "cache", manifest, rows_per_shard=16)

            def batches(part=slice(None)):
                return Batches(Cache(Path(folder) / "cache"), stream, 2, mixture, part)

            whole = batches()
            steps = range(len(whole))
            wanted = [whole[step] for step in steps]
            for hosts in HOSTS:
                each = 8 // hosts
                found = [batches(slice(h * each, (h + 1) * each)) for h in range(hosts)]
                assert {len(host) for host in found} == {len(whole)}
                for step in steps:
                    assert same(joined([host[step] for host in found]), wanted[step])
            start = data.draw(st.integers(0, len(whole)), "restart")
            after = list(iterate(batches(), start, len(whole), threads=2))
            assert len(after) == len(whole) - start
            assert all(same(a, b) for a, b in zip(after, wanted[start:], strict=True))
            check_rows(whole, wanted, rows, stream)
    finally:
        plan_module.WINDOW = before


def check_rows(batches, wanted, rows, stream):
    """What stands in the batches is what `assemble` writes, row by row, or a part of it."""
    donor = donors(len(rows), stream.seed)
    for step, batch in enumerate(wanted):
        pieces, row_P = batches.pieces(step)
        slots = np.zeros(8, np.int64)
        for p in range(len(pieces)):
            own = rows[pieces.rows_P[p]]
            given = rows[donor[pieces.rows_P[p]]] if stream.layout.shuffled else own
            b, at = row_P[p], slots[row_P[p]]
            segment = batch["segment_ids"][b, at]
            n = int((batch["segment_ids"][b] == segment).sum())
            here = slice(at, at + n)
            kinds = batch["kinds"][b, here]
            shown = kinds == 2
            spans = Spans(own.id, own.prompt, own.completion, given.markers)
            start, size = int(pieces.start_P[p]), int(pieces.size_P[p])
            for kept in subsets(stream.layout.prompt_side):
                ids, of = assemble(stream.layout, spans, kept)
                head = len(ids) - len(own.completion) - 1
                ids = np.concatenate([ids[:head], ids[head + start : head + start + size]])
                of = np.concatenate([of[:head], of[head + start : head + start + size]])
                if len(ids) == n + 1 and (of[1:] == kinds).all() and (of == 2).sum() == shown.sum():
                    if (batch["tokens"][b, here] == ids[:-1]).all():
                        assert (batch["targets"][b, here] == ids[1:]).all()
                        break
            else:
                raise AssertionError(f"piece {p} of step {step} is no sequence of its row")
            assert (batch["positions"][b, here] == np.arange(n)).all()
            slots[b] += n
        padding = np.arange(stream.length) >= slots[:, None]
        assert all(not batch[name][padding].any() for name in batch)


def subsets(names):
    for bits in range(2 ** len(names)):
        yield {name for i, name in enumerate(names) if bits >> i & 1}


@settings(deadline=None, max_examples=40)
@given(st.lists(LENGTHS, min_size=1, max_size=40), LAYOUTS, st.sampled_from(TOO_LONG), st.data())
def test_held_out_rows_are_covered_once(lengths, layout, too_long, data):
    length = data.draw(st.integers(30, 90))
    stream = Stream(layout, (layout,), Dropout(example=1.0), 0, length, 4, WEIGHTS, too_long)
    with tempfile.TemporaryDirectory() as folder:
        write_cache(make_rows(lengths), Path(folder) / "cache", {"categories": CATEGORIES})
        batches = Batches(Cache(Path(folder) / "cache"), stream, epochs=1)
        covered = [np.zeros(completion + 1, int) for _, completion, _ in lengths]
        for step in range(len(batches)):
            pieces, _ = batches.pieces(step)
            for row, start, size in zip(pieces.rows_P, pieces.start_P, pieces.size_P, strict=True):
                covered[row][start : start + size] += 1
        left_out = set(batches.summary.rows("rejected").tolist())
        cut = set(batches.summary.rows("truncated").tolist())
        for row, times in enumerate(covered):
            if row in left_out:
                assert not times.any()
            elif row in cut:
                assert times[0] == 1 and times[-1] == 0 and times.max() == 1
            else:
                assert (times == 1).all()
