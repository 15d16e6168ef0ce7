"""Format of the completion, recognised by parsing it.

Kinds, in the order in which they are tried: JSON, XML, MCQAnswer (an option of the prompt),
ChainOfThought (steps before a stated answer), Tabular (CSV), Latex (a document); then by the tree
of Markdown Code (fenced blocks and nothing else, or a bare program), Tabular, Enumeration and
Markdown; then Latex (formulas), and Plain for what has no sign of any. What might be one of two is
left out: precision comes before recall.

Confidences are fixed, by how strict the parse is: 0.9 and more where the whole text is of the kind,
0.6 to 0.85 where a part is or where little shows it, under 0.5 (left out by default) for hints.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_it.tree import SyntaxTreeNode

from marker_lm.annotate import answers, latex, parsers
from marker_lm.annotate.annotator import Found
from marker_lm.annotate.code_type import looks_like_code
from marker_lm.annotate.settings import SettingsError, settings_from
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import Taxonomy

KINDS = (
    "JSON", "XML", "MCQAnswer", "ChainOfThought", "Tabular", "Code", "Enumeration", "Markdown",
    "Latex", "Plain",
)  # fmt: skip
# Of a long completion only this much is parsed as Markdown, LaTeX or steps, and of a long prompt
# only the end is searched for options: time must not grow with the square of the length.
LOOKED_AT = 20_000
_SIGN_OF_MARKDOWN = re.compile(
    r"[#*_`>|~\[]|^[ \t]*(?:[-+•‣▪◦]|\d+[.)])[ \t]|^[ \t]*[=-]+[ \t]*$", re.M
)
_ROUND_BULLET = re.compile(r"^([ \t]*)[•‣▪◦][ \t]*", re.M)
_STATEMENT = re.compile(
    r"[;{}]\s*$|^\s*(?:def|class|import|from|return|package|using|func|fn|public|private|static"
    r"|const|let|var|use|extern|module|local|end|else|elif|try|except|#include|@\w+)\b[^.!?]*$"
    r"|^\s*[\w.\[\]]+\s*[-+*/|:]?=\s*\S|^\s*[\w.]+\(.*\)$"
)
_LISTS = ("bullet_list", "ordered_list")
Recognised = tuple[str, float] | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """The annotator's section of a config.

    category: the closed category to fill.
    threshold: least confidence; under it the marker is left out.
    values: kind (one of KINDS) -> value of the taxonomy, where they are not called the same.
    """

    category: str = "format"
    threshold: float = 0.5
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise SettingsError(f"format: threshold is {self.threshold}; it must be in 0..1")
        for kind in self.values:
            if kind not in KINDS:
                raise SettingsError(
                    f"format: values has {kind!r}; its keys are kinds: {', '.join(KINDS)}"
                )


class Format:
    """An Annotator for the format of the completion.

    A kind that the taxonomy has no value for gets no marker. Only fenced code is Markdown then.
    """

    name = "format"

    def __init__(self, settings: Settings, taxonomy: Taxonomy):
        self.categories = (settings.category,)
        self._settings = settings
        category = taxonomy.category(settings.category)
        values = {value.casefold(): value for value in category.values}
        self._value = {k: values[k.casefold()] for k in KINDS if k.casefold() in values}
        self._value |= {kind: category.check(value) for kind, value in settings.values.items()}
        if not self._value:
            raise SettingsError(
                f"format: {settings.category} has none of the values {', '.join(KINDS)}; say under"
                " 'values' what they are called"
            )

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        return [self._annotate(example) for example in examples]

    def _annotate(self, example: Example) -> dict[str, Found]:
        found = recognise(example.prompt, example.completion)
        if found is not None and found[0] == "Code" and "Code" not in self._value:
            found = ("Markdown", 0.7) if found[1] > 0.9 else None
        if found is None or found[0] not in self._value or found[1] < self._settings.threshold:
            return {}
        return {self._settings.category: Found(self._value[found[0]], found[1])}


def make(config: Mapping[str, Any], taxonomy: Taxonomy) -> Format:
    """The annotator from its section of the config, see Settings.

    Raises SettingsError for a key or value that can't be used, MarkerError when the taxonomy has no
    such category or value.
    """
    return Format(settings_from(Settings, config, "format"), taxonomy)


def recognise(prompt: str, completion: str) -> Recognised:
    """The kind of a completion and how sure that is; None when it can't be told."""
    text = completion.strip()
    if not text:
        return None
    start = text[:LOOKED_AT]
    return (
        _json(text)
        or _xml(text)
        or _choice(prompt, text)
        or _reasoning(start)
        or _separated(start)
        or _latex_document(start)
        or _by_blocks(start)
    )


def _json(text: str) -> Recognised:
    if parsers.json_container(text) is not None:
        return "JSON", 1.0
    lines = text.splitlines() if text.startswith(("{", "[")) else []
    if len(lines) > 1 and all(parsers.json_container(line) is not None for line in lines):
        return "JSON", 0.9
    return None


def _xml(text: str) -> Recognised:
    if parsers.xml_root(text) is not None:
        return "XML", 1.0
    # Several elements without a common root, and nothing outside of them.
    root = parsers.xml_root(f"<all>{text}</all>") if text.startswith("<") else None
    if root is not None and not any((element.tail or "").strip() for element in root):
        return "XML", 0.9
    return None


def _choice(prompt: str, text: str) -> Recognised:
    if len(text) > 500:
        return None
    offered = answers.options(prompt[-LOOKED_AT:])
    return ("MCQAnswer", 0.95) if offered and answers.chosen(offered, text) else None


