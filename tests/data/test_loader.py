"""Batches are a function of the step, and hold what the rows say."""

import numpy as np
import pytest

from marker_lm.data.assembly import Kind
from marker_lm.data.cache import Cache
from marker_lm.data.loader import iterate, place
from marker_lm.data.setup import eval_batches, make_setup, train_batches
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from tests.tiny import make_cache, make_rows, show, tiny_config, tiny_taxonomy

ALL = slice(None)
ARMS = ("markers", "baseline", "shuffled", "completion_only")
FIELDS = {"tokens", "targets", "segment_ids", "positions", "kinds", "weights"}
ROWS = make_rows(150)


class Run:
    """Config, setup and cache of tiny rows."""

    def __init__(self, folder, rows=ROWS, template="text"):
        self.taxonomy = tiny_taxonomy(folder)
        self.codec = MarkerCodec(self.taxonomy, template, ByteTokenizer())
        self.cache = make_cache(folder / "cache", rows, self.codec)
        self.config = tiny_config(folder, length=400, batch=8).unlock()
        self.config.template = template

    def batches(self, arm="markers", rows=ALL, make=train_batches, cache=None):
        self.config.arm = arm
        setup = make_setup(self.config, self.taxonomy, ByteTokenizer())
        return make(self.config, setup, cache or self.cache, rows)


@pytest.fixture(scope="module", params=["text", "compact"])
def run(request, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("loader"), template=request.param)
    run.config.plan_arms = ARMS
    return run


def same(a, b):
    assert a.keys() == b.keys() == FIELDS
    return all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def segments(batch):
    """(row, ids of the whole sequence, kinds, weights, positions) of every segment of a batch."""
    for row, segment_ids in enumerate(batch["segment_ids"]):
        for segment in range(1, segment_ids.max() + 1):
            at = np.flatnonzero(segment_ids == segment)
            one = {name: batch[name][row, at] for name in batch}
            ids = np.append(one["tokens"], one["targets"][-1])
            assert np.array_equal(ids[1:], one["targets"])
            assert (np.diff(at) == 1).all()
            yield row, ids, one


def read(run, ids, one):
    """Prompt, prompt-side markers, completion-side markers (None: no block) and completion."""
    kinds = np.array([Kind.PROMPT, *one["kinds"]])
    prompt, shown, listed, answer = (ids[kinds == kind] for kind in list(Kind)[1:])

    def markers(block):
        if not len(block):
            return None
        found, size = run.codec.parse(block)
        assert size == len(block)
        return found

    prompt = show(prompt, run.taxonomy)
    assert prompt.endswith("\n")
    return prompt[:-1], markers(shown), markers(listed), show(answer, run.taxonomy)


def full_markers(run, row):
    markers = run.taxonomy.check_all(row["markers"])
    if "words" in markers:
        markers["size"] = run.taxonomy.bucket("size", markers["words"])
    return markers


BY_PROMPT = {row["prompt"]: row for row in ROWS}


def test_a_batch_of_one_row_in_full_text(tmp_path):
    row = {
        "id": "a",
        "prompt": "Say hi.",
        "completion": "hi",
        "markers": {"lang": "en", "words": 1},
    }
    run = Run(tmp_path, [row])
    run.config.markers.update(prompt_side=("lang",), example_dropout=0.0, marker_dropout=0.0)
    run.config.train.update(batch=2)
    batch = run.batches()[0]
    [(_, ids, one)] = segments(batch)
    listed = "<lang>en</lang>\n<size>short</size>\n<words>1</words>\n"
    assert show(ids, run.taxonomy) == (
        "Say hi.\n"
        "<MARKER_LIST>\n<lang>en</lang>\n</MARKER_LIST>\n"
        f"<MARKER_LIST>\n{listed}</MARKER_LIST>\n"
        "hi[eos]"
    )
    sizes = [8, 14 + 16 + 15, 14 + len(listed) + 15, 3]
    kinds = np.repeat([1, 2, 3, 4], sizes)
    assert one["kinds"].tolist() == kinds[1:].tolist()
    assert one["positions"].tolist() == list(range(len(ids) - 1))
    assert one["weights"].tolist() == np.array([0, 0, 0, 1, 1])[kinds[1:]].tolist()
    assert batch["tokens"][1].sum() == 0 and batch["weights"][1].sum() == 0


