"""Rows of marker tokens begin as the mean of the words of their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.category import Category
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.definitions import marker_rows
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy
from marker_lm.markers.template import reserved_tokens
from marker_lm.model.marker_rows import init_marker_rows

TABLE_VxD = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
ROWS = [(8, (0, 1, 1)), (11, (7,)), (9, (2, 8))]


def by_hand(table_VxD, rows):
    expected_VxD = table_VxD.copy()
    for id, words in rows:
        expected_VxD[id] = table_VxD[list(words)].mean(axis=0)
    return expected_VxD


def test_rows_are_means_and_all_others_stay():
    found_VxD = init_marker_rows(jnp.asarray(TABLE_VxD), ROWS)
    np.testing.assert_allclose(found_VxD, by_hand(TABLE_VxD, ROWS), atol=1e-6)
    stay = [v for v in range(12) if v not in (8, 9, 11)]
    assert (np.asarray(found_VxD)[stay] == TABLE_VxD[stay]).all()


def test_dtype_stays_and_means_are_exact_to_it():
    table_VxD = jnp.asarray(TABLE_VxD, jnp.bfloat16)
    found_VxD = init_marker_rows(table_VxD, ROWS)
    assert found_VxD.dtype == jnp.bfloat16
    exact_VxD = by_hand(np.asarray(table_VxD, np.float32), ROWS)
    np.testing.assert_array_equal(
        np.asarray(found_VxD, np.float32), np.asarray(exact_VxD.astype(jnp.bfloat16), np.float32)
    )


@pytest.mark.parametrize("spec", [("x", None), (None, "x")])
def test_sharded_tables_under_jit_keep_their_sharding(spec):
    devices = jax.devices()
    size = 4 if len(devices) >= 4 else 1
    sharding = NamedSharding(Mesh(np.array(devices[:size]), ("x",)), PartitionSpec(*spec))
    table_VxD = jax.device_put(TABLE_VxD, sharding)
    init = jax.jit(lambda table_VxD: init_marker_rows(table_VxD, ROWS), out_shardings=sharding)
    found_VxD = init(table_VxD)
    assert found_VxD.sharding == sharding
    np.testing.assert_allclose(found_VxD, by_hand(TABLE_VxD, ROWS), atol=1e-6)


def test_what_cannot_be():
    assert init_marker_rows(TABLE_VxD, []) is TABLE_VxD
    with pytest.raises(ValueError, match="has 12 rows and a marker needs row 12"):
        init_marker_rows(TABLE_VxD, [(12, (1,))])
    with pytest.raises(ValueError, match="row 3 has no words"):
        init_marker_rows(TABLE_VxD, [(2, (1,)), (3, ())])


@pytest.mark.parametrize("name", ["paper", "atlas"])
def test_every_reserved_token_has_the_words_of_its_definition(name):
    taxonomy, tokenizer = load_taxonomy(name), ByteTokenizer()
    codec = MarkerCodec(taxonomy, "compact", tokenizer)
    rows = marker_rows(taxonomy, codec, tokenizer)
    names = reserved_tokens(taxonomy)
    assert [id for id, _ in rows] == list(range(259, 259 + len(names)))
    words = {token: tokenizer.decode(ids) for token, (_, ids) in zip(names, rows, strict=True)}
    for category in taxonomy.categories.values():
        assert _words(words[f"<|{category.name}|>"]) == _words(category.definition)
        for value, definition in category.values.items():
            assert codec.value(category.name, value)[-1] in dict(rows)
            found = _words(words[f"<|{category.name}={value}|>"])
            assert found == (_words(definition) or _words(value))
    assert words[names[0]] != words[names[1]]
    assert marker_rows(taxonomy, MarkerCodec(taxonomy, "text", tokenizer), tokenizer) == []


def _words(text):
    """Independent of how words are cut: letters and digits only."""
    return "".join(character for character in text if character.isalnum())


def test_a_value_without_a_definition_has_its_name():
    category = Category("kind", "closed", "The kind.", "metadata", "prompt", {"Long Text": "..."})
    taxonomy, tokenizer = Taxonomy("small", {"kind": category}), ByteTokenizer()
    rows = marker_rows(taxonomy, MarkerCodec(taxonomy, "compact", tokenizer), tokenizer)
    assert [tokenizer.decode(ids) for _, ids in rows[2:]] == [" The kind", " Long Text"]
