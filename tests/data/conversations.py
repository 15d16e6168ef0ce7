"""Conversations for tests, and training batches of them without TensorFlow."""

import dataclasses

import hypothesis.strategies as st
import numpy as np

from marker_lm.data.batch_view import Reader
from marker_lm.data.cache import Cache
from marker_lm.data.chat import mark_conversations
from marker_lm.data.parse import parse_row
from marker_lm.data.setup import make_setup, train_batches
from marker_lm.data.spans import Spans, value_number
from marker_lm.markers.codec import MarkerCodec
from tests.cache_files import write_cache
from tests.tiny import tiny_config, tiny_taxonomy

PLAIN = (  # of a tokenizer without special tokens but eos
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\\n' }}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt }}"
)


def talk(*texts, **markers):
    """Messages of user and assistant in turns; the markers are of the last answer."""
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    if markers:
        said[-1]["markers"] = markers
    return said


def spans_of(example, codec, tokenizer):
    """The rows of a cache that the SeqIO task makes of an example, without TensorFlow."""

    def ids(values):
        return np.asarray(values, np.int32)

    rows = [
        Spans(
            example.id if len(example.turns) == 1 else f"{example.id}#{number}",
            ids(tokenizer.encode(turn.prompt)),
            ids(tokenizer.encode(turn.completion)),
            {c: ids(codec.marker(c, value)) for c, value in turn.markers.items()},
            {
                c: value_number(codec.taxonomy.categories[c], value)
                for c, value in turn.markers.items()
                if codec.taxonomy.categories[c].is_closed
            },
        )
        for number, turn in enumerate(example.turns, 1)
    ]
    return rows


@dataclasses.dataclass
class Made:
    batches: object
    reader: Reader
    examples: list
    spans: list  # of each example


def make(folder, rows, chat, tokenizer, arm="baseline", system="", rows_per_shard=16, **train):
    """Batches of rows, and what they are made of."""
    taxonomy = tiny_taxonomy(folder)
    config = tiny_config(folder, arm, **train).unlock()
    config.data.chat.update(template=chat.template, system=chat.system)
    codec = MarkerCodec(taxonomy, config.template, tokenizer)
    examples = [parse_row(row, taxonomy, {}, f"row:{i}", chat=chat) for i, row in enumerate(rows)]
    spans = [spans_of(example, codec, tokenizer) for example in examples]
    flat = [one for some in spans for one in some]
    mark_conversations(chat, tokenizer, [example.turns for example in examples], flat)
    tasks = [{"name": "rows", "rows": len(rows), "rate": 1.0}]
    manifest = {"categories": list(taxonomy.categories), "tasks": tasks}
    write_cache(flat, folder / "cache", manifest, rows_per_shard=rows_per_shard)
    setup = make_setup(config, taxonomy, tokenizer)
    batches = train_batches(config, setup, Cache(folder / "cache"), slice(None))
    return Made(batches, Reader(setup.layout, codec, tokenizer), examples, spans)


TALK = talk("Hi there", "Hello!", "Say yes", "yes\nno")
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
WORDS = TEXTS.filter(lambda text: text.strip() and "<eos>" not in text)
TALKS = st.integers(1, 4).flatmap(lambda n: st.lists(WORDS, min_size=2 * n, max_size=2 * n))
