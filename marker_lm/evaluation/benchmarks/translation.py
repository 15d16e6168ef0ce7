"""Translation: chrF and BLEU by sacrebleu, COMET where it is installed."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marker_lm.data.example import RowError
from marker_lm.evaluation.benchmarks.base import (
    ALL,
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Scores,
    Skip,
    by_group,
    prompt_of,
    references_of,
    text_of,
)
from marker_lm.evaluation.statistics import Interval, mean_interval

# sacrebleu's tokenizer for BLEU, where words are not written with spaces; 13a for all others.
_TOKENIZERS = {
    "zh": "zh",
    "zho": "zh",
    "chinese": "zh",
    **dict.fromkeys(("ja", "jpn", "japanese", "th", "tha", "thai", "lo", "lao"), "char"),
    **dict.fromkeys(("km", "khm", "khmer", "my", "mya", "burmese"), "char"),
}


@dataclasses.dataclass(frozen=True)
class Translation(Benchmark):
    """Translations against one reference or several.

    A row has a prompt or instruction, one or several references, `target_language` (or `language`)
    and, for COMET, the `source` text (or `input`).

    `BLEU` and `chrF` are sacrebleu's of the whole corpus (Post 2018, arXiv 1804.08771; Popovic
    2015), for each language; over all languages they are means over languages, since tokenizers
    differ. BLEU has the tokenizer zh for Chinese, char for Japanese, Thai, Lao, Khmer and Burmese
    and 13a for the rest. `chrF_sentence` is the mean over sentences, which has an interval.

    comet: name or path of a COMET checkpoint, such as Unbabel/XCOMET-XL; '' for none
    comet_batch: rows that COMET scores together
    gpus: for COMET
    """

    comet: str = ""
    comet_batch: int = 8
    gpus: int = 0

    name = "translation"

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        language = row.get("target_language") or row.get("language")
        if not isinstance(language, str):
            raise RowError("the row has no 'target_language' or 'language'", "missing field")
        source = row.get("source_text") or row.get("input") or row.get("source")
        if self.comet and not isinstance(source, str):
            raise RowError(
                "the row has no text 'source_text' or 'input', which COMET needs", "text"
            )
        facts = {"references": references_of(row), "language": language, "source": source}
        yield Item(id, prompt_of(row), facts, groups=(language,))

    @functools.cached_property
    def _sacrebleu(self):
        try:
            import sacrebleu
        except ImportError:
            raise ValueError(
                "translation: chrF and BLEU need sacrebleu; pip install 'marker-lm[eval]'"
            ) from None
        return sacrebleu

    def score_one(self, item: Item, answer: Answer) -> dict[str, Any]:
        text, references = text_of(answer).strip(), item.facts["references"]
        return {
            "hypothesis": text,
            "chrF_sentence": self._sacrebleu.sentence_chrf(text, references).score,
        }

    def score(self, pairs: Sequence[tuple[Item, Answer]]) -> list[Scores | Skip]:
        found = super().score(pairs)
        at = [i for i, one in enumerate(found) if not isinstance(one, Skip)]
        if self.comet and at:
            for i, value in zip(at, self._comet([pairs[i] for i in at]), strict=True):
                found[i] = found[i] | {"COMET": value}
        return found

    def _comet(self, pairs: Sequence[tuple[Item, Answer]]) -> list[float]:
        """COMET of each pair; the mean over its references."""
        try:
            import comet
        except ImportError:
            raise ValueError(
                "translation: comet is set, but COMET is not installed; pip install unbabel-comet"
            ) from None
        path = self.comet if self.comet.endswith(".ckpt") else comet.download_model(self.comet)
        model = comet.load_from_checkpoint(path)
        data = [
            {"src": item.facts["source"], "mt": text_of(answer).strip(), "ref": reference}
            for item, answer in pairs
            for reference in item.facts["references"]
        ]
        scores = iter(model.predict(data, batch_size=self.comet_batch, gpus=self.gpus).scores)
        counts = [len(item.facts["references"]) for item, _ in pairs]
        return [sum(float(next(scores)) for _ in range(n)) / n for n in counts]

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        groups = by_group(rows)
        everything = groups.pop(ALL)
        lines = [Line(language, self._metrics(language, own)) for language, own in groups.items()]
        if not lines:
            return []
        total = {
            name: Interval(
                sum(line.metrics[name].mean for line in lines) / len(lines),
                math.nan,
                math.nan,
                len(everything),
            )
            for name in ("BLEU", "chrF")
        }
        return [Line(ALL, total | _of_sentences(everything)), *lines]

    def _metrics(self, language: str, rows: Sequence[Row]) -> dict[str, Interval]:
        texts = [row.scores["hypothesis"] for row in rows]
        most = max(len(row.item.facts["references"]) for row in rows)
        # sacrebleu takes the first references of all rows, then the second ones, ...; None is none.
        references = [
            [dict(enumerate(row.item.facts["references"])).get(i) for row in rows]
            for i in range(most)
        ]
        bleu = self._sacrebleu.corpus_bleu(texts, references, tokenize=tokenizer(language))
        chrf = self._sacrebleu.corpus_chrf(texts, references)
        corpus = {"BLEU": bleu.score, "chrF": chrf.score}
        return {
            name: Interval(value, math.nan, math.nan, len(rows)) for name, value in corpus.items()
        } | _of_sentences(rows)

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        yield (
            f"BLEU and chrF are sacrebleu {self._sacrebleu.__version__}'s of the corpus, 0 to 100, "
            "over all languages the mean over languages."
        )
        if self.comet:
            yield f"COMET is {self.comet}'s."


def tokenizer(language: str) -> str:
    """The name of sacrebleu's tokenizer for BLEU in a language, given by code or English name."""
    return _TOKENIZERS.get(language.replace("_", "-").split("-")[0].lower(), "13a")


def _of_sentences(rows: Sequence[Row]) -> dict[str, Interval]:
    names = ("chrF_sentence", "COMET")
    return {
        name: mean_interval([row.scores[name] for row in rows])
        for name in names
        if rows and name in rows[0].scores
    }
