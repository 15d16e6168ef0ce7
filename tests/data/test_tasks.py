"""SeqIO tasks and mixtures give whole, exact spans in a fixed order."""

from collections import Counter

import numpy as np
import pytest

from marker_lm.data.example import Example
from marker_lm.data.parse import parse_row
from marker_lm.data.spans import ABSENT
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.taxonomy import MarkerError
from tests.data.small import ROWS, Codec, taxonomy

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tasks = pytest.importorskip("marker_lm.data.tasks")
vocabularies = pytest.importorskip("marker_lm.data.vocabularies")


class ZeroTokenizer(ByteTokenizer):
    """The letter 'z' is id 0, which SeqIO's own packing takes for the end."""

    hash = "zero"

    def encode(self, text):
        return [0 if i == 3 + ord("z") else i for i in super().encode(text)]

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]


def examples(rows=ROWS):
    return [parse_row(row, taxonomy()) for row in rows]


def many(n, letter="x"):
    names = [f"{letter}{i}" for i in range(n)]
    return [Example(name, f"{name} " * (i % 7 + 1), "done", {}, {}) for i, name in enumerate(names)]


def test_spans_of_a_task():
    tokenizer = ByteTokenizer()
    codec = Codec(tokenizer)
    task = tasks.build_task("small", lambda split: examples(), codec, tokenizer)
    assert seqio.TaskRegistry.get("small") is task
    for _ in range(2):
        found = list(tasks.spans("small"))
        assert [one.id for one in found] == list("abcd")
        for one, row in zip(found, ROWS, strict=True):
            assert tokenizer.decode(one.prompt) == row["prompt"]
            assert tokenizer.decode(one.completion) == row["completion"]
            expected = taxonomy().check_all(row["markers"])
            assert list(one.markers) == list(expected)
            for category, value in expected.items():
                assert tuple(one.markers[category]) == codec.marker(category, value)
            assert one.prompt.dtype == one.completion.dtype == np.int32


def test_several_values_are_one_span():
    tokenizer, codec = ByteTokenizer(), Codec(ByteTokenizer())
    tasks_of_row = ("List", "Answer")
    rows = [Example(str(n), "p", "c", {"task": tasks_of_row, "words": n}, {}) for n in range(3)]
    tasks.build_task("several", lambda split: rows, codec, tokenizer)
    for one in tasks.spans("several"):
        assert list(one.markers) == ["task", "words"]
        assert tuple(one.markers["task"]) == codec.marker("task", tasks_of_row)


def test_id_zero_does_not_end_a_span():
    tokenizer = ZeroTokenizer()
    row = Example("a", "zazz", "bzb z", {"lang": "en"}, {})
    tasks.build_task("zeros", lambda split: [row], Codec(tokenizer), tokenizer)
    (one,) = tasks.spans("zeros")
    assert one.prompt.tolist() == [0, 3 + ord("a"), 0, 0]
    assert one.completion.tolist() == tokenizer.encode("bzb z")


def test_nothing_is_cut_and_batches_do_not_show():
    tokenizer = ByteTokenizer()
    rows = [*many(700), Example("long", "y" * 100_000, "z" * 50_000, {"lang": "ja"}, {})]
    tasks.build_task("many", lambda split: rows, Codec(tokenizer), tokenizer)
    found = list(tasks.spans("many"))
    assert [one.id for one in found] == [row.id for row in rows]
    assert all(len(one.prompt) == len(row.prompt) for one, row in zip(found, rows, strict=True))
    assert len(found[-1].completion) == 50_000
    assert [one.id for one in tasks.spans("many", rows=3)] == ["x0", "x1", "x2"]


def test_splits_features_and_registering_again():
    tokenizer = ByteTokenizer()
    rows = {"train": examples(), "heldout": examples()[:1]}
    for _ in range(2):
        task = tasks.build_task("split", rows.get, Codec(tokenizer), tokenizer, splits=tuple(rows))
    assert [one.id for one in tasks.spans("split", "heldout")] == ["a"]
    assert set(task.splits) == {"train", "heldout"}
    row = next(task.get_dataset(split="train", shuffle=False).as_numpy_iterator())
    assert set(row) == {
        "id",
        "prompt",
        "completion",
        "markers",
        "marker_lengths",
        "marker_values",
    }
    assert row["marker_values"].tolist() == [0, ABSENT, ABSENT]  # words is a number
    assert row["marker_lengths"].sum() == len(row["markers"])
    assert task.output_features["prompt"].vocabulary.decode(row["prompt"]) == "Say hi."
    with pytest.raises(ValueError, match="read in order"):
        task.get_dataset(split="train", shuffle=True)