def test_a_batch_of_one_row_in_the_compact_template(tmp_path):
    row = {
        "id": "a",
        "prompt": "Say hi.",
        "completion": "hi",
        "markers": {"lang": "en", "words": 12},
    }
    run = Run(tmp_path, [row], template="compact")
    run.config.markers.update(prompt_side=("lang",), example_dropout=0.0, marker_dropout=0.0)
    run.config.train.loss_weights.update(prompt=0.25, prompt_markers=0.5, completion_markers=2.0)
    run.config.train.update(batch=1)
    [(_, ids, one)] = segments(run.batches()[0])
    assert show(ids, run.taxonomy) == (
        "Say hi.\n"
        "<|MARKER_LIST|><|lang|><|lang=en|><|/MARKER_LIST|>"
        "<|MARKER_LIST|><|lang|><|lang=en|><|size|><|size=long|><|words|>12<|/MARKER_LIST|>"
        "hi[eos]"
    )
    weights = np.repeat([0.25, 0.5, 2.0, 1.0], [8, 4, 9, 3])
    assert one["weights"].tolist() == weights[1:].tolist()


@pytest.mark.parametrize("rows", [[0], [7], [1, 2, 5], [0, 3, 4, 7], [6, 7]])
def test_a_host_may_read_rows_that_stand_apart(run, rows):
    whole, part = run.batches(), run.batches(rows=np.array(rows))
    assert len(whole) == len(part) > 3
    for step in range(len(whole)):
        assert same(part[step], {name: x[rows] for name, x in whole[step].items()})


