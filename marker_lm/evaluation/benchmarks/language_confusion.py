"""The Language Confusion Benchmark: is every line, and every word, in the language asked for?"""

import dataclasses
import functools
import gzip
import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from marker_lm.data.example import RowError
from marker_lm.evaluation.benchmarks.base import (
    ALL,
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Skip,
    text_of,
)
from marker_lm.evaluation.benchmarks.detectors import FTZ, load_detector
from marker_lm.evaluation.statistics import Interval, mean_interval

_LEAST_TOKENS = 5  # of a line that is looked at
_SHORT = f"no line has {_LEAST_TOKENS} tokens"
_LEAST_LETTERS = 4  # of an English word
# English words tell nothing in languages of the Latin script.
WORD_LANGUAGES = frozenset(("ar", "hi", "ja", "ko", "ru", "zh"))
_NOTHING_WRONG = Interval(1.0, math.nan, math.nan, 0)  # as the official script has it
_NO_PUNCTUATION = str.maketrans({**dict.fromkeys(string.punctuation, ""), "—": " ", "،": ""})


@dataclasses.dataclass(frozen=True)
class LanguageConfusion(Benchmark):
    """Language confusion (Marchisio et al. 2024, arXiv 2406.20052).

    A row has `language` (an ISO 639-1 code) and `source`, and `setting` or `task` (monolingual,
    crosslingual); with a prompt, or with a completion, as the published outputs have them. A
    response counts when a line of it has five tokens. LPR is the share of responses all of whose
    such lines the detector finds to be of the language; WPR, of those, the share without an English
    word, for ar, hi, ja, ko, ru and zh; LCPR their harmonic mean, within a language of a source.
    Averages are over the languages of a source, the sources of a language, and, for 'all', over
    these averages of languages; they have no interval. As in the official script, LPR is 1 where no
    response counts, and WPR where no response has all its lines right; a note says where.

    detector: lid.176.ftz, py3langid or the path of a fastText model such as lid.176.bin
    least: a lower probability is no language
    words: file of English words, one a line, that the benchmark publishes; WPR needs it
    """

    detector: str = FTZ
    least: float = 0.3
    words: str = ""

    name = "language_confusion"
    percent = ("LPR", "WPR", "LCPR")

    @functools.cached_property
    def _detect(self):
        return load_detector(self.detector)

    @functools.cached_property
    def _words(self) -> frozenset[str]:
        return read_words(self.words) if self.words else frozenset()

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        for field in ("language", "source"):
            if not isinstance(row.get(field), str) or not row[field]:
                raise RowError(f"the row has no '{field}'", "missing field")
        facts = {field: row[field] for field in ("language", "source")}
        facts["setting"] = row.get("setting") or row.get("task") or ""
        own = {"text": row["completion"]} if isinstance(row.get("completion"), str) else None
        prompt = row.get("prompt")
        if not isinstance(prompt, str):
            if own is None:
                raise RowError("the row has no text 'prompt' or 'completion'", "missing field")
            prompt = ""
        yield Item(id, prompt, facts, answer=own)

    def score_one(self, item: Item, answer: Answer) -> dict[str, float]:
        language = item.facts["language"]
        tokens = tokenizer(language)
        lines = [(line, tokens(line)) for line in normalize(text_of(answer)).split("\n")]
        lines = [(line, found) for line, found in lines if len(found) >= _LEAST_TOKENS]
        if not lines:
            raise Skip(_SHORT)
        detect = self._detect[1]
        clean = all(
            label == language and share > self.least
            for label, share in (detect(line) for line, _ in lines)
        )
        scores = {"LPR": float(clean)}
        if clean and self._words and language in WORD_LANGUAGES:
            english = any(token.strip() in self._words for _, found in lines for token in found)
            scores["WPR"] = float(not english)
        return scores

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        lines = []
        settings = dict.fromkeys(row.item.facts["setting"] for row in rows)
        for setting in sorted(settings):
            cells: dict[tuple[str, str], list[Row]] = {}
            for row in rows:
                if row.item.facts["setting"] == setting and row.skipped in ("", _SHORT):
                    key = (row.item.facts["source"], row.item.facts["language"])
                    cells.setdefault(key, []).append(row)
            found = {key: self._metrics(key[1], cells[key]) for key in sorted(cells)}
            of_language = {
                one: _average([m for (_, language), m in found.items() if language == one])
                for one in sorted({language for _, language in found})
            }
            of_source = {
                one: _average([m for (source, _), m in found.items() if source == one])
                for one in sorted({source for source, _ in found})
            }
            named = {(ALL, ALL): _average(list(of_language.values()))}
            named |= {(source, ALL): m for source, m in of_source.items()}
            named |= {(ALL, language): m for language, m in of_language.items()}
            for (source, language), metrics in (named | found).items():
                group = " / ".join(filter(None, (setting, source, language)))
                lines.append(Line(group, metrics))
        return lines

    def _metrics(self, language: str, rows: Sequence[Row]) -> dict[str, Interval]:
        """LPR, WPR and LCPR of one language of one source."""
        wanted = ["LPR"] + ["WPR"] * bool(self._words and language in WORD_LANGUAGES)
        metrics = {}
        for name in wanted:
            values = [row.scores[name] for row in rows if name in row.scores]
            metrics[name] = mean_interval(values) if values else _NOTHING_WRONG
        if len(metrics) == 2:
            lpr, wpr = (m.mean for m in metrics.values())
            mean = 2 * lpr * wpr / (lpr + wpr) if lpr + wpr else 0.0
            metrics["LCPR"] = Interval(mean, math.nan, math.nan, metrics["LPR"].n)
        return metrics

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        yield f"Languages were detected by {self._detect[0]}, probability over {self.least:g}."
        empty = [
            line.group
            for line in self.lines(rows)
            if any(m.n == 0 for m in line.metrics.values()) and ALL not in line.group.split(" / ")
        ]
        if empty:
            yield (
                f"In {len(empty)} groups there was nothing to look at for LPR or WPR, so it is 1: "
                f"{', '.join(empty[:5])}{', ...' if empty[5:] else ''}."
            )
        if not self.words:
            yield "WPR and LCPR need the benchmark's file of English words; set words=FILE."


