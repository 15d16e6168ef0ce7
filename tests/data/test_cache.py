"""The cache gives back what was written, or says what is wrong with it."""

import json
import pickle
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from marker_lm.data import cache as cache_module
from marker_lm.data import cache_writer as writer_module
from marker_lm.data import whole_files as files_module
from marker_lm.data.cache import Cache, CacheError, is_cache
from marker_lm.data.spans import (
    ABSENT,
    Spans,
    build_index,
    decode_record,
    encode_record,
    flatten_spans,
)
from marker_lm.markers.dropout import hash_ids
from tests.cache_files import write_cache

CATEGORIES = ("lang", "task", "words")
MANIFEST = {"categories": CATEGORIES, "task": "small", "template": "text"}


def make(i):
    rng = np.random.default_rng(i)
    ids = [rng.integers(0, 300, n, np.int32) for n in rng.integers(1, 40, 5)]
    present = [c for c in range(3) if rng.random() < 0.6]
    markers = {CATEGORIES[c]: ids[2 + c] for c in present}
    values = {CATEGORIES[c]: int(rng.integers(5)) for c in present if c < 2}
    return Spans(f"row-{i}-é", ids[0], ids[1], markers, values)


def same(a, b):
    return (
        a.id == b.id
        and np.array_equal(a.prompt, b.prompt)
        and np.array_equal(a.completion, b.completion)
        and list(a.markers) == list(b.markers)
        and all(np.array_equal(a.markers[c], b.markers[c]) for c in a.markers)
    )


@pytest.fixture
def rows():
    return [make(i) for i in range(250)]


@pytest.fixture
def folder(tmp_path, rows):
    write_cache(iter(rows), tmp_path / "cache", MANIFEST, rows_per_shard=100)
    return tmp_path / "cache"


IDS = arrays(np.int32, st.integers(0, 9), elements=st.integers(0, 2**31 - 1))


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"])), IDS, IDS, IDS, IDS)
def test_record_round_trip(name, prompt, completion, first, second):
    spans = Spans(name, prompt, completion, {"lang": first, "words": second}, {"lang": 2})
    column = {c: i for i, c in enumerate(CATEGORIES)}
    found = decode_record(encode_record(spans, column), CATEGORIES)
    assert same(found, spans)
    assert found.values == {}  # they stand in the index only
    assert found.prompt.dtype == np.int32


def test_write_and_read_back(folder, rows):
    cache = Cache(folder)
    assert len(cache) == 250
    order = np.random.default_rng(0).permutation(250).tolist() + [99, 100, 99, 249, 0, 0]
    found = cache.read_many(order)
    assert len(found) == len(order)
    assert all(same(one, rows[i]) for one, i in zip(found, order, strict=True))
    assert same(cache.read(199), rows[199])
    assert cache.read_many([]) == []


def cut(flat, at, length):
    return flat.words[at : at + length].tolist()


def test_flat_reading_gives_the_same_spans(folder, rows):
    cache = Cache(folder)
    order = [199, 0, 249, 0, 100]
    for flat in (cache.read_flat(order), flatten_spans([rows[i] for i in order], CATEGORIES)):
        assert len(flat) == 5
        for n, i in enumerate(order):
            assert cut(flat, flat.prompt_at_N[n], flat.prompt_len_N[n]) == rows[i].prompt.tolist()
            found = cut(flat, flat.completion_at_N[n], flat.completion_len_N[n])
            assert found == rows[i].completion.tolist()
            for c, category in enumerate(CATEGORIES):
                found = cut(flat, flat.marker_at_NxC[n, c], flat.marker_len_NxC[n, c])
                assert found == list(rows[i].markers.get(category, ()))
    assert len(cache.read_flat([])) == 0


def test_index_and_manifest(folder, rows):
    cache = Cache(folder)
    index, manifest = cache.index, cache.manifest
    assert index.categories == CATEGORIES
    assert np.array_equal(index.example_hash_N, hash_ids([row.id for row in rows]))
    assert index.example_hash_N.dtype == np.uint64
    assert index.prompt_len_N.tolist() == [len(row.prompt) for row in rows]
    assert index.completion_len_N.tolist() == [len(row.completion) for row in rows]
    expected = [[len(row.markers.get(c, ())) for c in CATEGORIES] for row in rows]
    assert index.marker_len_NxC.tolist() == expected
    values = [[row.values.get(c, ABSENT) for c in CATEGORIES] for row in rows]
    assert index.value_NxC.tolist() == values
    dtypes = {name: column.dtype for name, column in index.columns().items()}
    assert list(dtypes.values()) == [np.uint64, np.int32, np.int32, np.int16, np.int16]
    assert manifest["rows"] == 250 and manifest["version"] == 2
    assert manifest["task"] == "small" and manifest["template"] == "text"
    assert [shard["rows"] for shard in manifest["shards"]] == [100, 100, 50]
    assert sum(manifest["tokens"].values()) == sum(row.tokens() for row in rows)


