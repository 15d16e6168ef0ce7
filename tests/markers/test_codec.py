"""Markers as token ids and back, for both templates and several kinds of tokenizer."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.markers.category import Category
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from marker_lm.markers.template import TEMPLATES, TextTemplate, reserved_tokens


class Bytes:
    """UTF-8 bytes after three special ids."""

    size = 259

    def encode(self, text):
        return [byte + 3 for byte in text.encode("utf-8")]

    def decode(self, ids):
        return bytes(id - 3 for id in ids if id >= 3).decode("utf-8", errors="replace")


class Pairs:
    """Merges pairs of letters greedily, so that a piece's ids depend on where it begins."""

    def __init__(self):
        self.pieces = [chr(i) for i in range(128)]
        letters = [chr(i) for i in range(ord("a"), ord("z") + 1)] + ["<", "/", ">"]
        self.pieces += [a + b for a in letters for b in letters] + [">\n", "12"]
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        self.size = len(self.pieces)

    def encode(self, text):
        ids, at = [], 0
        while at < len(text):
            step = 2 if text[at : at + 2] in self.ids else 1
            ids.append(self.ids[text[at : at + step]])
            at += step
        return ids

    def decode(self, ids):
        return "".join(self.pieces[id] for id in ids)


class Unknowing(Bytes):
    """Knows ASCII only; everything else is one unknown id."""

    def encode(self, text):
        return [ord(character) + 3 if ord(character) < 128 else 2 for character in text]


PAPER = load_taxonomy("paper")
TOKENIZERS = {"bytes": Bytes(), "pairs": Pairs()}
CODECS = {
    (template, name): MarkerCodec(PAPER, template, tokenizer)
    for template in TEMPLATES
    for name, tokenizer in TOKENIZERS.items()
}
every_codec = pytest.mark.parametrize("key", CODECS, ids="-".join)


def block(codec, markers):
    ids = codec.open
    for name, value in markers.items():
        ids += codec.marker(name, value)
    return ids + codec.close


@st.composite
def paper_markers(draw):
    markers = {}
    for name in draw(st.permutations(list(PAPER.categories)))[: draw(st.integers(0, 13))]:
        category = PAPER.categories[name]
        if category.is_closed:
            markers[name] = draw(st.sampled_from(list(category.values)))
        elif category.type == "integer":
            markers[name] = draw(st.integers(-(10**6), 10**6))
        else:
            markers[name] = draw(st.floats(allow_nan=False, allow_infinity=False)) + 0.0
    return markers


@every_codec
@given(markers=paper_markers(), rest=st.lists(st.integers(0, 2000), max_size=5))
@settings(max_examples=40)
def test_parse_is_the_inverse(key, markers, rest):
    codec = CODECS[key]
    ids = block(codec, markers)
    parsed, consumed = codec.parse(list(ids) + rest)
    assert parsed == markers and list(parsed) == list(markers)
    assert consumed == len(ids)


@given(paper_markers())
def test_text_ids_decode_to_the_template(markers):
    for name, tokenizer in TOKENIZERS.items():
        ids = block(CODECS["text", name], markers)
        assert tokenizer.decode(ids) == TextTemplate().render(markers)


@st.composite
def any_values(draw):
    hard = st.text(st.sampled_from("<>&;/\n\r vlang0#1ह中ش\U0001f600"), min_size=1, max_size=8)
    anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    values = draw(st.lists(hard | anything, unique=True, min_size=1, max_size=5))
    return Taxonomy("any", {
        name: Category(name, "closed", "d", "metadata", "prompt", dict.fromkeys(values, "d"),
                       several=name == "va")
        for name in ("v", "va", "val")
    })  # fmt: skip


@given(any_values(), st.sampled_from(TEMPLATES), st.data())
@settings(max_examples=60)
def test_any_string_as_value(taxonomy, template, data):
    codec = MarkerCodec(taxonomy, template, Bytes())
    values = st.sampled_from(list(taxonomy.categories["v"].values))
    markers = {
        name: data.draw(st.lists(values, min_size=1) if name == "va" else values)
        for name in data.draw(st.permutations(["v", "va", "val"]))
    }
    markers["va"] = taxonomy.check("va", markers["va"])
    ids = block(codec, markers)
    assert codec.parse(np.array(ids)) == (markers, len(ids))


