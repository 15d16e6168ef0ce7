"""Counters over rows: parts merge to the whole, in any order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.annotate.tally import GIVEN, Row, Ruler, bin_start, count, length_bin
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import load_taxonomy
from tests.annotate.rows import row
from tests.tiny import TAXONOMY, tiny_taxonomy


@pytest.fixture(scope="module")
def ruler(tmp_path_factory):
    taxonomy = tiny_taxonomy(tmp_path_factory.mktemp("tally"))
    return make_ruler(taxonomy)


def make_ruler(taxonomy):
    tokenizer = ByteTokenizer()
    codecs = {name: MarkerCodec(taxonomy, name, tokenizer) for name in ("text", "compact")}
    return Ruler(taxonomy, tokenizer, codecs)


MARKERS = st.fixed_dictionaries(
    {},
    optional={
        "words": st.integers(0, 10**6),
        "lang": st.sampled_from(["en", "de", "ja"]),
        "task": st.sampled_from(["Repeat", "Answer"]),
    },
)
ROWS = st.lists(
    st.builds(
        Row,
        id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=3),
        prompt=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        completion=st.sampled_from(["yes", "?!", "1", "はい", "…"]),
        markers=MARKERS,
        info=st.none() | st.just({"lang": {"origin": "lingua", "confidence": 0.93}}),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(ROWS, st.integers(0, 12), st.randoms())
def test_parts_merge_to_the_whole_in_any_order(ruler, rows, cut, random):
    whole = count(rows, ruler)
    shuffled = list(rows)
    random.shuffle(shuffled)
    merged = count(shuffled[cut:], ruler)
    merged.merge(count(shuffled[:cut], ruler))
    assert merged == whole


def test_what_is_counted(ruler):
    rows = [
        row("a", completion="yes", lang="en", task="Repeat", words=1),
        row("b", completion="...", lang="de", task="Repeat"),
        row("c", lang="en"),
        row("d"),
    ]
    found = count(rows, ruler)
    assert found.rows == 4 and found.wordless == 1
    assert found.marked == {"lang": 3, "task": 2, "words": 1}
    assert found.values["lang"] == {"en": 2, "de": 1}
    assert found.joint["lang", "task"] == {("en", "Repeat"): 1, ("de", "Repeat"): 1}
    assert found.sets == {("lang", "task", "words"): 1, ("lang", "task"): 1, ("lang",): 1, (): 1}
    assert found.text_tokens == {"prompt": 4 * len("say yes"), "completion": 4 * 3}
    assert found.numbers["words"] == {length_bin(1): 1}
    assert found.marker_tokens["compact"]["lang"] == 3 * 2
    assert found.marker_tokens["text"]["lang"] == 3 * len("<lang>en</lang>\n")


def test_origins_and_confidences(ruler):
    info = {"lang": {"origin": "lingua", "confidence": 0.95}, "task": {"origin": "model"}}
    damaged = {"lang": "sure", "task": {"confidence": 7}}
    rows = [
        row("a", info=info, lang="en", task="Repeat"),
        row("b", info=damaged, lang="en", task="Repeat"),
        row("c", lang="en"),
    ]
    found = count(rows, ruler)
    assert found.origins["lang"] == {"lingua": 1, GIVEN: 2}
    assert found.origins["task"] == {"model": 1, GIVEN: 1}
    assert found.confidences == {"lang": {9: 1}}


def test_each_of_several_values_counts(tmp_path):
    path = tmp_path / "taxonomy.yaml"
    path.write_text(TAXONOMY, encoding="utf-8")
    ruler = Ruler(load_taxonomy(str(path)), ByteTokenizer(), {})
    found = count([row("a", lang=("en", "de"), task="Answer"), row("b", lang="en")], ruler)
    assert found.values["lang"] == {"en": 2, "de": 1} and found.marked["lang"] == 2
    assert found.joint["lang", "task"] == {("en", "Answer"): 1, ("de", "Answer"): 1}


def test_another_marker_or_id_gives_another_fingerprint(ruler):
    prints = {
        count([row(name, **markers)], ruler).fingerprint
        for name, markers in (("a", {}), ("b", {}), ("a", {"lang": "en"}), ("a", {"lang": "de"}))
    }
    assert len(prints) == 4


@given(st.integers(0, 10**9))
def test_a_length_lies_in_its_bin(length):
    number = length_bin(length)
    assert bin_start(number) <= length < bin_start(number + 1)
