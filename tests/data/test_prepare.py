"""Rows become caches, once; what changed is noticed."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marker_lm.data import inputs as inputs_module
from marker_lm.data import shards as shards_module
from marker_lm.data.cache import Cache, CacheError, read_manifest
from marker_lm.data.cache_writer import CacheWriter
from marker_lm.data.example import Example
from marker_lm.data.inputs import data_key
from marker_lm.data.prepare import check_cache, prepare, tokenizer_texts
from marker_lm.data.setup import SetupError
from marker_lm.data.sources import RejectShareError
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import train_sentencepiece
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import load_taxonomy
from tests.tiny import TAXONOMY, make_rows, make_spans, tiny_config, write_data, write_rows

ROOT = Path(__file__).resolve().parents[2]


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


def test_bpe_is_trained_and_rows_that_it_changes_are_counted(folder):
    rows = make_rows(30)
    rows[3]["prompt"] += " <|endoftext|>"
    rows[7]["completion"] = "<|padding|>no"
    write_rows(folder / "train.jsonl", rows)
    config = tiny_config(folder).unlock()
    config.data.update(tokenizer="train_bpe", vocab_size=300)
    manifests, lines = run(config)
    assert manifests["train"]["changed"] == {"rows": 2, "first": [rows[3]["id"], rows[7]["id"]]}
    assert manifests["heldout"]["changed"] == {"rows": 0, "first": []}
    [line] = [line for line in lines if "give the texts of 2 rows back" in line]
    assert rows[3]["id"] in line and line.startswith("train: ")
    tokenizer = load_tokenizer(folder / "prepared" / "tokenizer")
    assert tokenizer.hash == manifests["train"]["tokenizer_hash"]
    found = Cache(folder / "prepared" / "train").read(0)
    assert found.prompt.tolist() == tokenizer.encode(rows[0]["prompt"])


def test_a_tokenizer_of_the_same_name_is_told_apart(folder):
    config = tiny_config(folder).unlock()
    config.data.tokenizer = str(folder / "tokenizer.model")
    keys = []
    for seed in (3, 4):
        texts = (row["prompt"] for row in make_rows(200, seed))
        (folder / "tokenizer.model").write_bytes(train_sentencepiece(texts, 320 + seed).model)
        keys.append(run(config)[0]["train"]["key"])
    assert keys[0] != keys[1]


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


def files_of(folder):
    """Relative name -> bytes of everything below a folder, but for the lock."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def small_shards(monkeypatch, rows=7):
    monkeypatch.setattr(shards_module.blocks, "__defaults__", (rows,))


@pytest.mark.slow
def test_workers_change_no_byte(folder, monkeypatch):
    small_shards(monkeypatch)
    config = tiny_config(folder).unlock()
    found = {}
    for workers in (1, 2):
        config.data.update(workers=workers, prepared=str(folder / f"prepared-{workers}"))
        manifests, _ = run(config)
        assert [shard["rows"] for shard in manifests["train"]["shards"]] == [7, 7, 7, 7, 2]
        found[workers] = files_of(folder / f"prepared-{workers}")
    assert found[1].keys() == found[2].keys()
    assert all(found[1][name] == found[2][name] for name in found[1])