@pytest.mark.parametrize("arm", ARMS)
def test_batches_do_not_depend_on_hosts_order_or_process(run, arm):
    batches = run.batches(arm)
    order = np.random.default_rng(0).permutation(len(batches)).tolist()
    whole = {step: batches[step] for step in order}
    again = run.batches(arm, cache=Cache(run.cache.folder))
    assert all(same(again[step], whole[step]) for step in range(len(batches)))
    for hosts in (2, 4, 8):
        each = 8 // hosts
        slices = [run.batches(arm, slice(h * each, (h + 1) * each)) for h in range(hosts)]
        for step in (0, len(batches) // 2, len(batches) - 1):
            parts = [host[step] for host in slices]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            assert same(joined, whole[step])


def test_every_row_stands_in_every_epoch_with_its_own_markers(run):
    batches = run.batches()
    seen, shown_counts = [], []
    for step in range(len(batches)):
        batch = batches[step]
        assert ((batch["segment_ids"] == 0) == (batch["kinds"] == Kind.PADDING)).all()
        assert not batch["tokens"][batch["segment_ids"] == 0].any()
        for _, ids, one in segments(batch):
            prompt, shown, listed, answer = read(run, ids, one)
            row = BY_PROMPT[prompt]
            assert answer == row["completion"] + "[eos]"
            assert listed == full_markers(run, row)  # the completion side is never dropped
            assert (shown or {}).items() <= listed.items() and shown != {}
            assert one["positions"].tolist() == list(range(len(ids) - 1))
            want = np.isin(one["kinds"], [Kind.COMPLETION_MARKERS, Kind.COMPLETION])
            assert np.array_equal(one["weights"], want.astype(np.float32))
            answer_size = len(row["completion"].encode()) + 1
            assert (one["kinds"][-answer_size:] == Kind.COMPLETION).all()
            assert (one["kinds"] == Kind.COMPLETION).sum() == answer_size
            seen.append(row["id"])
            shown_counts.append(len(shown or {}))
    assert sorted(seen) == sorted([row["id"] for row in ROWS] * 2)
    # Half of the examples lose all; of the others, each marker has an even chance.
    assert 0.35 < np.mean(np.array(shown_counts) > 0) < 0.6
    assert len(set(shown_counts)) > 3


def test_dropout_of_the_prompt_side(run):
    def shown(example, marker, per_category):
        run.config.markers.update(example_dropout=example, marker_dropout=marker)
        with run.config.markers.ignore_type():
            run.config.markers.dropout_per_category = per_category
        batches = run.batches()
        found = [
            read(run, *found) for s in range(len(batches)) for _, *found in segments(batches[s])
        ]
        run.config.markers.update(example_dropout=0.5, marker_dropout=0.5)
        run.config.markers.dropout_per_category = {}
        return [(shown or {}, listed) for _, shown, listed, _ in found]

    assert all(some == listed for some, listed in shown(0.0, 0.0, {}))
    assert all(some == {} for some, _ in shown(1.0, 0.0, {}))
    assert all(set(some) <= {"lang"} for some, _ in shown(0.0, 1.0, {"lang": 0.0}))
    assert all(
        some.items() == listed.items() - {("lang", listed.get("lang"))}
        for some, listed in shown(0.0, 0.0, {"lang": 1.0})
    )


def test_arms_see_the_same_rows_in_the_same_places(run):
    places = {}
    for arm in ARMS:
        batches = run.batches(arm)
        places[arm] = [
            [(step, row, read(run, *found)[0]) for row, *found in segments(batches[step])]
            for step in range(len(batches))
        ]
    assert len(places["markers"]) > 4
    assert all(places[arm] == places["markers"] for arm in ARMS)


def test_the_shuffled_arm_has_the_lists_of_other_rows(run):
    batches = run.batches("shuffled")
    got = {}
    for step in range(int(batches.ends[0])):
        for _, *found in segments(batches[step]):
            prompt, shown, listed, answer = read(run, *found)
            row = BY_PROMPT[prompt]
            assert answer == row["completion"] + "[eos]"
            assert (shown or {}).items() <= listed.items()
            got[row["id"]] = listed
    own = {row["id"]: full_markers(run, row) for row in ROWS}

    def bag(lists):
        return sorted(str(sorted(markers.items())) for markers in lists)

    assert bag(got.values()) == bag(own.values())  # the right distribution ...
    assert np.mean([got[name] == own[name] for name in own]) < 0.3  # ... on the wrong rows


def test_the_shuffled_arm_alone_fits_its_own_plan(tmp_path):
    rows = make_rows(80)
    for i, row in enumerate(rows):
        row["markers"] = {"lang": "en", "task": "Repeat", "words": 10**9} if i % 2 else {}
    run = Run(tmp_path, rows)
    run.config.train.update(length=280, batch=2)
    batches = run.batches("shuffled")
    assert sum(len(list(segments(batches[step]))) for step in range(len(batches))) == 160


def test_the_baseline_has_no_markers(run):
    batch = run.batches("baseline")[0]
    found = [read(run, *found) for _, *found in segments(batch)]
    assert found and all(shown is None and listed is None for _, shown, listed, _ in found)
    assert set(np.unique(batch["kinds"])) == {Kind.PADDING, Kind.PROMPT, Kind.COMPLETION}


@pytest.mark.parametrize("arm", ["markers", "shuffled"])
def test_held_out_rows_come_once_with_their_own_list_and_nothing_shown(run, arm):
    batches = run.batches(arm, make=eval_batches)
    found = [read(run, *found) for s in range(len(batches)) for _, *found in segments(batches[s])]
    assert sorted(prompt for prompt, *_ in found) == sorted(BY_PROMPT)
    for prompt, shown, listed, _ in found:
        assert shown is None
        assert listed == full_markers(run, BY_PROMPT[prompt])


def test_the_last_batch_of_an_epoch_is_padded_with_weight_0(run):
    batches = run.batches()
    sequences = batches.plan(0, 0).sequences
    assert sequences % 8  # else this test says nothing
    assert len(batches) == sum(-(-batches.plan(epoch, 0).sequences // 8) for epoch in range(2))
    last = batches[int(batches.ends[0]) - 1]
    used = sequences % 8
    assert (last["segment_ids"][:used].max(axis=1) > 0).all()
    assert all(not last[name][used:].any() for name in FIELDS)
    assert last["weights"].shape == (8, 400)


def test_steps_outside_are_an_error(run):
    batches = run.batches()
    for step in (-1, len(batches)):
        with pytest.raises(IndexError, match=f"step {step} is outside 0..{len(batches) - 1}"):
            batches[step]


@pytest.mark.parametrize("threads", [1, 3])
def test_iterating_reads_the_same_batches_from_any_step(run, threads):
    batches = run.batches()
    stop = len(batches)
    found = list(iterate(batches, stop - 5, stop, threads))
    assert len(found) == 5
    assert all(same(one, batches[stop - 5 + i]) for i, one in enumerate(found))
    assert list(iterate(batches, stop, stop, threads)) == []


def test_a_sequence_that_does_not_fit_is_an_error():
    ids, kinds = np.arange(8, dtype=np.int32), np.ones(8, np.int32)
    with pytest.raises(ValueError, match="4 slots does not fit at slot 2 of 5"):
        place(ids, kinds, np.array([3, 5]), np.array([0, 0]), 1, 5)
    batch = place(ids, kinds, np.array([3, 5]), np.array([0, 1]), 2, 5)
    assert batch["tokens"].tolist() == [[0, 1, 0, 0, 0], [3, 4, 5, 6, 0]]
    assert batch["targets"].tolist() == [[1, 2, 0, 0, 0], [4, 5, 6, 7, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