def test_the_index_is_one_of_all_rows_to_the_byte(folder, rows, tmp_path):
    index = build_index(rows, CATEGORIES)
    np.savez(tmp_path / "index.npz", **index.columns())
    assert (folder / "index.npz").read_bytes() == (tmp_path / "index.npz").read_bytes()


def test_index_take(rows):
    one = build_index(rows, CATEGORIES)
    taken = one.take(np.array([5, 3]))
    assert taken.prompt_len_N.tolist() == [len(rows[5].prompt), len(rows[3].prompt)]
    assert taken.example_hash_N.tolist() == hash_ids([rows[5].id, rows[3].id]).tolist()


def test_an_empty_marker_span_is_refused(tmp_path):
    empty = np.zeros(0, np.int32)
    with pytest.raises(ValueError, match="marker 'lang' of example 'x' has 0 tokens"):
        write_cache([Spans("x", empty, empty, {"lang": empty})], tmp_path / "c", MANIFEST)


def test_rows_outside(folder):
    cache = Cache(folder)
    for bad in (-1, 250):
        with pytest.raises(IndexError, match=f"row {bad} is outside"):
            cache.read_many([0, bad])


def test_a_failed_rewrite_keeps_the_old_cache(folder, rows):
    def broken():
        yield from rows[:5]
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_cache(broken(), folder, MANIFEST, rows_per_shard=2)
    with pytest.raises(CacheError, match="no rows to write"):
        write_cache([], folder, MANIFEST)
    assert len(Cache(folder)) == 250
    write_cache(rows[:3], folder, MANIFEST)
    assert len(Cache(folder)) == 3
    assert [path.name for path in folder.parent.iterdir()] == ["cache"]


def test_damage_is_named(folder):
    shard = folder / "spans-00001.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(CacheError, match=r"spans-00001.array_record has \d+ bytes instead of \d+"):
        Cache(folder)
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(CacheError, match="spans-00001.array_record cannot be read"):
        Cache(folder)
    shard.unlink()
    with pytest.raises(CacheError, match="spans-00001.array_record is missing"):
        Cache(folder)


def test_wrong_counts_are_named(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    good = json.dumps(manifest)
    manifest["shards"][2]["rows"] = 51
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match="spans-00002.array_record has 50 rows instead of 51"):
        Cache(folder)
    (folder / "manifest.json").write_text(good.replace('"rows": 250', '"rows": 251'))
    with pytest.raises(CacheError, match="has 250 rows, the manifest 251"):
        Cache(folder)
    (folder / "manifest.json").write_text(good)
    (folder / "index.npz").write_bytes((folder / "index.npz").read_bytes()[:300])
    with pytest.raises(CacheError, match="index.npz cannot be read"):
        Cache(folder)


def test_missing_and_other_version(folder, tmp_path):
    assert is_cache(folder) and not is_cache(tmp_path / "none")
    with pytest.raises(CacheError, match="no complete cache.*marker-lm prepare"):
        Cache(tmp_path / "none")
    (folder / "manifest.json").write_text('{"version": 99}')
    with pytest.raises(CacheError, match="has version 99, this program reads version 2"):
        Cache(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CacheError, match="manifest.json is damaged"):
        Cache(folder)


def test_a_cache_goes_to_another_process(folder, rows):
    cache = Cache(folder)
    assert same(cache.read(120), rows[120])
    other = pickle.loads(pickle.dumps(cache))
    assert same(other.read(120), rows[120])


def test_remote_folders_are_written_manifest_last_and_read_through_a_copy(
    tmp_path, rows, monkeypatch
):
    for module in (cache_module, writer_module, files_module):
        monkeypatch.setattr(module, "is_remote", lambda folder: "remote" in str(folder))
    folder = tmp_path / "remote" / "cache"
    write_cache(rows, folder, MANIFEST, rows_per_shard=100)
    cache = Cache(folder)
    (folder / "spans-00000.array_record").unlink()
    assert same(cache.read(7), rows[7])
    with pytest.raises(CacheError, match="spans-00000.array_record is missing"):
        Cache(folder)


def test_neither_tensorflow_nor_jax_is_needed(folder):
    code = (
        "import sys; from marker_lm.data.cache import Cache;"
        f"assert len(Cache({str(folder)!r}).read_many([3, 1])) == 2;"
        "print([m for m in ('tensorflow', 'seqio', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
