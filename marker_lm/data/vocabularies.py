"""SeqIO vocabularies over our tokenizers."""

from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from marker_lm.data.tokenizers.base import Tokenizer


class TokenizerVocabulary(seqio.Vocabulary):
    """Any Tokenizer as a seqio.Vocabulary, with `reserved` marker ids above the tokenizer's own.

    Nothing is special about id 0, and decoding is not cut anywhere: every id below the
    tokenizer's size is handed to it, every reserved id counts as unknown.
    """

    def __init__(self, tokenizer: Tokenizer, reserved: int = 0):
        super().__init__(extra_ids=reserved)
        self.tokenizer = tokenizer

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def unk_id(self) -> int:
        return self.tokenizer.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.size

    def _encode(self, s: str) -> Sequence[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids)

    def decode(self, ids: Iterable[int]) -> str:
        size = self.tokenizer.size
        return self._decode([i if i < size else self.unk_id for i in map(int, ids)])

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return self._decode_tf(tf.where(ids < self._base_vocab_size, ids, self.unk_id))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """A string scalar -> int32[length]; strings [B] -> ragged int32[B, (length)]."""
        flat, lengths = tf.numpy_function(
            self._encode_numpy, [tf.reshape(s, [-1])], (tf.int32, tf.int64)
        )
        return tf.ensure_shape(flat, [None]) if s.shape.rank == 0 else ragged(flat, lengths)

    def _encode_numpy(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return flatten(self.tokenizer.encode_batch([text.decode("utf-8") for text in texts]))

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """int32[length] -> a string scalar; int32[B, length] -> strings [B]."""

        def decode(array: np.ndarray) -> np.ndarray:
            rows = array.reshape(-1, array.shape[-1])
            texts = [self.tokenizer.decode(row.tolist()).encode("utf-8") for row in rows]
            return np.asarray(texts, object).reshape(array.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string)
        text.set_shape(ids.shape[:-1])
        return text

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenizerVocabulary)
            and self.tokenizer.hash == other.tokenizer.hash
            and self.extra_ids == other.extra_ids
        )

    def __hash__(self) -> int:
        return hash((self.tokenizer.hash, self.extra_ids))


class CategoriesVocabulary(seqio.PassThroughVocabulary):
    """Of the feature `marker_lengths`: names its columns and the taxonomy and template behind it.

    SeqIO refuses a mixture of tasks whose vocabularies differ, hence also of tasks whose markers
    do not mean the same.
    """

    def __init__(self, categories: Sequence[str], taxonomy_hash: str, template: str):
        super().__init__(size=0)
        self.categories = tuple(categories)
        self.taxonomy_hash = taxonomy_hash
        self.template = template

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CategoriesVocabulary)
            and self.categories == other.categories
            and self.taxonomy_hash == other.taxonomy_hash
            and self.template == other.template
        )

    def __hash__(self) -> int:
        return hash((self.categories, self.taxonomy_hash, self.template))

    def __str__(self) -> str:
        return f"CategoriesVocabulary(taxonomy={self.taxonomy_hash}, template={self.template})"


def flatten(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as (int32 ids one after the other, int64 lengths)."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = np.fromiter((i for row in rows for i in row), np.int32, int(lengths.sum()))
    return flat, lengths


def ragged(flat: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """The reverse of `flatten`, for results of tf.numpy_function, whose shapes are unknown."""
    flat, lengths = tf.ensure_shape(flat, [None]), tf.ensure_shape(lengths, [None])
    return tf.RaggedTensor.from_row_lengths(flat, lengths, validate=False)
