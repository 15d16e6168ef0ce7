"""Damaged inputs of prepare, cache and plan: one clear sentence, no output under its final name."""

import json
import shutil

import numpy as np
import pytest

from marker_lm.data.cache import Cache, CacheError
from marker_lm.data.loader import iterate
from marker_lm.data.mixture import MixtureError
from marker_lm.data.prepare import check_cache, prepare
from marker_lm.data.setup import SetupError, eval_batches, make_setup, train_batches
from marker_lm.data.sources import SourceError
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import MarkerError
from tests.tiny import make_cache, make_rows, tiny_config, tiny_taxonomy, write_data


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    codec = MarkerCodec(tiny_taxonomy(folder), "compact", ByteTokenizer())
    return make_cache(folder / "cache", make_rows(60), codec).folder


@pytest.fixture
def cache(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "cache")
    return tmp_path / "cache"


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and len(text) < 700
    return text


def rewrite_manifest(**changes):
    def damage(cache):
        path = cache / "manifest.json"
        manifest = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))

    return damage


def write(name, data):
    return lambda cache: (cache / name).write_bytes(data)


def cut(name, keep):
    return lambda cache: (cache / name).write_bytes((cache / name).read_bytes()[:keep])


def rewrite_index(**changes):
    def damage(cache):
        with np.load(cache / "index.npz") as arrays:
            columns = dict(arrays)
        for name, change in changes.items():
            columns[name] = change(columns[name])
        np.savez(cache / "index.npz", **columns)

    return damage