def _average(of: Sequence[Mapping[str, Interval]]) -> dict[str, Interval]:
    """Plain means of metrics, over those that have them."""
    return {
        name: Interval(
            float(np.mean([m[name].mean for m in of if name in m])),
            math.nan,
            math.nan,
            sum(m[name].n for m in of if name in m),
        )
        for name in ("LPR", "WPR", "LCPR")
        if any(name in m for m in of)
    }


def normalize(text: str) -> str:
    """A response as the benchmark looks at it: cut where a base model goes on with a next question,
    and without punctuation."""
    return text.split("\nQ:")[0].strip().translate(_NO_PUNCTUATION)


@functools.cache
def tokenizer(language: str) -> Callable[[str], list[str]]:
    """Words of a line: by jieba for Chinese, MeCab for Japanese, spaces for all others.

    Raises ValueError where the package is missing.
    """
    try:
        if language == "zh":
            import jieba

            jieba.setLogLevel("WARNING")
            return jieba.lcut
        if language == "ja":
            import fugashi

            tagger = fugashi.Tagger("-O wakati -b 50000")
            return lambda line: tagger.parse(line).split()
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"language_confusion: lines in '{language}' need jieba, fugashi and unidic-lite "
            f"({type(error).__name__}); pip install 'marker-lm[eval]'"
        ) from None
    return str.split


def read_words(path: epath.PathLike) -> frozenset[str]:
    """The lower-case words over three letters of a file, plain or gzip, one a line."""
    data = epath.Path(path).read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    words = (line.strip() for line in data.decode("utf-8").split("\n"))
    return frozenset(word for word in words if word.islower() and len(word) >= _LEAST_LETTERS)
