"""Rows become caches, once; what changed is noticed."""

import json
import os

import pytest

from marker_lm.data.cache import Cache, CacheError, read_manifest
from marker_lm.data.prepare import check_cache, prepare, tokenizer_texts
from marker_lm.data.setup import SetupError
from marker_lm.data.sources import RejectShareError
from marker_lm.data.tokenizer import ByteTokenizer, load_tokenizer, train_sentencepiece
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import load_taxonomy
from tests.tiny import TAXONOMY, make_rows, make_spans, tiny_config, write_data, write_rows


@pytest.fixture
def folder(tmp_path):
    return write_data(tmp_path, train=30, heldout=6)


def run(config):
    lines = []
    manifests = prepare(config, config.data.prepared, lines.append)
    return manifests, lines


def snapshot(folder):
    """Every file below a folder with its time and inode."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [(str(p), os.stat(p).st_mtime_ns, os.stat(p).st_ino) for p in files]


def ids(cache):
    return [cache.read(i).id for i in range(len(cache))]


@pytest.mark.parametrize("template", ["text", "compact"])
def test_spans_are_those_of_tokenizer_and_codec(folder, template):
    config = tiny_config(folder).unlock()
    config.template = template
    manifests, lines = run(config)
    assert {split: m["rows"] for split, m in manifests.items()} == {"train": 30, "heldout": 6}
    cache = Cache(folder / "prepared" / "train")
    codec = MarkerCodec(load_taxonomy(config.taxonomy), template, ByteTokenizer())
    for i, row in enumerate(make_rows(30)):
        found, want = cache.read(i), make_spans(row, codec)
        assert found.id == want.id
        assert found.prompt.tolist() == want.prompt.tolist()
        assert found.completion.tolist() == want.completion.tolist()
        assert {c: s.tolist() for c, s in found.markers.items()} == {
            c: s.tolist() for c, s in want.markers.items()
        }
    assert any("train: 30 rows" in line for line in lines)


def test_the_second_run_touches_nothing(folder):
    config = tiny_config(folder)
    first, _ = run(config)
    before = snapshot(folder)
    again, lines = run(config)
    assert snapshot(folder) == before
    assert again == first == {s: read_manifest(folder / "prepared" / s) for s in first}
    assert len(lines) == 1 and "prepared already" in lines[0]
    changed = tiny_config(folder).unlock()
    changed.data.threads = 7  # says how to read, not what
    assert run(changed)[1] == lines


@pytest.mark.parametrize("change", ["rows", "template", "taxonomy", "share"])
def test_a_change_prepares_again(folder, change):
    config = tiny_config(folder).unlock()
    before = run(config)[0]["train"]
    if change == "rows":
        write_rows(folder / "train.jsonl", make_rows(31))
    elif change == "template":
        config.template = "text"
    elif change == "taxonomy":
        text = TAXONOMY.replace("Answer: Anything", "Reply: A reply.\n      Answer: Anything")
        (folder / "taxonomy.yaml").write_text(text, encoding="utf-8")
    else:
        config.data.share = 0.5
    after = run(config)[0]["train"]
    assert after["key"] != before["key"]
    assert after == read_manifest(folder / "prepared" / "train")
    assert (after["rows"], after["template"], after["taxonomy_hash"]) != (
        (before["rows"], before["template"], before["taxonomy_hash"])
    )


def test_another_tokenizer_replaces_the_one_before(folder):
    config = tiny_config(folder).unlock()
    config.data.update(tokenizer="train", vocab_size=320)
    trained = run(config)[0]["train"]
    assert load_tokenizer(folder / "prepared" / "tokenizer").hash == trained["tokenizer_hash"]
    config.data.tokenizer = "bytes"
    assert run(config)[0]["train"]["tokenizer_hash"] == ByteTokenizer.hash
    assert load_tokenizer(folder / "prepared" / "tokenizer").hash == ByteTokenizer.hash
    taxonomy = load_taxonomy(config.taxonomy)
    check_cache(read_manifest(folder / "prepared/train"), taxonomy, ByteTokenizer(), "compact")


def test_check_cache_names_the_difference(folder):
    config = tiny_config(folder)
    manifest = run(config)[0]["train"]
    taxonomy, tokenizer = load_taxonomy(config.taxonomy), ByteTokenizer()
    check_cache(manifest, taxonomy, tokenizer, "compact")

    other = TAXONOMY.replace("ja: Japanese", "ja: Japanese\n      fr: French")
    (folder / "other.yaml").write_text(other, encoding="utf-8")
    with pytest.raises(CacheError, match="another taxonomy .*lang: value 'fr' is added.*again"):
        check_cache(manifest, load_taxonomy(str(folder / "other.yaml")), tokenizer, "compact")
    with pytest.raises(CacheError, match="template compact, the config text"):
        check_cache(manifest, taxonomy, tokenizer, "text")
    trained = train_sentencepiece((row["prompt"] for row in make_rows(30)), 320)
    with pytest.raises(
        CacheError, match=f"tokenizer {ByteTokenizer.hash}, the config {trained.hash}"
    ):
        check_cache(manifest, taxonomy, trained, "compact")


BAD = [
    {"id": "no-prompt", "completion": "x"},
    {"id": "category", "prompt": "p", "completion": "c", "markers": {"colour": "red"}},
    {"id": "value", "prompt": "p", "completion": "c", "markers": {"lang": "xx"}},
]


def test_bad_rows_are_counted_and_kept(folder):
    write_rows(folder / "train.jsonl", [*make_rows(30), *BAD])
    config = tiny_config(folder).unlock()
    config.data.max_reject_share = 0.5
    manifests, lines = run(config)
    found = manifests["train"]["rejects"]
    assert (found["rows"], found["rejected"], manifests["train"]["rows"]) == (33, 3, 30)
    assert found["kinds"] == {
        "prompt is missing": 1,
        "unknown category": 1,
        "bad value of lang": 1,
    }
    assert any("3 of 33 rows rejected" in line for line in lines)
    rejects = [
        json.loads(line)
        for line in (folder / "prepared" / "rejects.train.jsonl").read_text().splitlines()
    ]
    assert [row["line"] for row in rejects] == [31, 32, 33]
    assert "colour" in rejects[1]["reason"] and "no-prompt" in rejects[0]["excerpt"]


@pytest.mark.parametrize("tokenizer", ["bytes", "train"])
def test_too_many_bad_rows_stop_the_run_with_a_rejects_file(folder, tokenizer):
    write_rows(folder / "train.jsonl", [*make_rows(30), *BAD])
    config = tiny_config(folder).unlock()
    config.data.update(tokenizer=tokenizer, vocab_size=320, max_reject_share=0.05)
    path = folder / "prepared" / "rejects.train.jsonl"
    with pytest.raises(RejectShareError, match=f"3 of 33 rows.*{path}"):
        run(config)
    assert len(path.read_text().splitlines()) == 3
    assert not (folder / "prepared" / "train").exists()
    with pytest.raises(RejectShareError):  # nor is it taken for prepared by the next run
        run(config)


def test_a_share_is_chosen_by_hash(folder):
    config = tiny_config(folder).unlock()
    config.data.share = 0.4
    run(config)
    rows = [row["id"] for row in make_rows(30)]
    small = [name for name in rows if int(hash_ids([name])[0]) < 0.4 * 2**64]
    assert ids(Cache(folder / "prepared" / "train")) == small
    assert 5 < len(small) < 20


def test_a_balanced_vocabulary_sees_rare_values_more_often(folder):
    word = {"en": "wonderful", "ja": "\u03b8\u03b1\u03c5\u03bc\u03ac\u03c3\u03b9\u03bf"}
    rows = [
        {
            "id": str(i),
            "prompt": f"{word[lang]} {i}",
            "completion": word[lang],
            "markers": {"lang": lang},
        }
        for i, lang in enumerate(["en"] * 60 + ["ja"] * 2)
    ]
    counts = {}
    for balance in (1.0, 0.0):
        config = tiny_config(folder).unlock()
        write_rows(folder / "few.jsonl", rows)
        config.data.tasks.rows.train = str(folder / "few.jsonl")
        config.data.update(tokenizer="train", vocab_size=300, vocab_balance=balance)
        texts = list(tokenizer_texts(config, load_taxonomy(config.taxonomy), None))
        counts[balance] = texts.count(word["ja"])
    assert counts == {1.0: 2, 0.0: 60}


def test_a_mixture_reaches_the_manifest(folder):
    write_rows(folder / "more.jsonl", make_rows(10, seed=7))
    config = tiny_config(folder).unlock()
    rows = config.data.tasks.rows.to_dict()
    more = {"train": str(folder / "more.jsonl"), "heldout": "", "rate": 3.0}
    config.data.tasks = {"rows": rows | {"rate": 0.5}, "more": more}
    manifests, _ = run(config)
    assert manifests["train"]["tasks"] == [
        {"name": "more", "rows": 10, "rate": 3.0},
        {"name": "rows", "rows": 30, "rate": 0.5},
    ]
    assert manifests["heldout"]["tasks"] == [{"name": "rows", "rows": 6, "rate": 0.5}]
    names = ids(Cache(folder / "prepared" / "train"))
    assert names == [row["id"] for row in make_rows(10, seed=7) + make_rows(30)]


def test_a_task_with_held_out_rows_only(folder):
    config = tiny_config(folder).unlock()
    rows = config.data.tasks.rows.to_dict()
    config.data.update(tokenizer="train", vocab_size=320)
    config.data.tasks = {"rows": rows | {"heldout": ""}, "dev": rows | {"train": ""}}
    manifests, _ = run(config)
    assert [task["name"] for task in manifests["train"]["tasks"]] == ["rows"]
    assert [task["name"] for task in manifests["heldout"]["tasks"]] == ["dev"]


def test_no_training_files_is_an_error(folder):
    config = tiny_config(folder).unlock()
    config.data.tasks.rows.train = ""
    with pytest.raises(SetupError, match="set data.tasks.<name>.train"):
        run(config)
