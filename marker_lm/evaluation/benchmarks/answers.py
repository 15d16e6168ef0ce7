"""Answers: exact match and ROUGE-L against one reference or several."""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex

from marker_lm.evaluation.benchmarks.base import (
    Answer,
    Benchmark,
    Item,
    Row,
    prompt_of,
    references_of,
    text_of,
)

_TOKEN = regex.compile(r"[\p{L}\p{N}].*?\b", regex.WORD | regex.V1 | regex.DOTALL)


@dataclasses.dataclass(frozen=True)
class Answers(Benchmark):
    """Answers against references, the best of which counts.

    A row has a prompt or instruction, and one or several references.

    `exact`: equal after Unicode's form NFC, case and white space. `ROUGE_L`: the F-measure of the
    longest common subsequence of tokens (Lin 2004), by the package rouge-score, 0 to 1.

    by: field whose values are lines of their own, such as 'language'; '' for none
    tokens: 'words' (UAX 29, in any script) or 'rouge-score' (the package's own, which knows the
      letters a to z alone: published English figures are of it)
    stem: of tokens 'rouge-score': whether English words are stemmed
    """

    by: str = ""
    tokens: str = "words"
    stem: bool = False

    name = "answers"
    percent = ("exact", "ROUGE_L")

    def __post_init__(self):
        if self.tokens not in ("words", "rouge-score"):
            raise ValueError(f"answers: tokens is {self.tokens!r}; it is 'words' or 'rouge-score'")
        if self.stem and self.tokens == "words":
            raise ValueError("answers: stem is for tokens='rouge-score' alone; set that too")

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        value = row.get(self.by) if self.by else None
        values = value if isinstance(value, list) else [] if value is None else [value]
        groups = [f"{self.by}={one}" for one in values]
        yield Item(id, prompt_of(row), {"references": references_of(row)}, groups=groups)

    @functools.cached_property
    def _rouge(self):
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise ValueError(
                "answers: ROUGE-L needs rouge-score; pip install 'marker-lm[eval]'"
            ) from None
        own = _Words() if self.tokens == "words" else None
        return RougeScorer(["rougeL"], use_stemmer=self.stem, tokenizer=own)

    def score_one(self, item: Item, answer: Answer) -> dict[str, float]:
        text, references = text_of(answer), item.facts["references"]
        rouge = self._rouge.score_multi(references, text)["rougeL"]
        exact = plain(text) in {plain(reference) for reference in references}
        return {"exact": float(exact), "ROUGE_L": rouge.fmeasure}

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        yield f"ROUGE-L is of tokens '{self.tokens}'{', stemmed' if self.stem else ''}."


class _Words:
    """A tokenizer for rouge-score: words of UAX 29 in any script."""

    def tokenize(self, text: str) -> list[str]:
        return [match.group() for match in _TOKEN.finditer(plain(text))]


def plain(text: str) -> str:
    """A text with case and white space that make no difference."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
