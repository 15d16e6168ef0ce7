"""Rows to caches: reads and checks files, trains a tokenizer if asked, tokenizes through SeqIO."""

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.cache import CacheError, is_remote, read_manifest
from marker_lm.data.cache_writer import ROWS_PER_SHARD, CacheWriter
from marker_lm.data.chat import load_chat
from marker_lm.data.example import Example
from marker_lm.data.inputs import SPLITS, data_key, examples, file_facts, named_tokenizer
from marker_lm.data.rejects import Rejects
from marker_lm.data.setup import SetupError
from marker_lm.data.shards import ShardJob, ShardRows, blocks, write_shards
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import TRAINERS
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy
from marker_lm.markers.template import TextTemplate


def prepare(
    config: ConfigDict,
    folder: epath.PathLike,
    log: Callable[[str], None] = print,
    beam: Sequence[str] | None = None,
    pretrained: Tokenizer | None = None,
) -> dict:
    """Writes `folder/{tokenizer,train,heldout}`, or finds that they are there already.

    Work that was broken off goes on where it stopped, and ends with the same bytes.

    Args:
      config: its `taxonomy`, `template` and `data` sections say what to do.
      folder: local or gs://.
      log: takes lines for people.
      beam: options of an Apache Beam runner that does the work; None does it here.
      pretrained: the tokenizer of the pretrained model, for data.tokenizer='pretrained'.

    Returns:
      split -> manifest of its cache.
    """
    folder = epath.Path(folder)
    taxonomy = load_taxonomy(config.taxonomy)
    splits = [s for s in SPLITS if any(task[s] for task in config.data.tasks.values())]
    if "train" not in splits:
        raise SetupError("no task names training files; set data.tasks.<name>.train.")
    files = file_facts(config, folder)
    key = data_key(config, taxonomy, files, pretrained)

    found = {s: _prepared(folder / s, key) for s in splits}
    if not all(found.values()):
        with _alone(folder, log):  # another process may have prepared it while this one waited
            if not all(_prepared(folder / s, key) for s in splits):
                tokenizer = make_tokenizer(config, taxonomy, folder, log, key, pretrained)
                return _prepare_splits(
                    config, folder, splits, taxonomy, tokenizer, files, key, log, beam
                )
        found = {s: read_manifest(folder / s) for s in splits}
    log(f"{folder} is prepared already for this config.")
    return found


def _prepared(folder: epath.Path, key: str) -> dict | None:
    """The manifest of a cache that was prepared for this key; None where there is none such."""
    try:
        manifest = read_manifest(folder)
    except CacheError:  # none, of an older version, or damaged: it is prepared again
        return None
    return manifest if manifest.get("key") == key else None


def _prepare_splits(config, folder, splits, taxonomy, tokenizer, files, key, log, beam) -> dict:
    chat = load_chat(config.data.get("chat", {}), tokenizer)
    facts = {
        "key": key,
        "taxonomy": taxonomy.to_dict(),
        "taxonomy_hash": taxonomy.hash,
        "template": config.template,
        "tokenizer_hash": tokenizer.hash,
        "files": files,
    }
    if chat is not None:
        facts["chat"] = chat.about()
    return {
        s: _prepare_split(config, folder, s, taxonomy, tokenizer, chat, facts, log, beam)
        for s in splits
    }


