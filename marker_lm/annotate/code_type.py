"""Programming language of the completion: labels of fenced blocks, then a look at the code itself.

Labels and values are brought together by the aliases that Pygments knows ('py', 'c++', 'sh'). Code
without a label goes to magika, a small neural network by Google that ships in its package (the
optional extra `code`). Texts that do not look like code never reach it: it takes 10 ms a text.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from marker_lm.annotate.annotator import Found
from marker_lm.annotate.settings import SettingsError, settings_from
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import Taxonomy

DETECTORS = ("none", "magika")
# Pygments' names of what is no program. They count only when the taxonomy has a value for them.
_NO_PROGRAM = frozenset({
    "CSS", "Diff", "HTML", "HTTP", "INI", "JSON", "Markdown", "Text only", "Text output", "TOML",
    "TeX", "XML", "YAML", "reStructuredText",
})  # fmt: skip
# Pygments' name of a dialect -> the language it counts as where the taxonomy has no value for it.
_DIALECTS = {
    "Bash Session": "Bash", "Fish": "Bash", "Tcsh": "Bash", "JSX": "JavaScript",
    "TSX": "TypeScript", "Python 2.x": "Python", "Python console session": "Python",
    "MySQL": "SQL", "PL/pgSQL": "SQL", "PostgreSQL SQL dialect": "SQL", "Transact-SQL": "SQL",
    "sqlite3con": "SQL",
}  # fmt: skip
# At least this share of the signs of a text that is worth a look are ones that programs live on.
_SIGN_SHARE, _LOOKED_AT = 0.04, 2000
_PARSED = 100_000  # of a long text only this much is searched for fences
_SIGN = re.compile(r"[{}\[\]();=<>_&|+*/#$\\@]")
_BLANK = re.compile(r"\s+")
# Languages that do with few such signs start with one of these.
_OPENING = re.compile(
    r"\s*(?:(?:SELECT|WITH|INSERT\s+INTO|UPDATE|DELETE\s+FROM|CREATE|ALTER|DROP)\s"
    r"|IDENTIFICATION\s+DIVISION|#!|#include\b|import\s[\w.]+|from\s[\w.]+\simport\b|package\s[\w.]+$"
    r"|(?:using|module|class|def|fn|func|function|public|const|let|var)\s.*[\n;{(=])",
    re.IGNORECASE | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The annotator's section of a config.

    category: the closed category to fill.
    detector: 'magika' looks at code without a label, 'none' leaves it unmarked.
    threshold: least confidence; under it the marker is left out.
    labels: value of the taxonomy -> label or labels of code, where Pygments does not know it.
    """

    category: str = "code_type"
    detector: str = "none"
    threshold: float = 0.5
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.detector not in DETECTORS:
            raise SettingsError(
                f"code_type: detector is {self.detector!r}; it must be 'magika' or 'none'"
            )
        if not 0 <= self.threshold <= 1:
            raise SettingsError(f"code_type: threshold is {self.threshold}; it must be in 0..1")


class CodeType:
    """An Annotator for the programming language of the completion; prose gets no marker."""

    name = "code_type"

    def __init__(self, settings: Settings, taxonomy: Taxonomy):
        self.categories = (settings.category,)
        self._settings = settings
        category = taxonomy.category(settings.category)
        for value in settings.labels:
            category.check(value)
        self._value = _value_of_name(category.values, settings.labels)
        self._detect = _magika() if settings.detector == "magika" else None

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        return [self._annotate(example.completion) for example in examples]

    def _annotate(self, completion: str) -> dict[str, Found]:
        blocks = fenced_blocks(completion)
        value, confidence = self._by_labels(blocks)
        if value is None and confidence == 0.0 and self._detect is not None:
            unlabelled = [code for label, code in blocks if not _lexer_name(label)]
            code = "\n".join(unlabelled) if blocks else completion
            if code.strip() and (blocks or looks_like_code(code)):
                label, confidence = self._detect(code)
                value = self._value_of(label)
        if value is None or confidence < self._settings.threshold:
            return {}
        return {self._settings.category: Found(value, confidence)}

    def _by_labels(self, blocks: Iterable[tuple[str, str]]) -> tuple[str | None, float]:
        """The value with most characters under its labels, and its share of what has a label.

        (None, share) when another language than those of the taxonomy has most; (None, 0.0) when
        no block has the label of a programming language.
        """
        sizes: dict[str | None, int] = {}
        for label, code in blocks:
            value = self._value_of(label)
            lexer = _lexer_name(label)
            if value is not None or (lexer and lexer not in _NO_PROGRAM):
                sizes[value] = sizes.get(value, 0) + len(code) + 1
        if not sizes:
            return None, 0.0
        best = max(sizes, key=sizes.__getitem__)
        return best, sizes[best] / sum(sizes.values())

    def _value_of(self, label: str) -> str | None:
        label = label.casefold()
        lexer = _lexer_name(label)
        for name in (label, lexer, _DIALECTS.get(lexer)):
            if name in self._value:
                return self._value[name]
        return None


