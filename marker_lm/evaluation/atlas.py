"""The Atlas as a benchmark: every answer has an exact key, every lever a program that checks it."""

import json
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from marker_lm.data.atlas import rows as atlas_rows
from marker_lm.evaluation import atlas_checks
from marker_lm.evaluation.benchmark import Bar, Benchmark, Item, choose_items

BARS = (
    Bar("control", "lang", "pinned", 0.95),
    Bar("control", "format", "pinned", 0.95),
    Bar("control", "length_bucket", "pinned", 0.90),
    Bar("control", "lang + format", "pinned, pair never seen in training", 0.80),
    Bar("inference", "lang", "prompt determines it", 0.90),
    Bar("inference", "task", "prompt determines it", 0.90),
    Bar("inference", "format", "prompt determines it", 0.90),
)


def atlas_benchmark(
    folder: epath.PathLike, most: int, splits: Sequence[str] = ("heldout", "unseen")
) -> Benchmark:
    """The benchmark over the rows that `data.atlas.rows.write` left in `folder`.

    Args:
      folder: with train.jsonl and a file of each split.
      most: items a split and stratum.
      splits: the items' own; 'dev' has rows that settings may be chosen on.
    """
    folder = epath.Path(folder)
    items = [item for split in splits for item in _items(folder, split)]
    strata = atlas_rows.strata()
    counts: dict[str, int] = {}
    for row in _rows(folder, "train"):
        lang = row["markers"]["lang"]
        counts[lang] = counts.get(lang, 0) + 1
    strata["train_share"] = {k: n / sum(counts.values()) for k, n in counts.items()}
    tail = set(strata["tail"])
    chosen = choose_items(
        items,
        lambda item: "tail" if item.markers["lang"] in tail else "head",
        most,
        tail_share=sum(share for k, share in strata["train_share"].items() if k in tail),
    )
    return Benchmark(
        chosen,
        strata,
        {"lang": got_language, "format": got_format, "length_bucket": got_length},
        BARS,
        key=lambda item, levers: atlas_rows.answer_key(item.fact, **levers),
        avoid=is_unseen,
        notes=(
            "Language is told by a program from CLDR's words: the language whose words cover most "
            "letters of the answer, ties (such as 'Angola') in favour of the asked one; answers "
            "without letters are left out of the language figures.",
            "Length counts words (UAX 29) without markup, in training and in the check alike.",
            "Figures over all rows are over a part that has head and tail languages in the shares "
            "of the training rows; the tail's own figures are over a denser sample of it.",
            "The demo's settings were chosen on rows of the split 'dev', none of which is counted "
            "here.",
        ),
    )


def _items(folder: epath.Path, split: str) -> list[Item]:
    return [
        Item(
            row["id"],
            row["prompt"],
            row["key"],
            row["markers"],
            frozenset(row["determined"]),
            row["open"],
            row["fact"],
            split,
        )
        for row in _rows(folder, split)
    ]


def _rows(folder: epath.Path, split: str) -> Iterator[dict]:
    path = folder / f"{split}.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; `marker-lm demo` writes the Atlas.")
    # Not splitlines: texts may hold other line separators, which JSON leaves as they are.
    return map(json.loads, path.read_text().rstrip("\n").split("\n"))


def is_unseen(levers: Mapping[str, str]) -> bool:
    """Whether training never had this language in this format."""
    return (levers.get("lang"), levers.get("format")) in atlas_rows.UNSEEN


def got_format(text: str, asked: Mapping[str, str]) -> str:
    """The format whose parser accepts the answer, 'invalid' when none does."""
    formats = (asked.get("format"), *atlas_checks.FORMATS)
    return next((f for f in formats if f and atlas_checks.check_format(text, f)), "invalid")


def got_language(text: str, asked: Mapping[str, str]) -> str | None:
    """The language of an answer's words, markup left out; None without letters."""
    return atlas_checks.got_language(text, got_format(text, asked), asked.get("lang"))


def got_length(text: str, asked: Mapping[str, str]) -> str:
    """The length bucket of an answer's words, markup left out."""
    return atlas_checks.length_bucket(text, got_format(text, asked))
