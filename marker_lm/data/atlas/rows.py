"""The rows of the Atlas: prompts, exact answers, markers; split by what training may see.

    splits = generate(n=60_000, seed=0)     # {'train': [row, ...], 'dev': ..., 'heldout': ..., ...}

A combination is a fact with the levers lang, format and length_bucket. One in 16 (by a hash) is
for the split 'dev' alone, which is there to choose settings by, and one in 16 for 'heldout' and
'unseen' alone, which reports are about. Rows of the (lang, format) pairs in UNSEEN are in 'unseen'
only.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Container, Mapping
from functools import cache
from random import Random
from typing import Any

from etils import epath

from marker_lm.data.atlas import facts, languages, prompts, render
from marker_lm.data.atlas.facts import Fact

LENGTHS = ("concise", "medium", "long")
EDGES = (4, 21)  # words: concise < 4 <= medium < 21 <= long
LENGTH_SHARES = (0.45, 0.47, 0.08)
FORMAT_SHARES: Mapping[str, float] = {
    "Plain": 0.25, "JSON": 0.17, "XML": 0.13, "Enumeration": 0.15, "Tabular": 0.15,
    "Markdown": 0.15,
}  # fmt: skip
OPEN = 0.4  # The chance that a prompt leaves a lever open, each by itself.
UNSEEN: frozenset[tuple[str, str]] = frozenset({
    ("Chinese", "JSON"), ("Hindi", "XML"), ("Spanish", "Tabular"), ("Arabic", "Markdown"),
    ("French", "Enumeration"), ("Russian", "JSON"), ("Indonesian", "XML"), ("German", "Tabular"),
    ("Japanese", "Enumeration"), ("Portuguese", "Markdown"), ("Thai", "JSON"),
    ("Polish", "Tabular"), ("Ukrainian", "Markdown"), ("Amharic", "Enumeration"),
})  # fmt: skip
# split -> its share of all rows, and the tail languages' share of the split.
HELD = {"dev": (1 / 40, 0.4), "heldout": (1 / 20, 0.4), "unseen": (1 / 60, 0.3)}


def bucket_of(content: facts.Content) -> str:
    count = count_words(content)
    return LENGTHS[sum(count >= edge for edge in EDGES)]


def count_words(content: facts.Content) -> int:
    """Words of the items; what a format adds is left out, so that length and format are apart."""
    return sum(len(languages.words(item)) for items in content for item in items)


def answer_key(fact: Fact, lang: str, format: str, length_bucket: str = "") -> str:
    """The exact completion of a fact for any combination of levers.

    length_bucket matters only where the fact has a length lever; elsewhere the length follows.
    """
    return render.FORMATS[format](facts.content(fact, lang, length_bucket), lang)


def markers_of(fact: Fact, lang: str, format: str, length_bucket: str = "") -> dict[str, Any]:
    """All markers of the row that a fact makes with these levers."""
    content = facts.content(fact, lang, length_bucket)
    text = render.FORMATS[format](content, lang)
    return {
        "lang": lang,
        "domain": facts.domain(fact),
        "task": facts.ASKS[fact["ask"]].task,
        "format": format,
        "length_bucket": bucket_of(content),
        "length_tokens": count_words(content),
        "length_sentences": sum(1 for line in text.split("\n") if line.strip()),
        "length_paragraphs": sum(1 for block in text.split("\n\n") if block.strip()),
        "source": "Synthetic",
    }


def combination(fact: Fact, lang: str, format: str, length_bucket: str) -> str:
    """The identity of a row but for the wording of its prompt."""
    return json.dumps([fact, lang, format, length_bucket], sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _part(combo: str) -> str:
    """Whether a combination is for 'train', 'dev' or 'heldout'."""
    return {0: "dev", 1: "heldout"}.get(int(_digest(combo), 16) % 16, "train")


@cache
def _lengths(fact_json: str) -> frozenset[str]:
    """The buckets that a fact without a length lever has over all languages."""
    fact = json.loads(fact_json)
    return frozenset(bucket_of(facts.content(fact, lang)) for lang in languages.LANGUAGES)


def _choose(rng: Random, weights: Mapping[str, float]) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _draw_fact(rng: Random, lang: str) -> Fact:
    name = _choose(rng, {name: ask.weight for name, ask in facts.ASKS.items()})
    fact = {"ask": name} | facts.ASKS[name].draw(rng)
    # A translation from a language into itself would be none.
    return fact if fact.get("source") != lang else _draw_fact(rng, lang)


def _row(rng: Random, fact: Fact, lang: str, format: str, bucket: str) -> dict[str, Any]:
    """The row of a combination, its prompt worded at random."""
    lever = facts.ASKS[fact["ask"]].lever
    said = {c: v for c, v in (("lang", lang), ("format", format)) if rng.random() >= OPEN}
    if lever and rng.random() >= OPEN:
        said["length_bucket"] = bucket
    fixed = {"domain", "task", *said}
    if fact["ask"] == "find":
        # The names to search in are in the answer's language: they say it, too.
        fixed.add("lang")
    if not lever and ("lang" in fixed or len(_lengths(json.dumps(fact))) == 1):
        fixed.add("length_bucket")
    opened = {"lang": languages.LANGUAGES, "format": render.FORMATS}
    opened |= {"length_bucket": LENGTHS} if lever else {}
    key = answer_key(fact, lang, format, bucket)
    prompt = prompts.prompt(fact, lang, said, rng)
    markers = markers_of(fact, lang, format, bucket)
    return {
        "id": f"atlas-{_digest(prompt + json.dumps(markers))}",
        "prompt": prompt,
        "completion": key,
        "markers": markers,
        "determined": sorted(fixed),
        "open": {c: list(values) for c, values in opened.items() if c not in fixed},
        "fact": fact,
        "key": key,
    }


def _counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """`total` shared out in whole rows, the largest remainders rounded up."""
    scale = total / sum(shares.values())
    counts = {name: int(share * scale) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * scale)
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _head_and_tail(total: int, tail_share: float, langs) -> dict[str, int]:
    """Rows by language, the tail languages with a share of their own."""
    shares, tail = languages.shares(), languages.tail_languages()
    of_tail = round(total * tail_share)
    return _counts(total - of_tail, {k: shares[k] for k in langs if k not in tail}) | _counts(
        of_tail, {k: shares[k] for k in langs if k in tail}
    )


def _draw(
    rng: Random,
    counts: Mapping[str, int],
    unseen: bool,
    part: str,
    unique: bool,
    trained: Container[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """counts[lang] rows of each language.

    unseen: of the pairs in UNSEEN or of the others; part: of these combinations, see _part;
    unique: a combination comes only once (else with other wording again); trained: prompts with
    answers that must not come, as some are the same in two languages.
    """
    rows, seen = [], set()
    for lang, count in counts.items():
        formats = {f: s for f, s in FORMAT_SHARES.items() if ((lang, f) in UNSEEN) == unseen}
        left = count
        for _ in range(1000 + 200 * count):
            if not left:
                break
            fact = _draw_fact(rng, lang)
            format = _choose(rng, formats)
            lever = facts.ASKS[fact["ask"]].lever
            bucket = rng.choices(LENGTHS, LENGTH_SHARES)[0] if lever else ""
            combo = combination(fact, lang, format, bucket)
            if _part(combo) != part or (unique and combo in seen):
                continue
            row = _row(rng, fact, lang, format, bucket)
            identity = combo if unique else row["id"]
            if identity not in seen and (row["prompt"], row["completion"]) not in trained:
                seen.add(identity)
                rows.append(row)
                left -= 1
        if left:
            raise ValueError(f"the Atlas has not {count} different rows in {lang}: lower n")
    rng.shuffle(rows)
    return rows


def generate(n: int = 60_000, seed: int = 0) -> dict[str, list[dict]]:
    """n rows in all: 'dev', 'heldout' and 'unseen' with their shares in HELD, the rest 'train'.

    A row: id, prompt, completion, markers; and for evaluation `determined` (categories that the
    prompt fixes), `open` (lever -> the values it leaves open), `fact` (see answer_key), `key`
    (the exact answer for the row's own markers). Train draws languages by languages.shares(); in
    the other splits the tail languages come more often.
    Raises ValueError when n is under 600 (languages would be left out).
    """
    if n < 600:
        raise ValueError(f"n is {n}: the Atlas needs 600 rows for every language to have some")
    sizes = {split: round(n * share) for split, (share, _) in HELD.items()}
    counts = _counts(n - sum(sizes.values()), languages.shares())
    train = _draw(Random(f"{seed} train"), counts, unseen=False, part="train", unique=False)
    trained = {(row["prompt"], row["completion"]) for row in train}
    splits = {"train": train}
    for split, (_, tail_share) in HELD.items():
        unseen = split == "unseen"
        some = {lang for lang, _ in UNSEEN} if unseen else languages.LANGUAGES
        langs = [lang for lang in languages.LANGUAGES if lang in some]
        part = "dev" if split == "dev" else "heldout"
        counts = _head_and_tail(sizes[split], tail_share, langs)
        splits[split] = _draw(Random(f"{seed} {split}"), counts, unseen, part, True, trained)
    return splits


def strata() -> dict[str, Any]:
    """Head and tail languages, and the rule that tells them apart, fixed before training."""
    tail = languages.tail_languages()
    return {
        "category": "lang",
        "rule": "tail: the half of the languages with fewer speakers, "
        "each under 5 % of the training rows and together under 5 %",
        "head": [lang for lang in languages.speakers() if lang not in tail],
        "tail": list(tail),
    }


def summary(splits: Mapping[str, list[dict]]) -> dict[str, Any]:
    """Rows by split, and shares of the training rows by language, domain, task, format, length."""
    train = splits["train"]
    found: dict[str, Any] = {"rows": {name: len(rows) for name, rows in splits.items()}}
    for category in ("lang", "domain", "task", "format", "length_bucket"):
        counts = Counter(row["markers"][category] for row in train)
        found[category] = {value: c / len(train) for value, c in counts.most_common()}
    found["tail_share"] = sum(found["lang"].get(k, 0) for k in languages.tail_languages())
    found["strata"] = strata()
    return found


def write(folder: epath.PathLike, n: int = 60_000, seed: int = 0) -> dict[str, Any]:
    """Writes each split as SPLIT.jsonl into a folder; returns summary()."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = generate(n, seed)
    for name, rows in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return summary(splits)
