"""A tiny run for the tests: taxonomy, rows, spans and a config that trains in seconds."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import default
from marker_lm.data.cache import Cache
from marker_lm.data.parse import parse_row
from marker_lm.data.spans import Spans, value_number
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy
from marker_lm.markers.template import reserved_tokens
from tests.cache_files import write_cache

TAXONOMY = """\
name: tiny
categories:
  words:
    type: integer
    definition: Words of the completion.
    origin: computed
    describes: completion
    unit: words
  size:
    type: bucket
    definition: Size class of the completion.
    origin: computed
    describes: completion
    of: words
    edges: [3]
    values:
      short: One or two words.
      long: Three words or more.
  lang:
    type: closed
    definition: The language.
    origin: metadata
    describes: completion
    values:
      en: English
      de: German
      ja: Japanese
  task:
    type: closed
    several: true
    definition: What is asked for.
    origin: classified
    describes: prompt
    values:
      Repeat: The same word again and again.
      Answer: Anything else.
"""
WORDS = {"en": ("yes", "no"), "de": ("ja", "nein"), "ja": ("はい", "いいえ")}


def make_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows with prompts that differ; not every row has every marker, some have two tasks."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        lang = ("en", "de", "ja")[random.choice(3, p=(0.6, 0.3, 0.1))]
        word = WORDS[lang][random.integers(2)]
        n = int(random.integers(1, 13))
        tasks = ["Repeat", "Answer"] if i % 4 == 0 else "Repeat"
        markers = {"lang": lang, "task": tasks, "words": n}
        for category in random.choice(("lang", "task", "words"), random.integers(2), False):
            del markers[category]
        rows.append(
            {
                "id": f"row-{seed}-{i}",
                "prompt": f"{i}: say {word} {n} times",
                "completion": " ".join([word] * n),
                "markers": markers,
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def write_data(folder: Path, train: int = 160, heldout: int = 24) -> Path:
    """`folder/{taxonomy.yaml,train.jsonl,heldout.jsonl}`."""
    write_rows(folder / "train.jsonl", make_rows(train))
    write_rows(folder / "heldout.jsonl", make_rows(heldout, seed=1))
    (folder / "taxonomy.yaml").write_text(TAXONOMY, encoding="utf-8")
    return folder


def tiny_config(folder: Path | str, arm: str = "markers", **train) -> ConfigDict:
    """A config for the files of `write_data`; keywords go to its `train` section."""
    folder = Path(folder)
    c = default.get_config(arm).unlock()
    c.taxonomy = str(folder / "taxonomy.yaml")
    c.template = "compact"
    task = {"train": "train.jsonl", "heldout": "heldout.jsonl"}
    files = {split: str(folder / name) for split, name in task.items()}
    c.data.tasks = {"rows": files | {"rate": 1.0}}
    c.data.update(tokenizer="bytes", separator="\n", prepared=str(folder / "prepared"))
    c.model.update(width=16, layers=2, heads=4, kv_heads=2, head_size=4, ff=32, dtype="float32")
    c.train.update(length=128, batch=4, epochs=2, learning_rate=1e-2, final_learning_rate=1e-3)
    c.train.update(warmup_steps=2, loss_blocks=2, log_every=1, eval_every=0, save_every=5)
    c.train.update(**train)
    return c.lock()


def tiny_taxonomy(folder: Path) -> Taxonomy:
    path = folder / "taxonomy.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TAXONOMY, encoding="utf-8")
    return load_taxonomy(str(path))


def make_spans(row: dict, codec: MarkerCodec) -> Spans:
    """The spans of a row, with the byte tokenizer."""
    example = parse_row(row, codec.taxonomy)

    def ids(values):
        return np.asarray(values, np.int32)

    return Spans(
        example.id,
        ids(ByteTokenizer().encode(example.prompt)),
        ids(ByteTokenizer().encode(example.completion)),
        {c: ids(codec.marker(c, value)) for c, value in example.markers.items()},
        {
            c: value_number(codec.taxonomy.categories[c], value)
            for c, value in example.markers.items()
            if codec.taxonomy.categories[c].is_closed
        },
    )


def make_cache(folder: Path, rows: list[dict], codec: MarkerCodec) -> Cache:
    """A cache of rows as one task, without TensorFlow."""
    tasks = [{"name": "rows", "rows": len(rows), "rate": 1.0}]
    manifest = {"categories": list(codec.taxonomy.categories), "tasks": tasks}
    write_cache((make_spans(row, codec) for row in rows), folder, manifest)
    return Cache(folder)


def show(ids, taxonomy: Taxonomy) -> str:
    """Ids of the byte tokenizer and reserved ones as text for people; eos is '[eos]'."""
    names = reserved_tokens(taxonomy)
    size, parts, run = ByteTokenizer.size, [], []
    for i in [*map(int, ids), None]:
        if i is not None and 3 <= i < size:
            run.append(i)
            continue
        parts.append(ByteTokenizer().decode(run))
        run = []
        if i is not None:
            parts.append("[eos]" if i == ByteTokenizer.eos_id else names[i - size])
    return "".join(parts)