def test_mixture_follows_its_rates_without_chance():
    tokenizer = ByteTokenizer()
    for name, n in (("ma", 400), ("mb", 1000)):
        tasks.build_task(
            name, lambda split, n=n, name=name: many(n, name), Codec(tokenizer), tokenizer
        )
    tasks.build_mixture("m", [("ma", 1.0), ("mb", 3.0)])
    found = [one.id for one in tasks.spans("m", rows=800)]
    assert found == [one.id for one in tasks.spans("m", rows=800)]
    for start in range(0, 800, 100):
        counts = Counter(name[:2] for name in found[start : start + 100])
        assert counts == {"ma": 25, "mb": 75}
    assert [name for name in found if name.startswith("ma")] == [f"ma{i}" for i in range(200)]
    until_one_is_done = Counter(one.id[:2] for one in tasks.spans("m"))
    assert until_one_is_done["mb"] == 1000 and 333 <= until_one_is_done["ma"] <= 334


def test_rows_seen_again_get_a_number():
    tokenizer = ByteTokenizer()
    for name, n in (("ra", 2), ("rb", 5)):
        tasks.build_task(name, lambda split, n=n: many(n, "r"), Codec(tokenizer), tokenizer)
    tasks.build_mixture("r", [("ra", 1), ("rb", 1)])
    found = [one.id for one in tasks.spans("r", rows=10)]
    assert len(set(found)) == 10
    assert {"r0", "r0#2", "r0#3"} <= set(found)


def test_tasks_of_another_tokenizer_or_taxonomy_do_not_mix():
    one, two = ByteTokenizer(), ZeroTokenizer()
    tasks.build_task("t1", lambda split: examples(), Codec(one), one)
    tasks.build_task("t2", lambda split: examples(), Codec(two), two)
    other = Codec(one)
    other.template = "compact"
    tasks.build_task("t3", lambda split: examples(), other, one)
    for wrong in ("t2", "t3"):
        tasks.build_mixture("wrong", [("t1", 1), (wrong, 1)])
        with pytest.raises(ValueError, match="same vocabulary"):
            list(tasks.spans("wrong"))


def test_errors_come_out_as_they_were_raised():
    def broken(split):
        yield from examples()
        raise FileNotFoundError("the file x is gone")

    tokenizer = ByteTokenizer()
    tasks.build_task("broken", broken, Codec(tokenizer), tokenizer)
    with pytest.raises(FileNotFoundError, match="^the file x is gone$"):
        list(tasks.spans("broken"))
    bad_marker = [Example("a", "p", "c", {"lang": "en", "words": 1}, {})]
    codec = Codec(tokenizer)
    codec.marker = lambda name, value: (_ for _ in ()).throw(MarkerError(f"no {name}"))
    tasks.build_task("bad", lambda split: bad_marker, codec, tokenizer)
    with pytest.raises(MarkerError, match="^no lang$"):
        list(tasks.spans("bad"))
    bad_text = [Example("a", "p\ud800", "c", {}, {})]
    tasks.build_task("bad", lambda split: bad_text, Codec(tokenizer), tokenizer)
    with pytest.raises(UnicodeEncodeError):
        list(tasks.spans("bad"))


def test_vocabulary_in_python_and_in_tensorflow():
    tokenizer = ZeroTokenizer()
    vocabulary = vocabularies.TokenizerVocabulary(tokenizer, reserved=4)
    assert vocabulary.vocab_size == tokenizer.size + 4
    for text in ("zaz\nb", "", "日本"):
        ids = vocabulary.encode(text)
        assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids
    ragged = vocabulary.encode_tf(tf.constant(["ab", "", "z"]))
    assert ragged.to_list() == [tokenizer.encode("ab"), [], [0]]
    ids = [*tokenizer.encode("ab"), 1, *tokenizer.encode("c"), tokenizer.size + 1]
    assert vocabulary.decode(ids) == "abc\ufffd"
    assert vocabulary.decode_tf(tf.constant([ids, ids]))[1].numpy().decode() == "abc\ufffd"
    assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == "abc\ufffd"
    assert vocabulary == vocabularies.TokenizerVocabulary(ZeroTokenizer(), 4)
    assert vocabulary != vocabularies.TokenizerVocabulary(ByteTokenizer(), 4)
    assert vocabulary != vocabularies.TokenizerVocabulary(tokenizer, 5)
