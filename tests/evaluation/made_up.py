"""Small made-up items and answers, so that tables can be worked out by hand."""

from marker_lm.evaluation.benchmark import Bar, Benchmark, Item
from marker_lm.evaluation.predict import Answer

LANGS = ("de", "en", "fi")


def item(id, lang, format="Plain", key="k", split="heldout", determined=("lang",), open=None):
    markers = {"lang": lang, "format": format, "words": 3}
    fixed = None if determined is None else frozenset(determined)
    return Item(id, f"prompt {id}", key, markers, fixed, open or {}, None, split)


def answer(text, **markers):
    return Answer(text, markers, dict.fromkeys(markers, 0.5), True)


def benchmark(items, **more) -> Benchmark:
    """Answers look like 'de/Plain/key': checks read the first two parts, '?' can't be told."""

    def part(n):
        def check(text, asked):
            found = text.strip().split("/")[n]
            return None if found == "?" else found

        return check

    strata = {"rule": "fi", "category": "lang", "head": ["de", "en"], "tail": ["fi"]}
    bars = (
        Bar("control", "lang", "pinned", 0.9),
        Bar("inference", "lang", "prompt determines it", 0.8),
    )
    return Benchmark(items, strata, {"lang": part(0), "format": part(1)}, bars, **more)
