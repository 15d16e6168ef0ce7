"""SeqIO tasks and mixtures: examples in, token spans out.

SeqIO is the registry and the place where text becomes ids; nothing here is random and nothing is
cut. Its shuffling, trimming, caching and packing are not used: the cache and the packing plan do
that work, exactly and restartably. A conversation gives one row for each of its turns.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from marker_lm.data.chat import ChatError, Turn
from marker_lm.data.example import Example
from marker_lm.data.sources import SourceError
from marker_lm.data.spans import ABSENT, Spans, value_number
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.data.vocabularies import (
    CategoriesVocabulary,
    TokenizerVocabulary,
    flatten,
    ragged,
)

# The codec of markers.codec; named in comments only, so that any object with `taxonomy`,
# `template`, `n_reserved` and `marker(category, value)` will do.
MarkerCodec = Any

_BATCH = 256
_RAW = ("id", "prompt", "completion", "markers")
# TensorFlow turns an error of our Python into a page of its own; `spans` raises the first one.
_errors: list[Exception] = []


def build_task(
    name: str,
    examples_fn: Callable[[str], Iterable[Example]],
    codec: MarkerCodec,
    tokenizer: Tokenizer,
    splits: Sequence[str] = ("train",),
    num_input_examples: dict[str, int] | None = None,
) -> seqio.Task:
    """Registers a seqio.Task, in place of one of the same name, and returns it.

    Args:
      name: letters, digits and `_.:#`.
      examples_fn: split -> its examples; called at every pass.
    Features of the task's dataset, all without eos:
      id: string scalar; prompt, completion: int32[length];
      markers: int32[length], the spans of all markers one after the other, in taxonomy order;
      marker_lengths: int32[C], tokens of each category of the taxonomy, 0 = absent;
      marker_values: int32[C], number of the value in its closed category, ABSENT = none; of
        several values the first.
    """
    categories = tuple(codec.taxonomy.categories)
    text = TokenizerVocabulary(tokenizer, codec.n_reserved)
    columns = CategoriesVocabulary(categories, codec.taxonomy.hash, codec.template)
    feature = functools.partial(seqio.Feature, add_eos=False, dtype=tf.int32)
    seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            functools.partial(_dataset, examples_fn), splits, num_input_examples
        ),
        preprocessors=[functools.partial(tokenize, codec=codec)],
        output_features={
            "id": seqio.Feature(
                seqio.PassThroughVocabulary(0), add_eos=False, dtype=tf.string, rank=0
            ),
            "prompt": feature(text),
            "completion": feature(text),
            "markers": feature(text),
            "marker_lengths": feature(columns),
            "marker_values": feature(columns),
        },
    )


def build_mixture(name: str, rates: Sequence[tuple[str, float]]) -> seqio.Mixture:
    """Registers a seqio.Mixture of (task name, rate), in place of one of the same name.

    Rows come in exact proportion to the rates, in an order that has nothing random.
    """
    seqio.MixtureRegistry.remove(name)
    return seqio.MixtureRegistry.add(name, list(rates), sample_fn=_interleave)


def spans(task_or_mixture: str, split: str = "train", rows: int | None = None) -> Iterable[Spans]:
    """The token spans of a registered task or mixture: in order, unshuffled, uncut.

    They can be gone through again; the source is read at each pass.
    A task gives each of its rows once. A mixture gives rows in proportion to its rates: until its
    first task has run out, or, with `rows`, that many, going through tasks again as needed. A row
    whose id came before (seen again, or of another task) gets '#2', '#3', ... at its id.
    """
    provider = seqio.get_mixture_or_task(task_or_mixture)
    dataset = provider.get_dataset(
        sequence_length=None,
        split=split,
        shuffle=False,
        num_epochs=1 if rows is None else None,
        try_in_mem_cache=False,
    )
    return _Passes(
        dataset.ragged_batch(_BATCH),
        provider.output_features["marker_lengths"].vocabulary.categories,
        isinstance(provider, seqio.Mixture),
        rows,
    )


@dataclasses.dataclass(frozen=True)
class _Passes:
    batches: tf.data.Dataset
    categories: Sequence[str]
    is_mixture: bool
    rows: int | None

    def __iter__(self) -> Iterator[Spans]:
        found = _rows(self.batches, self.categories)
        return itertools.islice(_unique_ids(found) if self.is_mixture else found, self.rows)


def _rows(batches: tf.data.Dataset, categories: Sequence[str]) -> Iterator[Spans]:
    """Rows of ragged batches: to get every row from TensorFlow by itself would be slow."""
    _errors.clear()
    try:
        for batch in batches:
            yield from _split(batch, categories)
    except tf.errors.OpError as error:
        raise (_errors[0] if _errors else error) from None


def _split(batch: Mapping[str, Any], categories: Sequence[str]) -> Iterator[Spans]:
    prompts, completions, lists = (
        np.split(batch[key].values.numpy(), batch[key].row_splits[1:-1].numpy())
        for key in ("prompt", "completion", "markers")
    )
    lengths_BxC = batch["marker_lengths"].numpy()
    values_BxC = batch["marker_values"].numpy().tolist()
    ends_BxC = np.cumsum(lengths_BxC, axis=1)
    for b, name in enumerate(batch["id"].numpy()):
        markers = {
            categories[c]: lists[b][ends_BxC[b, c] - lengths_BxC[b, c] : ends_BxC[b, c]]
            for c in np.flatnonzero(lengths_BxC[b])
        }
        values = {categories[c]: v for c, v in enumerate(values_BxC[b]) if v != ABSENT}
        yield Spans(name.decode("utf-8"), prompts[b], completions[b], markers, values)


@contextlib.contextmanager
def _remember_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _errors.append(error)
        raise


def _unique_ids(found: Iterable[Spans]) -> Iterator[Spans]:
    counts: Counter[str] = Counter()
    for one in found:
        counts[one.id] += 1
        if counts[one.id] > 1:
            one.id = f"{one.id}#{counts[one.id]}"
        yield one


def _dataset(
    examples_fn: Callable[[str], Iterable[Example]],
    split: str,
    shuffle_files: bool,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Rows of strings; markers as a JSON object. Read in batches: a call a row would be slow."""
    if shuffle_files:
        raise ValueError("these tasks are read in order; the packing plan does the shuffling")

    def batches() -> Iterator[dict[str, np.ndarray]]:
        with _remember_errors():
            rows = (row for example in examples_fn(split) for row in _rows_of(example))
            while batch := list(itertools.islice(rows, _BATCH)):
                yield {
                    "id": _strings(name for name, _ in batch),
                    "prompt": _strings(one.prompt for _, one in batch),
                    "completion": _strings(one.completion for _, one in batch),
                    "markers": _strings(json.dumps(one.markers) for _, one in batch),
                }

    signature = {key: tf.TensorSpec([None], tf.string) for key in _RAW}
    return tf.data.Dataset.from_generator(batches, output_signature=signature).unbatch()


