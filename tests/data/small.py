"""A small taxonomy, rows and files for the tests of this folder."""

import gzip
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from marker_lm.markers.taxonomy import Category, Taxonomy

ROWS = [
    {"id": "a", "prompt": "Say hi.", "completion": "hi", "markers": {"lang": "en", "words": 1}},
    {"id": "b", "prompt": "Sag hallo.", "completion": "hallo", "markers": {"lang": "de"}},
    {"id": "c", "prompt": "x\n\ty  ", "completion": " ▁東京\n", "markers": {}, "answer": [1, 2]},
    {"id": "d", "prompt": "Count.", "completion": "1 2", "markers": {"words": 2, "task": "List"}},
]


def category(name, kind, *values):
    definitions = {value: f"is {value}" for value in values}
    return Category(name, kind, f"the {name}", "metadata", "completion", definitions)


def taxonomy():
    made = [
        category("lang", "closed", "en", "de", "ja"),
        category("task", "closed", "List", "Answer"),
        category("words", "integer"),
    ]
    return Taxonomy("small", {one.name: one for one in made})


class Codec:
    """What a task needs of a marker codec, with nothing else behind it."""

    template = "text"
    n_reserved = 0

    def __init__(self, tokenizer):
        self.taxonomy = taxonomy()
        self.encode = tokenizer.encode

    def marker(self, name, value):
        pieces = f"<{name}>", str(value), f"</{name}>\n"
        return tuple(i for piece in pieces for i in self.encode(piece))


def write_rows(path, rows):
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def shared_data():
    """The development data, or a skip where there is none."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MARKER_LM_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}; set MARKER_LM_DATA to its folder")
    return folder


def mix_texts(count: int) -> Iterator[str]:
    """Prompt and completion of the first `count` rows of both training files of the mix."""
    for name in ("train-ni", "train-other"):
        with gzip.open(shared_data() / "mix" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, islice(file, count)):
                yield f"{row['instruction']}\n\n{row['input'] or ''}"
                yield row["output"]