def _reasoning(text: str) -> Recognised:
    confidence = answers.reasons_to_answer(text)
    return ("ChainOfThought", confidence) if confidence else None


def _separated(text: str) -> Recognised:
    return ("Tabular", 0.8) if parsers.separated_rows(text) is not None else None


def _by_blocks(text: str) -> Recognised:
    if _SIGN_OF_MARKDOWN.search(text) is None:
        return _formulas(text) or _bare_code(text) or _plain(text)
    bulleted = _ROUND_BULLET.sub(r"\1- ", text)
    blocks = parsers.tree(bulleted).children
    sizes = _sizes(blocks, bulleted)
    return (
        _fenced(blocks)
        or _table(sizes, blocks)
        or (_bare_code(text) if "fence" not in sizes else None)
        or _enumeration(sizes, blocks)
        or _markdown(sizes, blocks)
        or _formulas(text)
        or _hint_of_markdown(blocks)
        or _plain(text)
    )


def _sizes(blocks: Sequence[SyntaxTreeNode], text: str) -> dict[str, float]:
    """Type of block -> its share of the characters of all blocks."""
    lines = text.splitlines(keepends=True)
    sizes: dict[str, int] = {}
    for block in blocks:
        first, end = block.map or (0, 0)
        sizes[block.type] = sizes.get(block.type, 0) + sum(map(len, lines[first:end]))
    total = sum(sizes.values()) or 1
    return {kind: size / total for kind, size in sizes.items()}


def _fenced(blocks: Sequence[SyntaxTreeNode]) -> Recognised:
    """One or several fenced blocks and nothing else; one that holds data is of the data's kind."""
    if not blocks or any(block.type != "fence" for block in blocks):
        return None
    if len(blocks) == 1:
        code = blocks[0].content.strip()
        found = _json(code) or _xml(code) or _separated(code)
        if found is not None:
            return found[0], min(found[1], 0.9)
    return "Code", 0.95


def _table(sizes: Mapping[str, float], blocks: Sequence[SyntaxTreeNode]) -> Recognised:
    """Tables, with a paragraph before or after at most."""
    bodies = [parsers.table_cells(block) for block in blocks if block.type == "table"]
    if not bodies or not all(bodies) or not set(sizes) <= {"table", "paragraph"}:
        return None
    if sizes["table"] < 0.5:
        return None
    return "Tabular", 1.0 if len(sizes) == 1 else 0.85


def _enumeration(sizes: Mapping[str, float], blocks: Sequence[SyntaxTreeNode]) -> Recognised:
    """A list, with paragraphs around it that are shorter than the list."""
    lists = [block for block in blocks if block.type in _LISTS]
    if not lists or not set(sizes) <= {*_LISTS, "paragraph"}:
        return None
    if len(lists) == 1 and len(lists[0].children) == 1:
        if lists[0].type == "bullet_list":
            return "Enumeration", 0.3  # '- Yes.' may be a line of a dialogue
        # '22. May' is a date and no list from 22 on.
        first = len(blocks) == 1 and lists[0].attrs.get("start", 1) == 1
        return ("Enumeration", 0.6) if first else None
    if sum(sizes.get(kind, 0.0) for kind in _LISTS) < 0.5:
        return None
    return "Enumeration", 0.95 if "paragraph" not in sizes else 0.85


def _markdown(sizes: Mapping[str, float], blocks: Sequence[SyntaxTreeNode]) -> Recognised:
    """Blocks and spans of Markdown that hardly come about by chance."""
    headings = sum(b.type == "heading" and b.markup.startswith("#") for b in blocks)
    if headings:
        return "Markdown", 0.8 if headings == len(blocks) else 0.95
    spans = Counter(node.type for block in blocks for node in block.walk())
    if "fence" in sizes or spans["strong"]:
        return "Markdown", 0.9
    entries = sum(len(block.children) for block in blocks if block.type in _LISTS)
    if spans["link"] or spans["image"] or (entries > 1 and len(sizes) > 1):
        return "Markdown", 0.8
    return ("Markdown", 0.7) if spans["code_inline"] > 1 or spans["table"] else None


def _hint_of_markdown(blocks: Sequence[SyntaxTreeNode]) -> Recognised:
    """What may as well be chance: '*', a line of dashes, '> ' before a line, one word in '`'."""
    spans = {node.type for block in blocks for node in block.walk()}
    hints = {"em", "hr", "heading", "blockquote", "code_block", "code_inline", "bullet_list"}
    return ("Markdown", 0.4) if spans & hints else None


def _bare_code(text: str) -> Recognised:
    """A program without a fence around it: its lines look like statements."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or not looks_like_code(text):
        return None
    statements = sum(1 for line in lines if _STATEMENT.search(line))
    return ("Code", 0.7) if statements >= 0.3 * len(lines) else None


def _latex_document(text: str) -> Recognised:
    found = latex.scan(text)
    whole = found and (
        found.document or (found.environments and found.characters >= 0.5 * len(text))
    )
    return ("Latex", 0.95) if whole else None


def _formulas(text: str) -> Recognised:
    """Formulas, environments or commands in a text."""
    found = latex.scan(text)
    if found is None:
        return None
    if not (found.formulas or found.environments):
        return "Latex", 0.7 if found.commands > 1 else 0.4
    return "Latex", 0.85 if found.characters >= 0.2 * len(text) else 0.7


def _plain(text: str) -> Recognised:
    """Text without any sign of markup or of code."""
    if parsers.has_markup_left(text) or any(sign in text for sign in ("```", r"\begin{", r"\end{")):
        return None
    return None if looks_like_code(text) else ("Plain", 0.9)
