"""Any held-out rows as a benchmark: the taxonomy and the training rows say what is tail."""

import dataclasses
from collections import Counter
from typing import Any

from ml_collections import ConfigDict

from marker_lm.annotate.long_tail import head_and_tail, shares
from marker_lm.annotate.strata import load_strata, rule_text
from marker_lm.annotate.tally import values_of
from marker_lm.data.example import Example
from marker_lm.data.inputs import examples
from marker_lm.data.rejects import Rejects
from marker_lm.data.setup import SetupError
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
      StrataError: `eval.strata` names no file of frozen strata for this taxonomy.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    frozen = config.eval.strata
    strata = load_strata(frozen, taxonomy) if frozen else _count_strata(config, taxonomy)
    category, tail = strata["category"], frozenset(strata["tail"])
    train_shares = strata["train_shares"]
    formats = [
        f
        for f, share in train_shares.get("format", {}).items()
        if share >= LEVER_SHARE and f in FORMATS and not taxonomy.categories["format"].several
    ]
    opened = {"format": formats} if formats else {}
    items = [dataclasses.replace(i, open=opened) for i in heldout_items(config, taxonomy)]
    chosen = choose_items(
        items,
        lambda i: "tail" if i.markers.get(category) in tail else "head",
        config.eval.rows,
        tail_share=sum(train_shares[category].get(v, 0.0) for v in tail),
    )
    return Benchmark(
        chosen,
        {
            **{key: strata[key] for key in ("rule", "category", "head", "tail")},
            "train_share": train_shares[category],
        },
        {"format": got_format} if formats else {},
        notes=(
            "These rows have one reference answer each and no key for other levers: exact match is "
            "a low bound, and only the format of an answer is checked by a program.",
        ),
    )


def heldout_items(config: ConfigDict, taxonomy: Taxonomy) -> list[Item]:
    """Every held-out row of a config's tasks, or the share of them that eval.share says.

    Raises SetupError: there is none, or one that is a conversation.
    """
    config = ConfigDict(config.to_dict())
    config.data.share = config.eval.share or config.data.share
    items = [
        Item(e.id, e.prompt, e.completion, e.markers)
        for task in config.data.tasks
        if config.data.tasks[task].heldout
        for e in map(_one_question, _read(config, task, "heldout", taxonomy))
    ]
    if not items:
        raise SetupError("no task names held-out files; set data.tasks.<name>.heldout.")
    return items


def _one_question(example: Example) -> Example:
    """The example, or SetupError where its answer depends on more than its prompt."""
    if len(example.messages) > 2:
        raise SetupError(
            f"the held-out row '{example.id}' is a conversation of {len(example.messages)} "
            "messages; evaluation takes one question and its answer a row."
        )
    return example


def _count_strata(config: ConfigDict, taxonomy: Taxonomy) -> dict[str, Any]:
    """Strata in the form of a frozen file, from the training rows."""
    category = config.eval.tail_category
    if category not in taxonomy.categories:
        raise SetupError(f"eval.tail_category={category!r} is not in taxonomy '{taxonomy.name}'.")
    if taxonomy.categories[category].several:
        single = [c for c in taxonomy.categories.values() if c.is_closed and not c.several]
        raise SetupError(
            f"eval.tail_category={category!r} allows several values, which tell no single stratum;"
            f" choose one of {', '.join(c.name for c in single)}."
        )
    counts: dict[str, Counter] = {c: Counter() for c in taxonomy.categories}
    for task in (name for name, files in config.data.tasks.items() if files.train):
        for example in _read(config, task, "train", taxonomy):
            for name, value in example.markers.items():
                counts[name].update(values_of(value))
    head, tail = head_and_tail(counts[category], config.eval.tail_share)
    return {
        "rule": rule_text(category, config.eval.tail_share),
        "category": category,
        "head": head,
        "tail": tail,
        "train_shares": {name: shares(values) for name, values in counts.items()},
    }


def _read(config: ConfigDict, task: str, split: str, taxonomy: Taxonomy):
    with Rejects(None, max_share=config.data.max_reject_share) as rejects:
        yield from examples(config, task, split, taxonomy, rejects)