def test_broken_off_work_goes_on_and_ends_byte_equal(folder, monkeypatch):
    small_shards(monkeypatch)
    config = tiny_config(folder).unlock()
    config.data.update(workers=1, prepared=str(folder / "whole"))
    run(config)
    config.data.prepared = str(folder / "broken")
    write_shard = CacheWriter.write_shard

    def breaks(writer, number, *rest):
        if number == 3:
            raise KeyboardInterrupt
        write_shard(writer, number, *rest)

    monkeypatch.setattr(CacheWriter, "write_shard", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not (folder / "broken" / "train").exists()
    partial = folder / "broken" / ".train.partial"
    assert len(list(partial.glob("*.array_record"))) == 3
    # One shard was cut short meanwhile, and the index of another one is damaged.
    whole = (partial / "spans-00000.array_record").read_bytes()
    (partial / "spans-00000.array_record").write_bytes(whole[:-5])
    (partial / "spans-00001.index.npz").write_bytes(b"PK")
    written = []

    def counts(writer, number, *rest):
        written.append(number)
        write_shard(writer, number, *rest)

    monkeypatch.setattr(CacheWriter, "write_shard", counts)
    _, lines = run(config)
    assert written == [0, 1, 3, 4, 0]  # the last one is of the held-out rows
    assert "train: 1 of 5 shards were there already" in lines
    assert files_of(folder / "broken") == files_of(folder / "whole")


def test_shards_of_other_rows_are_not_gone_on_with(folder, monkeypatch):
    small_shards(monkeypatch)
    config = tiny_config(folder).unlock()
    config.data.workers = 1
    finish = CacheWriter.finish
    monkeypatch.setattr(CacheWriter, "finish", lambda *_: (_ for _ in ()).throw(OSError("stop")))
    with pytest.raises(OSError, match="stop"):
        run(config)
    monkeypatch.setattr(CacheWriter, "finish", finish)
    rows = make_rows(20)
    rows[0]["completion"] = "now" + rows[0]["completion"][3:]  # the file may keep its size
    write_rows(folder / "train.jsonl", rows)
    manifests, lines = run(config)
    assert not any("were there already" in line for line in lines)
    assert [shard["rows"] for shard in manifests["train"]["shards"]] == [7, 7, 6]
    assert not (folder / "prepared" / ".train.partial").exists()
    names = {path.name for path in (folder / "prepared" / "train").iterdir()}
    assert names == {"manifest.json", "index.npz", *(f"spans-0000{i}.array_record" for i in "012")}


def test_rows_that_are_written_are_let_go(folder, monkeypatch):
    """TensorFlow keeps every function that it is given: none of them may hold rows."""
    small_shards(monkeypatch)
    config = tiny_config(folder).unlock()
    config.data.workers = 1
    before = [one for one in gc.get_objects() if isinstance(one, Example)]  # of other tests' tasks
    run(config)
    gc.collect()
    assert len([one for one in gc.get_objects() if isinstance(one, Example)]) <= len(before)


@pytest.mark.slow
def test_a_killed_prepare_goes_on(folder):
    """A real process, killed by a real signal, in the middle of its shards."""
    write_rows(folder / "train.jsonl", make_rows(400))
    code = (
        "import sys; from marker_lm.data import shards; from marker_lm.data.prepare import prepare;"
        "from tests.tiny import tiny_config; shards.blocks.__defaults__ = (20,);"
        "c = tiny_config(sys.argv[1]).unlock(); c.data.workers = 1;"
        "prepare(c, sys.argv[2], print)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    killed = subprocess.Popen([*command, str(folder / "killed")], cwd=ROOT)
    partial = folder / "killed" / ".train.partial"
    while killed.poll() is None and not list(partial.glob("*-00004.array_record")):
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (folder / "killed" / "train").exists()
    kept = len(list(partial.glob("*.index.npz")))
    assert 4 <= kept < 20
    for name in ("killed", "whole"):
        done = subprocess.run(
            [*command, str(folder / name)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert (f"train: {kept} of 20 shards were there already" in done.stdout) == (
            name == "killed"
        )
    assert files_of(folder / "killed") == files_of(folder / "whole")


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_leaves_nothing_under_the_name(folder):
    write_rows(folder / "train.jsonl", make_rows(3000))
    code = (
        "import resource, sys; from tests.tiny import tiny_config;"
        "from marker_lm.data.prepare import prepare; from marker_lm.data.cache import CacheError\n"
        "c = tiny_config(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: prepare(c, c.data.prepared)\n"
        "except CacheError as error: print('SAID', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("SAID")]
    assert len(said) == 1, done.stderr[-2000:]
    assert "spans-00000.array_record could not be written" in said[0] and "room" in said[0]
    assert not (folder / "prepared" / "train").exists()
    assert list((folder / "prepared" / ".train.partial").iterdir()) == []
    assert run(tiny_config(folder))[0]["train"]["rows"] == 3000


def test_a_file_that_was_seen_before_is_not_hashed_again(folder, monkeypatch):
    config = tiny_config(folder)
    run(config)
    inputs_module._hash_file.cache_clear()
    hashed = []
    monkeypatch.setattr(inputs_module, "_hash_file", lambda *about: hashed.append(about) or "x")
    key = data_key(config, load_taxonomy(config.taxonomy), inputs_module.file_facts(config))
    assert len(hashed) == 2
    hashed.clear()
    facts = inputs_module.file_facts(config, config.data.prepared)
    assert hashed == []
    assert data_key(config, load_taxonomy(config.taxonomy), facts) != key
    for split in ("train", "heldout"):
        (folder / "prepared" / split / "manifest.json").write_text("[]")
    assert inputs_module.file_facts(config, config.data.prepared) and len(hashed) == 2


def test_how_rows_are_drawn_does_not_prepare_again(folder):
    config = tiny_config(folder).unlock()
    run(config)
    config.data.update(temperature=2.0, workers=3)
    with config.data.ignore_type():
        config.data.upsample = {"lang": {"ja": 3.0}}
        config.data.least_share = {"lang": 0.1}
    assert "prepared already" in run(config)[1][0]


def test_a_process_makes_the_functions_of_a_task_once(folder, monkeypatch):
    """TensorFlow keeps them all, so memory would grow with every block."""
    small_shards(monkeypatch, 1)
    made = []
    register = shards_module.ShardJob.register
    monkeypatch.setattr(
        shards_module.ShardJob,
        "register",
        lambda job, task: made.append(task) or register(job, task),
    )
    monkeypatch.setattr(shards_module, "_opened", {})
    config = tiny_config(folder).unlock()
    config.data.workers = 1
    run(config)
    # 36 blocks of two splits; each split's mixture, for its rates, is of a task of its own.
    assert len(made) == 3
    config.update(template="text")
    config.data.prepared = str(folder / "other")
    run(config)
    assert len(made) == 6
    assert Cache(folder / "other/train").read(0).id == make_rows(1)[0]["id"]
