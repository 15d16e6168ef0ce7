"""The rows that a config's tasks name: from files or from TensorFlow Datasets, and their hash."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.cache import is_remote
from marker_lm.data.chat import Chat, template_text
from marker_lm.data.example import Example, RowError
from marker_lm.data.parse import parse_row
from marker_lm.data.rejects import Rejects
from marker_lm.data.row_format import RowFormat
from marker_lm.data.seen import SeenIds
from marker_lm.data.sources import excerpt, find_files, read_examples, repeated_id
from marker_lm.data.tokenizers.base import Tokenizer, TokenizerError
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import TRAINERS
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy

SPLITS = ("train", "heldout")
# Keys of `data` that say how to read the caches or to write them, not what stands in them.
_NOT_IN_KEY = (
    "threads",
    "workers",
    "prepared",
    "temperature",
    "upsample",
    "least_share",
    "most_upsampling",
)


def examples(
    config: ConfigDict,
    task: str,
    split: str,
    taxonomy: Taxonomy,
    rejects: Rejects | None = None,
    chat: Chat | None = None,
) -> Iterator[Example]:
    """The checked rows of one task and split, cut to `data.share` of them by a hash of the id.

    They have the turns that `chat` writes, where one is given.
    """
    read = _tfds_examples if config.data.tasks[task].get("tfds") else _file_examples
    for example in read(config, task, split, taxonomy, rejects, chat):
        if in_share(example.id, config.data.share):
            yield example


def in_share(name: str, share: float) -> bool:
    """Whether the row of this id is in a share of all rows."""
    return hash_ids([name])[0] / 2**64 < share


def _file_examples(config, task, split, taxonomy, rejects, chat) -> Iterator[Example]:
    return read_examples(
        config.data.tasks[task][split],
        taxonomy,
        RowFormat.from_config(config.data.rows),
        rejects,
        config.data.max_line_bytes,
        chat,
    )


def _tfds_examples(config, task, split, taxonomy, rejects, chat) -> Iterator[Example]:
    """Rows of a TFDS split under the same rules as rows of files."""
    from marker_lm.data.tasks import tfds_rows

    row_format = RowFormat.from_config(config.data.rows)
    row_format.check(taxonomy)
    name, split_name = config.data.tasks[task].tfds, config.data.tasks[task][split]
    seen = SeenIds()
    counters = (None, None) if rejects is None else (rejects.left_out, rejects.untrusted)
    rows = tfds_rows(name, split_name, config.data.tfds_folder)
    for number, row in enumerate(rows, 1):
        line_id = f"{name}:{split_name}:{number}"
        try:
            example = parse_row(row, taxonomy, row_format, line_id, *counters, chat)
            if not seen.add(hash_ids([example.id]))[0]:
                raise repeated_id(example.id, row)
        except RowError as error:
            if rejects is None:
                raise RowError(f"{line_id}: {error}", error.kind) from None
            rejects.reject(f"{name}:{split_name}", number, str(error), error.kind, excerpt(row))
            continue
        if rejects is not None:
            rejects.accept()
        yield example


def data_key(
    config: ConfigDict,
    taxonomy: Taxonomy,
    files: dict | None = None,
    pretrained: Tokenizer | None = None,
) -> str:
    """16 hex digits: a hash of all that the caches depend on.

    That is the taxonomy, the template, the settings of the data, the tokenizer where one is named,
    the text of the chat template, and every byte of the files; a TFDS task counts by its name and
    split, so name its version.

    Args:
      files: facts of the files, from `file_facts`; found anew when None.
      pretrained: the tokenizer of the pretrained model, where the config asks for that.
    """
    data = config.data.to_dict()
    for key in _NOT_IN_KEY:
        data.pop(key)
    tokenizer = None
    if data["tokenizer"] not in TRAINERS:
        tokenizer = named_tokenizer(config, pretrained)
        data["tokenizer"] = tokenizer.hash
    if "chat" in data:
        data["chat"]["template"] = template_text(data["chat"]["template"], tokenizer)
    hashes = [
        [place, [[name, facts["hash"]] for name, facts in found.items()]]
        for place, found in (file_facts(config) if files is None else files).items()
    ]
    about = [taxonomy.hash, config.template, data, hashes]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def named_tokenizer(config: ConfigDict, pretrained: Tokenizer | None) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names, where it is not to be trained.

    Raises TokenizerError where it is the pretrained model's and there is no such model.
    """
    if config.data.tokenizer != "pretrained":
        return load_tokenizer(config.data.tokenizer)
    if pretrained is None:
        raise TokenizerError(
            "data.tokenizer='pretrained' is the tokenizer of the model that init_from names, and "
            "init_from is empty; set it, or name another tokenizer"
        )
    return pretrained


def file_facts(config: ConfigDict, folder: epath.PathLike | None = None) -> dict[str, Any]:
    """'task/split' -> {short name: {bytes, modified, hash}} of all files that tasks name.

    Args:
      folder: of caches prepared before. A file that has the size and time that stand in their
        manifest is not read again for its hash.
    """
    known = {}
    for split in SPLITS if folder is not None else ():
        path = epath.Path(folder) / split / "manifest.json"
        if path.exists():
            known |= _known_facts(path)
    facts: dict[str, Any] = {}
    for task, about in config.data.tasks.items():
        for split in SPLITS:
            if about[split] and not about.get("tfds"):
                place = f"{task}/{split}"
                before = known.get(place, {})
                found = find_files(about[split])
                facts[place] = {
                    name: _facts(path, before.get(name)) for name, path in found.items()
                }
    return facts


def _known_facts(manifest: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(manifest.read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        return {}  # what is damaged there is found when the cache is read


def _facts(path: epath.Path, before: dict[str, Any] | None) -> dict[str, Any]:
    # epath knows whole seconds only, in which a file may change twice.
    modified = path.stat().mtime if is_remote(path) else os.stat(path).st_mtime_ns
    facts = {"bytes": path.stat().length, "modified": modified}
    if before is not None and all(before.get(key) == value for key, value in facts.items()):
        return before
    return facts | {"hash": _hash_file(path, *facts.values())}


@functools.cache
def _hash_file(path: epath.Path, size: int, modified: int) -> str:
    """`size` and `modified` are there for the cache of this function only."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while data := file.read(1 << 22):
            digest.update(data)
    return digest.hexdigest()