@every_codec
def test_pieces_are_tokenized_apart(key):
    codec = CODECS[key]
    template, name = key
    tokenizer = TOKENIZERS[name]
    marker = codec.marker("length_tokens", 1212)
    pieces = (
        codec.prefix("length_tokens"),
        codec.value("length_tokens", 1212),
        codec.suffix("length_tokens"),
    )
    assert marker == pieces[0] + pieces[1] + pieces[2]
    assert pieces[1] == tuple(codec.number_ids[character] for character in "1212")
    if template == "text":
        assert pieces[0] == tuple(tokenizer.encode("<length_tokens>"))
        assert pieces[2] == tuple(tokenizer.encode("</length_tokens>\n"))
        assert codec.value("lang", "Hindi") == tuple(tokenizer.encode("Hindi"))
        assert codec.n_reserved == 0
    elif template == "sentence":
        assert pieces[0] == tuple(tokenizer.encode("the length tokens is "))
        assert pieces[2] == tuple(tokenizer.encode(";\n"))
        assert codec.prefix("lang") == tuple(tokenizer.encode("the lang is"))
        assert codec.value("lang", "Hindi") == tuple(tokenizer.encode(" Hindi"))
        assert codec.n_reserved == 0
    else:
        assert pieces[2] == () and len(pieces[0]) == 1
        assert len(codec.value("lang", "Hindi")) == 1


def test_reserved_ids_are_in_the_order_of_their_names():
    codec = CODECS["compact", "bytes"]
    tokens = reserved_tokens(PAPER)
    assert codec.n_reserved == len(tokens)
    assert codec.open == (Bytes.size,) and codec.close == (Bytes.size + 1,)
    assert codec.prefix("lang") == (Bytes.size + tokens.index("<|lang|>"),)
    assert codec.value("lang", "Hindi") == (Bytes.size + tokens.index("<|lang=Hindi|>"),)
    quality = codec.value("quality_bucket", 1)
    assert quality == (Bytes.size + tokens.index("<|quality_bucket=1|>"),)


def test_values_are_canonical():
    codec = CODECS["text", "bytes"]
    assert codec.marker("length_tokens", "12") == codec.marker("length_tokens", 12.0)
    assert codec.parse(codec.open + codec.marker("quality", 3) + codec.close)[0] == {"quality": 3.0}


@every_codec
def test_unknown_markers(key):
    codec = CODECS[key]
    with pytest.raises(MarkerError, match="did you mean 'Hindi'"):
        codec.value("lang", "Hindii")
    for method in (codec.prefix, codec.suffix):
        with pytest.raises(MarkerError, match="did you mean 'lang'"):
            method("langs")
    with pytest.raises(MarkerError, match="not an integer"):
        codec.marker("length_tokens", 1.5)


@every_codec
def test_malformed_ids(key):
    codec = CODECS[key]
    good = block(codec, {"lang": "Hindi", "length_tokens": 12})
    lang, count = codec.marker("lang", "Hindi"), codec.marker("length_tokens", 12)
    for end in range(len(good)):
        with pytest.raises(MarkerError):
            codec.parse(good[:end])
    for ids in (
        good[1:],
        codec.open + codec.open + codec.close,
        codec.open + lang + lang + codec.close,
        codec.open + codec.prefix("lang") + codec.suffix("lang") + codec.close,
        codec.open + codec.prefix("length_tokens") + codec.suffix("length_tokens") + codec.close,
        codec.open + codec.prefix("lang") + codec.value("task", "Rewrite")
        + codec.suffix("lang") + codec.close,
        codec.open + codec.prefix("length_tokens")
        + tuple(codec.number_ids[character] for character in "1-.2")
        + codec.suffix("length_tokens") + codec.close,
        codec.open + count + (10**6,) + codec.close,
        codec.open + codec.prefix("lang") + (10**6,) + codec.suffix("lang") + codec.close,
        codec.open + codec.prefix("lang") + (-1,) + codec.suffix("lang") + codec.close,
    ):  # fmt: skip
        with pytest.raises(MarkerError):
            codec.parse(ids)


@every_codec
@given(data=st.data())
@settings(max_examples=60)
def test_parse_of_any_ids_fails_with_marker_error_only(key, data):
    codec = CODECS[key]
    piece = st.sampled_from([codec.open, codec.close, codec.prefix("lang"), codec.suffix("lang"),
                             codec.value("lang", "Hindi"), codec.marker("length_tokens", 3), (5,),
                             codec.prefix("quality"), codec.number_ids["1"]])  # fmt: skip
    ids = list(codec.open)
    for drawn in data.draw(st.lists(piece, max_size=6)):
        ids += drawn if isinstance(drawn, tuple) else [drawn]
    try:
        markers, consumed = codec.parse(ids)
    except MarkerError:
        return
    # Numbers may be spelt in several ways ('1' is 1.0), so the markers are compared, not the ids.
    again = block(codec, markers)
    assert codec.parse(again) == (markers, len(again)) and 0 < consumed <= len(ids)