def _rows_of(example: Example) -> list[tuple[str, Example | Turn]]:
    """The rows of a cache that an example becomes, with their ids: one, or one a turn."""
    if not example.turns:
        if example.messages:
            raise ChatError(
                f"the row '{example.id}' has messages, but data.chat.template is ''; name a "
                "template: 'model', or the path of a Jinja file"
            )
        return [(example.id, example)]
    if len(example.turns) == 1:
        return [(example.id, example.turns[0])]
    return [(f"{example.id}#{number}", turn) for number, turn in enumerate(example.turns, 1)]


def _strings(texts: Iterable[str]) -> np.ndarray:
    return np.asarray([text.encode("utf-8") for text in texts], object)


def tokenize(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    codec: MarkerCodec,
) -> tf.data.Dataset:
    """SeqIO preprocessor: text to ids with the vocabularies of the features, markers to spans.

    Works on batches of rows, because a call of Python for each row would be slow.
    """
    columns = output_features["marker_lengths"].vocabulary.categories
    taxonomy = codec.taxonomy

    @functools.lru_cache(1 << 16)
    def marker(category: str, value: Any) -> tuple[tuple[int, ...], int]:
        """Ids of a marker, and the number of its value."""
        number = value_number(taxonomy.categories[category], value)
        return codec.marker(category, value), number

    @_remember_errors()
    def encode_markers(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rows = [json.loads(text) for text in texts]
        found = [
            [marker(c, _hashable(row[c])) if c in row else ((), ABSENT) for c in columns]
            for row in rows
        ]
        sizes = [[len(span) for span, _ in row] for row in found]
        values = [[value for _, value in row] for row in found]
        flat, lengths = flatten([[i for span, _ in row for i in span] for row in found])
        shape = len(rows), len(columns)
        return (
            flat,
            lengths,
            np.asarray(sizes, np.int32).reshape(shape),
            np.asarray(values, np.int32).reshape(shape),
        )

    def encode(rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        flat, lengths, sizes, values = tf.numpy_function(
            encode_markers, [rows["markers"]], (tf.int32, tf.int64, tf.int32, tf.int32)
        )
        return {
            "id": rows["id"],
            "prompt": output_features["prompt"].vocabulary.encode_tf(rows["prompt"]),
            "completion": output_features["completion"].vocabulary.encode_tf(rows["completion"]),
            "markers": ragged(flat, lengths),
            "marker_lengths": tf.ensure_shape(sizes, [None, len(columns)]),
            "marker_values": tf.ensure_shape(values, [None, len(columns)]),
        }

    # The last map changes no row, only the declared type: a row of a ragged batch is a tensor.
    return dataset.batch(_BATCH).map(encode).unbatch().map(dict)


def _hashable(value: Any) -> Any:
    """A marker's value from JSON; several values of one category are a list there."""
    return tuple(value) if isinstance(value, list) else value


def _interleave(
    datasets: Sequence[tf.data.Dataset], rates: Sequence[float], seed: int | None
) -> tf.data.Dataset:
    """SeqIO sample_fn: rows in exact proportion to the rates, evenly spread, nothing random.

    The j-th row of task i comes at the time (j + 1/2) / rate_i. Ends when a task runs out.
    """
    share = np.asarray(rates, np.float64) / np.sum(rates)

    def choices() -> Iterator[np.ndarray]:
        done = np.zeros(len(share), np.int64)
        for window in itertools.count(1):
            upto = np.floor(share * window * 4096 + 0.5).astype(np.int64)
            task = np.repeat(np.arange(len(share)), upto - done)
            j = np.concatenate([np.arange(a, b) for a, b in zip(done, upto, strict=True)])
            yield task[np.argsort((j + 0.5) / share[task], kind="stable")]
            done = upto

    order = tf.data.Dataset.from_generator(
        choices, output_signature=tf.TensorSpec([None], tf.int64)
    ).unbatch()
    return tf.data.Dataset.choose_from_datasets(datasets, order, stop_on_empty_dataset=True)


def tfds_rows(name: str, split: str, folder: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a TensorFlow Datasets split as plain Python, in the order in which they lie.

    Args:
      name: 'dataset', 'dataset/config' or 'dataset/config:version', which TFDS downloads and
        prepares where it is not there yet; or the folder of a prepared version.
      split: as TFDS writes it: 'train', 'train[:10%]'.
      folder: where TFDS keeps its datasets; its own default when empty.

    Raises:
      SourceError: TFDS knows no such dataset or split.
    """
    import tensorflow_datasets as tfds  # seconds, and most runs have no such task

    try:
        if epath.Path(name).is_dir():
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, data_dir=folder or None)
            builder.download_and_prepare()
        one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=one_by_one)
    except (ValueError, AssertionError, ImportError, tfds.core.DatasetNotFoundError) as error:
        said = " ".join(str(error).split())[:200]
        raise SourceError(f"TFDS gives no split '{split}' of '{name}': {said}") from None
    for row in tfds.as_numpy(dataset):
        yield {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """A value of TFDS as JSON would have it; text that is not UTF-8 stays bytes."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value