SHARD = "spans-00000.array_record"
DAMAGES = {
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "manifest.json is missing"),
    "an empty manifest": (write("manifest.json", b""), "manifest.json is damaged"),
    "garbage": (write("manifest.json", b"\xff\xfe{]"), "manifest.json is damaged"),
    "half a manifest": (cut("manifest.json", 150), "manifest.json is damaged"),
    "a manifest that is a list": (write("manifest.json", b"[1]"), "it holds no object"),
    "of version 1": (rewrite_manifest(version=1), "has version 1, this program reads version 2"),
    "no version": (rewrite_manifest(version=None), "has version None"),
    "no shards": (rewrite_manifest(shards=None), "has no shards"),
    "shards that are a number": (rewrite_manifest(shards=3), "has no shards"),
    "shards without names": (rewrite_manifest(shards=[{"rows": 60}]), "no whole list of shards"),
    "no rows": (rewrite_manifest(rows=None), "has no rows"),
    "rows that are words": (rewrite_manifest(rows="many"), "has no rows"),
    "other rows": (rewrite_manifest(rows=61), "has 60 rows, the manifest 61"),
    "other categories": (rewrite_manifest(categories=["lang"]), "4 categories, the manifest 1"),
    "no shard": (lambda c: (c / SHARD).unlink(), f"{SHARD} is missing"),
    "a shard cut short": (cut(SHARD, 500), rf"{SHARD} has 500 bytes instead of \d+"),
    "an empty shard": (write(SHARD, b""), f"{SHARD} has 0 bytes"),
    "no index": (lambda c: (c / "index.npz").unlink(), "index.npz cannot be read"),
    "an index cut short": (cut("index.npz", 300), "index.npz cannot be read"),
    "an empty index": (write("index.npz", b""), "index.npz cannot be read"),
    "an index that is text": (write("index.npz", b"hello"), "index.npz cannot be read"),
    "an index with a row less": (
        rewrite_index(prompt_len_N=lambda column: column[:-1]),
        "the columns of the index .* differ in length",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_is_not_opened(cache, name):
    damage, match = DAMAGES[name]
    damage(cache)
    with pytest.raises(CacheError, match=match) as error:
        Cache(cache)
    assert "again" in one_sentence(error) or "marker-lm prepare" in str(error.value)


def read_all(cache):
    return Cache(cache).read_flat(np.arange(60))


def test_a_flipped_byte_of_a_shard_is_found_when_it_is_read(cache):
    data = bytearray((cache / SHARD).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    (cache / SHARD).write_bytes(data)
    with pytest.raises(CacheError, match=f"{SHARD} cannot be read") as error:
        read_all(cache)
    one_sentence(error)


@pytest.mark.parametrize("column", ["prompt_len_N", "completion_len_N", "marker_len_NxC"])
def test_an_index_of_other_rows_is_found_when_they_are_read(cache, column):
    rewrite_index(**{column: lambda c: c[::-1]})(cache)
    with pytest.raises(CacheError, match="does not hold what the index says") as error:
        read_all(cache)
    one_sentence(error)


def test_damage_reaches_the_reader_through_threads(cache):
    rewrite_index(prompt_len_N=lambda c: np.minimum(c + 1, 40))(cache)
    config = tiny_config(cache.parent)
    setup = make_setup(config, tiny_taxonomy(cache.parent), ByteTokenizer())
    batches = train_batches(config, setup, Cache(cache), slice(None))
    with pytest.raises(CacheError, match="does not hold what the index says"):
        list(iterate(batches, 0, len(batches), threads=2))


def test_a_manifest_of_another_taxonomy_is_damaged_or_says_the_difference(cache):
    manifest = json.loads((cache / "manifest.json").read_text())
    taxonomy = tiny_taxonomy(cache.parent)
    stored = {"taxonomy_hash": "0" * 16, "tokenizer_hash": ByteTokenizer.hash}
    stored |= {"template": "compact", "taxonomy": taxonomy.to_dict()}
    del stored["taxonomy"]["categories"][3]
    with pytest.raises(CacheError, match="another taxonomy .*task is added.*prepare it again"):
        check_cache(manifest | stored, taxonomy, ByteTokenizer(), "compact")
    for key in ("taxonomy", "taxonomy_hash", "tokenizer_hash", "template"):
        less = {k: v for k, v in (manifest | stored).items() if k != key}
        with pytest.raises(CacheError, match=f"has no {key}; prepare it again"):
            check_cache(less, taxonomy, ByteTokenizer(), "compact")
    with pytest.raises((CacheError, MarkerError), match="damaged"):
        check_cache(manifest | stored | {"taxonomy": [1]}, taxonomy, ByteTokenizer(), "compact")


def test_all_rows_too_long(cache):
    taxonomy = tiny_taxonomy(cache.parent)
    for too_long in ("reject", "truncate_completion", "split"):
        config = tiny_config(cache.parent, length=16, too_long=too_long)
        setup = make_setup(config, taxonomy, ByteTokenizer())
        with pytest.raises(SetupError, match="60 rows.*none that fits in train.length=16") as error:
            train_batches(config, setup, Cache(cache), slice(None))
        one_sentence(error)
        held_out = eval_batches(config, setup, Cache(cache), slice(None))
        assert len(held_out) == 0 and len(held_out.summary.rows("rejected")) == 60


@pytest.mark.parametrize(
    ("key", "value", "error", "match"),
    [
        ("upsample", {"lnag": {"de": 2.0}}, MarkerError, "unknown category 'lnag'"),
        ("upsample", {"lang": {"deu": 2.0}}, MarkerError, "deu"),
        ("least_share", {"lang": 0.5}, MixtureError, "least share"),
        ("least_share", {"words": 0.1}, MixtureError, "'words' is a number"),
        ("temperature", -2.0, MixtureError, "data.temperature=-2.0"),
    ],
)
def test_a_mixture_that_cannot_be(cache, key, value, error, match):
    config = tiny_config(cache.parent).unlock()
    with config.data.ignore_type():
        config.data[key] = value
    setup = make_setup(config, tiny_taxonomy(cache.parent), ByteTokenizer())
    with pytest.raises(error, match=match) as found:
        train_batches(config, setup, Cache(cache), slice(None))
    one_sentence(found)


def test_an_unknown_policy(cache):
    config = tiny_config(cache.parent, too_long="drop")
    setup = make_setup(config, tiny_taxonomy(cache.parent), ByteTokenizer())
    with pytest.raises(ValueError, match="train.too_long='drop' is not one of reject") as error:
        train_batches(config, setup, Cache(cache), slice(None))
    one_sentence(error)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("train.jsonl", b"", "train.jsonl is empty"),
        ("train.jsonl", b"\n \n", "train.jsonl is empty"),
        ("train.jsonl", b"\x1f\x8b\x08\x00half", "train.jsonl is damaged"),
        ("heldout.jsonl", b"", "heldout.jsonl is empty"),
    ],
)
def test_splits_without_rows_get_no_cache(tmp_path, name, data, match):
    config = tiny_config(write_data(tmp_path, 5, 3))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=match) as error:
        prepare(config, config.data.prepared, lambda line: None)
    one_sentence(error)
    assert not (tmp_path / "prepared" / name.split(".")[0]).exists()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"version": 1}', b'{"version": 2}'])
def test_prepare_replaces_a_damaged_or_older_cache(tmp_path, data):
    config = tiny_config(write_data(tmp_path, 5, 3))
    before = prepare(config, config.data.prepared, lambda line: None)
    held_out = (tmp_path / "prepared" / "heldout" / "manifest.json").stat().st_mtime_ns
    (tmp_path / "prepared" / "train" / "manifest.json").write_bytes(data)
    assert prepare(config, config.data.prepared, lambda line: None) == before
    assert len(Cache(tmp_path / "prepared" / "train")) == 5
    # What is whole is not done again.
    after = (tmp_path / "prepared" / "heldout" / "manifest.json").stat().st_mtime_ns
    assert after == held_out


def test_a_share_that_leaves_no_row(tmp_path):
    config = tiny_config(write_data(tmp_path, 5, 3)).unlock()
    config.data.share = 0.0
    with pytest.raises(CacheError, match="no rows to write") as error:
        prepare(config, config.data.prepared, lambda line: None)
    one_sentence(error)
    assert not (tmp_path / "prepared" / "train").exists()
