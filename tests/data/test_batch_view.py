"""A batch as people read it: kinds, weights, dropped markers, and faults that it gives away."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.data.assembly import Kind
from marker_lm.data.batch_print import lines, page, visible
from marker_lm.data.batch_view import Reader, summary
from marker_lm.data.plan import kept_markers
from marker_lm.data.setup import make_setup, train_batches
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.data.tokenizers.training import train_sentencepiece
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import load_taxonomy
from tests.pages import Page
from tests.tiny import make_cache, make_rows, tiny_config, tiny_taxonomy

ROWS = make_rows(40)


def make(folder, arm="markers", template="compact", **train):
    """Batches of the tiny rows and a Reader of them."""
    taxonomy = tiny_taxonomy(folder)
    config = tiny_config(folder, arm, **train).unlock()
    config.template = template
    with config.markers.ignore_type():
        config.markers.dropout_schedule = ((0.0, 1.0), (1.0, 1.0))
    codec = MarkerCodec(taxonomy, template, ByteTokenizer())
    setup = make_setup(config, taxonomy, ByteTokenizer())
    cache = make_cache(folder / "cache", ROWS, codec)
    batches = train_batches(config, setup, cache, slice(None))
    return batches, Reader(setup.layout, setup.codec, setup.tokenizer), config


@pytest.fixture(params=["text", "compact"])
def made(request, tmp_path):
    return make(tmp_path, template=request.param, length=512)


def read(batches, reader, step):
    batch = batches[step]
    return batch, [reader.sequence(batch, row) for row in range(len(batch["tokens"]))]


def text_of(segment, kind):
    return "".join(span.text for span in segment.spans if span.kind == kind)


def test_every_example_of_an_epoch_is_shown_with_its_text_and_markers(made):
    batches, reader, config = made
    seen = {}
    for step in range(len(batches) // config.train.epochs):
        for sequence in read(batches, reader, step)[1]:
            for segment in sequence.segments:
                assert segment.faults == ()
                seen[text_of(segment, Kind.PROMPT)] = segment
    assert len(seen) == len(ROWS)
    for row in ROWS:
        segment = seen[row["prompt"] + "\n"]
        assert text_of(segment, Kind.COMPLETION) == row["completion"] + "<eos>"
        markers = {**segment.turns[0].shown, **segment.turns[0].dropped}
        own = load_taxonomy(config.taxonomy).check_all(row["markers"])
        assert {c: markers[c] for c in own} == own


def test_dropped_markers_are_those_that_dropout_drops(made):
    batches, reader, config = made
    layout, ids = reader.layout, {row["prompt"] + "\n": row["id"] for row in ROWS}
    per_epoch = len(batches) // 2
    for step in range(len(batches)):
        for sequence in read(batches, reader, step)[1]:
            for segment in sequence.segments:
                hashes = hash_ids([ids[text_of(segment, Kind.PROMPT)]])
                epoch = np.full(1, step // per_epoch)
                stream = batches.stream
                [kept] = kept_markers(
                    layout, stream.dropout, stream.seed, epoch, hashes, np.zeros(1)
                )
                stays = {c for c, k in zip(layout.prompt_side, kept, strict=True) if k}
                assert set(segment.turns[0].shown) <= stays
                assert not set(segment.turns[0].dropped) & stays


def test_counts_of_the_summary_add_up(made):
    batches, reader, _ = made
    batch, sequences = read(batches, reader, 0)
    counts = summary(batch, sequences)
    assert sum(counts["targets"].values()) == counts["slots"] == batch["tokens"].size
    assert counts["used"] == counts["slots"] - counts["targets"]["padding"]
    assert sum(counts["weight"].values()) == pytest.approx(batch["weights"].sum())
    assert counts["segments"] == int(batch["segment_ids"].max(axis=1).sum())
    assert counts["faults"] == 0 and counts["dropped"] > 0 and counts["shown"] > 0


def test_arms_without_a_prompt_side_drop_nothing(tmp_path):
    for arm in ("baseline", "completion_only"):
        batches, reader, _ = make(tmp_path / arm, arm)
        batch, sequences = read(batches, reader, 0)
        counts = summary(batch, sequences)
        assert counts["shown"] == counts["dropped"] == counts["bare"] == counts["faults"] == 0


def break_input(batch):
    batch["tokens"][0, 3] += 1


def break_position(batch):
    batch["positions"][0, 2] = 0


def break_list(batch):
    at = int(np.flatnonzero(batch["kinds"][0] == Kind.COMPLETION_MARKERS)[1])
    batch["targets"][0, at] = batch["tokens"][0, at + 1] = 70


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (break_input, "the input of slot 3 is not the target before it"),
        (break_position, "its positions do not count from 0"),
        (break_list, "the list of completion_markers can't be read"),
    ],
)
def test_faults_are_named(tmp_path, broken, words):
    batches, reader, _ = make(tmp_path)
    batch = batches[0]
    broken(batch)
    sequence = reader.sequence(batch, 0)
    assert any(words in fault for fault in sequence.segments[0].faults)
    assert any(f"[FAULT] {words}" in line.plain for line in lines(0, sequence))


def test_a_weight_that_differs_within_a_kind_stands_out(tmp_path):
    batches, reader, _ = make(tmp_path)
    batch = batches[0]
    at = int(np.flatnonzero(batch["kinds"][0] == Kind.COMPLETION)[1])
    batch["weights"][0, at] = 0.25
    shown = "\n".join(line.plain for line in lines(0, reader.sequence(batch, 0)))
    assert "[completion w=0.25 n=1]" in shown and "[completion w=1 n=1]" in shown


def test_plain_lines_and_page_say_the_same(made):
    batches, reader, _ = made
    batch, sequences = read(batches, reader, 0)
    dropped = next(t for q in sequences for s in q.segments for t in s.turns if t.dropped)
    category, value = next(iter(dropped.dropped.items()))
    plain = "\n".join(line.plain for q in sequences for line in lines(0, q))
    shown = page("Batch", "one\ntwo", sequences)
    assert f"[dropped] {category}={value}" in plain
    assert f"<del>{category}={value}</del>" in shown and len(shown) < 200_000
    for name in ("prompt", "completion_markers", "completion"):
        assert f"[{name} w=" in plain and f"kind_{name}" in shown
    assert "say yes" in plain and "say yes" in Page(shown).text
    assert all("\n" not in line.plain for q in sequences for line in lines(0, q))


def reader_of(tokenizer, folder):
    taxonomy = tiny_taxonomy(folder)
    config = tiny_config(folder)
    setup = make_setup(config, taxonomy, tokenizer)
    return Reader(setup.layout, setup.codec, tokenizer)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    texts = [f"say {word} {n}" for n in range(80) for word in ("yes", "no", "ja", "nein")]
    tokenizers = (ByteTokenizer(), train_sentencepiece(texts, 300))
    folder = tmp_path_factory.mktemp("readers")
    return [reader_of(tokenizer, folder / str(i)) for i, tokenizer in enumerate(tokenizers)]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=20))
def test_whole_texts_are_shown_as_they_are(readers, text):
    for reader in readers:
        ids = reader.tokenizer.encode(text)
        assert reader.text(ids) == text
        assert len(reader.pieces(ids)) == len(ids)


def test_bytes_that_are_no_whole_character_are_named(readers):
    for reader in readers:
        ids = reader.tokenizer.encode("no は")
        assert reader.text(ids[:-1]) == "no <0xE3><0x81>"
        assert reader.text([*ids[:-1], reader.tokenizer.eos_id]) == "no <0xE3><0x81><eos>"
        assert reader.text(ids[:-2] + ids) == "no <0xE3>no は"
        assert reader.pieces(ids)[-3:] == ("<0xE3>", "<0x81>", "<0xAF>")
        size = reader.tokenizer.size
        assert reader.text([size, size + 10**6]) == f"<|MARKER_LIST|><no token {size + 10**6}>"


def test_line_breaks_and_control_characters_are_visible():
    assert visible("a\n\tb\x00\x1b") == "a↵→b␀␛"