@contextlib.contextmanager
def _alone(folder: epath.Path, log: Callable[[str], None]) -> Iterator[None]:
    """Inside, no other process of this machine prepares the same folder; the lock dies with us."""
    if is_remote(folder):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(os.fspath(folder / ".lock"), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"another process is preparing {folder}; waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_tokenizer(
    config: ConfigDict,
    taxonomy: Taxonomy,
    folder: epath.Path,
    log: Callable,
    key: str = "",
    pretrained: Tokenizer | None = None,
) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names, trained on the training rows if it says so.

    One that was trained for the same `key` before is taken from `folder`.
    """
    made_for = folder / "tokenizer" / "key"
    if config.data.tokenizer not in TRAINERS:
        tokenizer = named_tokenizer(config, pretrained)
    elif key and made_for.exists() and made_for.read_text() == key:
        return load_tokenizer(folder / "tokenizer")
    else:
        train = TRAINERS[config.data.tokenizer]
        log(f"training a vocabulary of {config.data.vocab_size} tokens ({train.__name__}) ...")
        texts = tokenizer_texts(config, taxonomy, folder / "rejects.train.jsonl")
        tokenizer = train(texts, config.data.vocab_size, max_texts=200_000)
    # One of another kind would stay beside the new one.
    (folder / "tokenizer").rmtree(missing_ok=True)
    tokenizer.save(folder / "tokenizer")
    made_for.write_text(key)
    return tokenizer


def tokenizer_texts(config: ConfigDict, taxonomy, rejects_path) -> Iterator[str]:
    """All texts that the model will meet, the marker lists too where they are text.

    With `data.vocab_balance` a under 1, rows of a value of `data.vocab_balance_by` that has n rows,
    the most frequent one N, come (n / N) ** (a - 1) times: else rare languages get hardly a piece
    of their own (Conneau and Lample 2019, section 3.1).
    """
    by, balance = config.data.vocab_balance_by, config.data.vocab_balance
    counts: Counter = Counter()
    if balance < 1:
        rows = _train_examples(config, taxonomy, rejects_path)
        counts.update(example.markers.get(by) for example in rows)
    for example in _train_examples(config, taxonomy, rejects_path):
        share = counts[example.markers.get(by)] / max(counts.values()) if counts else 1.0
        for _ in range(round(share ** (balance - 1))):
            yield from [m["content"] for m in example.messages] or [
                example.prompt,
                example.completion,
            ]
            if config.template == "text":
                yield TextTemplate().render(example.markers)


def _train_examples(config: ConfigDict, taxonomy, rejects_path) -> Iterator[Example]:
    for task in (name for name, files in config.data.tasks.items() if files.train):
        with Rejects(rejects_path, max_share=config.data.max_reject_share) as rejects:
            yield from examples(config, task, "train", taxonomy, rejects)


def _prepare_split(config, folder, split, taxonomy, tokenizer, chat, facts, log, beam) -> dict:
    before = _prepared(folder / split, facts["key"])
    if before is not None and before["tokenizer_hash"] == tokenizer.hash:
        return before
    path = folder / f"rejects.{split}.jsonl"
    names = [name for name, task in config.data.tasks.items() if task[split]]
    rejects = Rejects(path, max_share=config.data.max_reject_share)
    writer = CacheWriter(
        os.fspath(folder / split), f"{facts['key']}-{tokenizer.hash}", tuple(taxonomy.categories)
    )
    job = ShardJob(writer, taxonomy, config.template, tokenizer, chat)
    with rejects:  # its end may refuse the rows: before the cache gets its name
        if beam is None:
            shards, counts = _write_here(config, names, split, taxonomy, rejects, job, log)
        else:
            from marker_lm.data.beam import write_shards_with_beam

            shards, counts = write_shards_with_beam(
                job, config, split, rejects, ROWS_PER_SHARD, beam
            )
    rates = _mixture_rates(config, names, job)
    tasks = [{"name": name, "rows": counts[name], "rate": rates[name]} for name in names]
    # Rows are met in another order by a Beam job; equal counts stand in the order of their names.
    for name in ("kinds", "left_out", "untrusted"):
        setattr(rejects, name, Counter(dict(sorted(getattr(rejects, name).items()))))
    manifest = writer.finish(shards, {**facts, "tasks": tasks, "rejects": rejects.summary()})
    report_split(manifest, split, folder, log)
    return manifest


def _write_here(config, names, split, taxonomy, rejects, job, log) -> tuple[int, dict[str, int]]:
    """Writes all shards of a split by processes of this machine: their count, rows of each task."""
    counts = dict.fromkeys(names, 0)

    def found() -> Iterator[ShardRows]:
        first = 0
        for name in names:
            rows = examples(config, name, split, taxonomy, rejects, job.chat)
            for block in blocks(name, rows, first):
                first = block.number + 1
                counts[name] += len(block.examples)
                yield block

    return write_shards(job, found(), config.data.workers, log, split), counts


def _mixture_rates(config: ConfigDict, names: list[str], job: ShardJob) -> dict[str, float]:
    """The rate of each task in the SeqIO mixture of this split, which is registered by this."""
    from marker_lm.data.tasks import build_mixture

    for name in names:
        job.register(name)
    mixture = build_mixture("mixture", [(name, config.data.tasks[name].rate) for name in names])
    return {task.name: mixture.get_rate(task) for task in mixture.tasks}


def report_split(manifest: dict, split: str, folder: epath.Path, log: Callable) -> None:
    """Says what was written and what was left out."""
    bad = manifest["rejects"]
    tokens = sum(manifest["tokens"].values())
    log(f"{split}: {manifest['rows']} rows, {tokens} tokens in {folder / split}")
    if "chat" in manifest:
        about = manifest["chat"]
        log(f"{split}: {about['conversations']} conversations with {manifest['rows']} answers")
        if about["tokenized_apart"]:
            log(
                f"{split}: {about['tokenized_apart']} conversations have other tokens than their "
                "text as one piece would have: answers are tokenized apart from what is around them"
            )
    if bad["rejected"]:
        kinds = ", ".join(f"{kind}: {n}" for kind, n in bad["kinds"].items())
        log(
            f"{split}: {bad['rejected']} of {bad['rows']} rows rejected ({kinds}), "
            f"see {folder / f'rejects.{split}.jsonl'}"
        )
    if changed := manifest["changed"]["rows"]:
        log(
            f"{split}: the tokenizer does not give the texts of {changed} rows back as they were "
            f"(such as {', '.join(manifest['changed']['first'])}); they are trained on as changed"
        )
    for category, n in bad["left_out"].items():
        log(f"{split}: {n} values of {category} are not in the taxonomy and were left out")
    for category, n in bad["untrusted"].items():
        log(f"{split}: {n} values of {category} are not sure enough (data.rows.trust), left out")


def check_cache(manifest: dict, taxonomy: Taxonomy, tokenizer: Tokenizer, template: str) -> None:
    """Raises CacheError when a cache was written under another taxonomy, tokenizer or template."""
    for name in ("taxonomy", "taxonomy_hash", "tokenizer_hash", "template"):
        if name not in manifest:
            raise CacheError(f"the manifest of the cache has no {name}; prepare it again.")
    if manifest["taxonomy_hash"] != taxonomy.hash:
        changes = Taxonomy.from_dict(manifest["taxonomy"]).diff(taxonomy)
        raise CacheError(
            "the cache was written under another taxonomy (" + "; ".join(changes) + "); "
            "prepare it again."
        )
    for name, have, want in (
        ("tokenizer", manifest["tokenizer_hash"], tokenizer.hash),
        ("template", manifest["template"], template),
    ):
        if have != want:
            raise CacheError(f"the cache has {name} {have}, the config {want}; prepare it again.")
