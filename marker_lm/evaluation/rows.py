"""Any held-out rows as a benchmark: the taxonomy and the training rows say what is tail."""

from collections import Counter

from ml_collections import ConfigDict

from marker_lm.data.prepare import examples
from marker_lm.data.setup import SetupError
from marker_lm.data.sources import Rejects
from marker_lm.evaluation.atlas import got_format
from marker_lm.evaluation.atlas_checks import FORMATS
from marker_lm.evaluation.benchmark import Benchmark, Item, choose_items
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy

LEVER_SHARE = 0.01  # a value under this share of the training rows is not asked for


def rows_benchmark(config: ConfigDict) -> Benchmark:
    """The held-out rows of a config's tasks.

    The only lever that a program can check on any text without a language identifier is the format,
    so that is what control is measured on, where the taxonomy has one and it has one value.

    Raises:
      SetupError: the config names no held-out rows, or a tail category that the taxonomy lacks or
        that allows several values: a row would be of several strata.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    category = config.eval.tail_category
    if category not in taxonomy.categories:
        raise SetupError(f"eval.tail_category={category!r} is not in taxonomy '{taxonomy.name}'.")
    if taxonomy.categories[category].several:
        single = [c for c in taxonomy.categories.values() if c.is_closed and not c.several]
        raise SetupError(
            f"eval.tail_category={category!r} allows several values, which tell no single stratum;"
            f" choose one of {', '.join(c.name for c in single)}."
        )
    counts = _training_counts(config, taxonomy)
    shares = _shares(counts[category])
    tail = [v for v, share in shares.items() if share < config.eval.tail_share]
    formats = [f for f, s in _shares(counts["format"]).items() if s >= LEVER_SHARE and f in FORMATS]
    items = [
        Item(e.id, e.prompt, e.completion, e.markers, open={"format": formats} if formats else {})
        for task in config.data.tasks
        if config.data.tasks[task].heldout
        for e in _read(config, task, "heldout", taxonomy)
    ]
    if not items:
        raise SetupError("no task names held-out files; set data.tasks.<name>.heldout.")
    known_tail = set(tail)
    chosen = choose_items(
        items,
        lambda i: "tail" if i.markers.get(category) in known_tail else "head",
        config.eval.rows,
        tail_share=sum(shares[v] for v in tail),
    )
    return Benchmark(
        chosen,
        {
            "rule": f"tail: values of {category} under {100 * config.eval.tail_share:g} % of the "
            "training rows, counted before training",
            "category": category,
            "head": [v for v in shares if v not in known_tail],
            "tail": tail,
            "train_share": shares,
        },
        {"format": got_format} if formats else {},
        notes=(
            "These rows have one reference answer each and no key for other levers: exact match is "
            "a low bound, and only the format of an answer is checked by a program.",
        ),
    )


def _training_counts(config: ConfigDict, taxonomy: Taxonomy) -> dict[str, Counter]:
    counts = {c: Counter() for c in (*taxonomy.categories, "format")}
    for task in (name for name, files in config.data.tasks.items() if files.train):
        for example in _read(config, task, "train", taxonomy):
            for category, value in example.markers.items():
                counts[category][value] += 1
    return counts


def _read(config: ConfigDict, task: str, split: str, taxonomy: Taxonomy):
    with Rejects(None, max_share=config.data.max_reject_share) as rejects:
        yield from examples(config, task, split, taxonomy, rejects)


def _shares(counts: Counter) -> dict[str, float]:
    return {value: n / counts.total() for value, n in counts.most_common()}