def make(config: Mapping[str, Any], taxonomy: Taxonomy) -> CodeType:
    """The annotator from its section of the config, see Settings.

    Raises SettingsError for a key or value that can't be used and when the detector's package is
    not installed, MarkerError when the taxonomy has no such category.
    """
    return CodeType(settings_from(Settings, config, "code_type"), taxonomy)


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(label, code) of every fenced block of Markdown; the label is '' where there is none."""
    if "```" not in text and "~~~" not in text:
        return []
    fences = (token for token in _fence_parser().parse(text[:_PARSED]) if token.type == "fence")
    return [(_label(token.info), token.content) for token in fences]


def looks_like_code(text: str) -> bool:
    """Whether a text is worth a closer look: lines with many signs of programs, or an opening."""
    start = _BLANK.sub("", text[:_LOOKED_AT])
    if len(start) < 8:
        return False
    many = len(_SIGN.findall(start)) >= _SIGN_SHARE * len(start)
    return (many and "\n" in text.strip()) or _OPENING.match(text) is not None


def _label(info: str) -> str:
    """The language in a fence's info: 'python' of 'python', '{.python}' and 'python title=x'."""
    words = re.split(r"[\s,:]+", info.strip().strip("{}").lstrip("."), maxsplit=1)
    return words[0].casefold()


@cache
def _fence_parser():
    from markdown_it import MarkdownIt

    # Fences may stand in lists and quotes; nothing else matters.
    return MarkdownIt("zero").enable(["fence", "list", "blockquote"])


@cache
def _lexer_names() -> Mapping[str, str]:
    """Alias or file extension, in lower case -> the name that Pygments has for the language."""
    from pygments.lexers import get_all_lexers

    names: dict[str, str] = {}
    extensions: dict[str, str] = {}
    for name, aliases, files, _ in get_all_lexers(plugins=False):
        for alias in aliases:
            names.setdefault(alias.casefold(), name)
        for file in files:
            extensions.setdefault(file.removeprefix("*.").casefold(), name)
    return extensions | names


def _lexer_name(label: str) -> str:
    """Pygments' name for a label, '' where it has none."""
    return _lexer_names().get(label.casefold(), "")


def _value_of_name(values: Iterable[str], labels: Mapping[str, Any]) -> dict[str, str]:
    """What code may be called -> value: the value itself and its labels come before other names.

    Of two values with the same name in Pygments ('shell', 'bash') the first has that name.
    """
    exact, by_lexer = {}, {}
    for value in values:
        given = labels.get(value, ())
        for label in (value, *((given,) if isinstance(given, str) else given)):
            exact[label.casefold()] = value
            if _lexer_name(label):
                by_lexer.setdefault(_lexer_name(label), value)
    return by_lexer | exact


def _magika():
    """A function: text -> (label, probability)."""
    try:
        from magika import Magika
    except ImportError:
        raise SettingsError(
            "code_type: detector 'magika' needs the package magika; install marker-lm[code] or set"
            " detector to 'none'"
        ) from None
    model = Magika()

    def detect(text: str) -> tuple[str, float]:
        # One by one: in a batch it is no faster, and the last digits would depend on the others.
        found = model.identify_bytes(text.encode()).prediction
        return str(found.output.label), round(float(found.score), 4)

    return detect