def test_a_value_split_in_another_way_is_read():
    tokenizer = TOKENIZERS["pairs"]
    codec = CODECS["text", "pairs"]
    letters = tuple(tokenizer.ids[character] for character in "Hindi")
    assert letters != codec.value("lang", "Hindi")
    ids = codec.open + codec.prefix("lang") + letters + codec.suffix("lang") + codec.close
    assert codec.parse(ids) == ({"lang": "Hindi"}, len(ids))
    count = (tokenizer.ids["12"], tokenizer.ids["3"])
    ids = codec.open + codec.prefix("length_tokens") + count + codec.suffix("length_tokens")
    assert codec.parse(ids + codec.close)[0] == {"length_tokens": 123}


def closed(*values):
    fields = ("v", "closed", "d", "metadata", "prompt", dict.fromkeys(values, "d"))
    return Taxonomy("closed", {"v": Category(*fields)})


def several(*values):
    fields = ("v", "closed", "d", "metadata", "prompt", dict.fromkeys(values, "d"))
    return Taxonomy("several", {"v": Category(*fields, several=True)})


def test_several_values_repeat_the_tag_in_text_and_the_category_once_in_compact():
    taxonomy = several("a", "b", "c")
    text, compact = (MarkerCodec(taxonomy, name, Bytes()) for name in ("text", "compact"))
    assert text.marker("v", ["c", "a"]) == tuple(Bytes().encode("<v>a</v>\n<v>c</v>\n"))
    assert compact.n_reserved == 2 + 1 + 3
    category, a, _, c = range(Bytes.size + 2, Bytes.size + 6)
    assert compact.marker("v", ["c", "a"]) == (category, a, c)
    assert compact.marker("v", "a") == (category, a)
    for codec in (text, compact):
        for value in ("a", ["a", "c"]):
            pieces = codec.prefix("v") + codec.value("v", value) + codec.suffix("v")
            assert codec.marker("v", value) == pieces
        with pytest.raises(MarkerError, match="leave the marker out"):
            codec.marker("v", ())


@pytest.mark.parametrize("template", TEMPLATES)
def test_several_values_stand_together(template):
    codec = MarkerCodec(several("a", "b", "c"), template, Bytes())
    a, c = codec.marker("v", "a"), codec.marker("v", "c")
    between = codec.suffix("v") + codec.again("v")
    backwards = codec.prefix("v") + codec.value("v", "c") + between + codec.value("v", "a")
    ids = codec.open + backwards + codec.suffix("v") + codec.close
    assert codec.parse(ids) == ({"v": ("a", "c")}, len(ids))
    if template == "compact":
        with pytest.raises(MarkerError, match="category v stands twice"):
            codec.parse(codec.open + a + c + codec.close)
    whole = codec.open + codec.marker("v", ["a", "c"]) + codec.close
    for end in range(len(whole)):
        with pytest.raises(MarkerError):
            codec.parse(whole[:end])


def test_tokenizer_that_mixes_values_up_is_refused():
    with pytest.raises(MarkerError, match="cannot write v='.*reads back.*compact"):
        MarkerCodec(closed("中", "文"), "text", Unknowing())
    codec = MarkerCodec(closed("中", "文"), "compact", Unknowing())
    assert codec.value("v", "文") == (Unknowing.size + 4,)


def test_tokenizer_without_single_digits_is_refused():
    class Prefixed(Bytes):
        def encode(self, text):
            return [0, *super().encode(text)]

    class NoDigits(Bytes):
        def encode(self, text):
            return [2 if character.isdigit() else ord(character) + 3 for character in text]

    for template in TEMPLATES:
        with pytest.raises(MarkerError, match="one id for each digit"):
            MarkerCodec(PAPER, template, Prefixed())
        with pytest.raises(MarkerError, match="the same id"):
            MarkerCodec(PAPER, template, NoDigits())
        assert MarkerCodec(closed("a", "b"), template, NoDigits()).number_ids == {}


def test_unknown_template():
    with pytest.raises(MarkerError, match="did you mean 'compact'"):
        MarkerCodec(PAPER, "compakt", Bytes())


def test_codec_can_be_sent_to_a_worker():
    codec = pickle.loads(pickle.dumps(CODECS["text", "bytes"]))
    assert codec.marker("lang", "Hindi") == CODECS["text", "bytes"].marker("lang", "Hindi")
