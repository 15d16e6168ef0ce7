"""Rows to caches: reads and checks files, trains a tokenizer if asked, tokenizes through SeqIO."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator

from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.cache import CacheError, is_cache, read_manifest, write_cache
from marker_lm.data.example import Example, RowFormat
from marker_lm.data.setup import SetupError
from marker_lm.data.sources import Rejects, find_files, read_examples
from marker_lm.data.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy
from marker_lm.markers.template import TextTemplate

SPLITS = ("train", "heldout")


def prepare(config: ConfigDict, folder: epath.PathLike, log: Callable[[str], None] = print) -> dict:
    """Writes `folder/{tokenizer,train,heldout}`, or finds that they are there already.

    Args:
      config: its `taxonomy`, `template` and `data` sections say what to do.
      folder: local or gs://.
      log: takes lines for people.

    Returns:
      split -> manifest of its cache.
    """
    folder = epath.Path(folder)
    taxonomy = load_taxonomy(config.taxonomy)
    key = data_key(config, taxonomy)
    splits = [s for s in SPLITS if any(task[s] for task in config.data.tasks.values())]
    if "train" not in splits:
        raise SetupError("no task names training files; set data.tasks.<name>.train.")
    if all(is_cache(folder / s) and read_manifest(folder / s)["key"] == key for s in splits):
        log(f"{folder} is prepared already for this config.")
        return {s: read_manifest(folder / s) for s in splits}
    tokenizer = make_tokenizer(config, taxonomy, folder, log)
    codec = MarkerCodec(taxonomy, config.template, tokenizer)
    return {
        s: _prepare_split(config, folder, s, taxonomy, codec, tokenizer, key, log) for s in splits
    }


def data_key(config: ConfigDict, taxonomy: Taxonomy) -> str:
    """Hash of all that the caches depend on: taxonomy, template, data settings, files and sizes."""
    files = {
        f"{name}/{split}": {str(p): p.stat().length for p in find_files(task[split]).values()}
        for name, task in config.data.tasks.items()
        for split in SPLITS
        if task[split]
    }
    data = config.data.to_dict()
    for key in ("threads", "prepared"):
        data.pop(key)
    about = [taxonomy.hash, config.template, data, files]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def examples(
    config: ConfigDict, task: str, split: str, taxonomy, rejects=None
) -> Iterator[Example]:
    """The checked rows of one task and split, cut to `data.share` of them by a hash of the id."""
    read = read_examples(
        config.data.tasks[task][split],
        taxonomy,
        RowFormat.from_config(config.data.rows),
        rejects,
        config.data.max_line_bytes,
    )
    for example in read:
        if hash_ids([example.id])[0] / 2**64 < config.data.share:
            yield example


def make_tokenizer(config: ConfigDict, taxonomy, folder: epath.Path, log) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names, trained on the training rows for 'train'."""
    if config.data.tokenizer == "train":
        log(f"training a SentencePiece vocabulary of {config.data.vocab_size} pieces ...")
        texts = tokenizer_texts(config, taxonomy, folder / "rejects.train.jsonl")
        tokenizer = train_sentencepiece(texts, config.data.vocab_size, max_texts=200_000)
    else:
        tokenizer = load_tokenizer(config.data.tokenizer)
    # One of another kind would stay beside the new one.
    (folder / "tokenizer").rmtree(missing_ok=True)
    tokenizer.save(folder / "tokenizer")
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
            yield example.prompt
            yield example.completion
            if config.template == "text":
                yield TextTemplate().render(example.markers)


def _train_examples(config: ConfigDict, taxonomy, rejects_path) -> Iterator[Example]:
    for task in (name for name, files in config.data.tasks.items() if files.train):
        with Rejects(rejects_path, max_share=config.data.max_reject_share) as rejects:
            yield from examples(config, task, "train", taxonomy, rejects)


def _prepare_split(config, folder, split, taxonomy, codec, tokenizer, key, log) -> dict:
    """Writes one cache: the rows of all tasks one after the other, tokenized by SeqIO Tasks."""
    # TensorFlow and SeqIO take seconds to import and are needed here only.
    from marker_lm.data.tasks import build_mixture, build_task, spans

    rejects_path = folder / f"rejects.{split}.jsonl"
    counts: dict[str, int] = {}
    names = [name for name, task in config.data.tasks.items() if task[split]]
    rejects = Rejects(rejects_path, max_share=config.data.max_reject_share)
    for name in names:
        build_task(
            name,
            lambda split, name=name: examples(config, name, split, taxonomy, rejects),
            codec,
            tokenizer,
            splits=(split,),
        )
    mixture = build_mixture("mixture", [(n, config.data.tasks[n].rate) for n in names])

    def rows():
        with rejects:  # its end may refuse the rows: before the cache gets its name
            for name in names:
                counts[name] = 0
                for one in spans(name, split):
                    counts[name] += 1
                    yield one

    def finish():
        rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
        tasks = [{"name": n, "rows": counts[n], "rate": rates[n]} for n in names]
        return {"tasks": tasks, "rejects": rejects.summary()}

    manifest = write_cache(
        rows(),
        folder / split,
        {
            "key": key,
            "taxonomy": taxonomy.to_dict(),
            "taxonomy_hash": taxonomy.hash,
            "template": config.template,
            "tokenizer_hash": tokenizer.hash,
            "categories": list(taxonomy.categories),
        },
        finish=finish,
        overwrite=True,
    )
    bad = manifest["rejects"]
    tokens = sum(manifest["tokens"].values())
    log(f"{split}: {manifest['rows']} rows, {tokens} tokens in {folder / split}")
    if bad["rejected"] or bad["left_out"]:
        kinds = ", ".join(f"{kind}: {n}" for kind, n in bad["kinds"].items())
        log(
            f"{split}: {bad['rejected']} of {bad['rows']} rows rejected ({kinds}), "
            f"see {rejects_path}"
        )
        for category, n in bad["left_out"].items():
            log(f"{split}: {n} values of {category} are not in the taxonomy and were left out")
    for category, n in bad["untrusted"].items():
        log(f"{split}: {n} values of {category} are not sure enough (data.rows.trust), left out")
    return manifest


def check_cache(manifest: dict, taxonomy: Taxonomy, tokenizer: Tokenizer, template: str) -> None:
    """Raises CacheError when a cache was written under another taxonomy, tokenizer or template."""
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
