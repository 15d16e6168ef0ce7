"""LaTeX in a text: environments, formulas and commands, found by a scanner and not by a pattern."""

import dataclasses
import re

_TOKEN = re.compile(
    r"\\(?:begin|end)\s*\{([A-Za-z]+\*?)\}|\\[A-Za-z]+|\\."
    r"|\$\$|\$|\n[ \t]*\n|[\^_]",
    re.DOTALL,
)
_CLOSING = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}


@dataclasses.dataclass(frozen=True)
class Latex:
    """What a scan of a text found.

    Attributes:
      document: it has a preamble (\\documentclass) or a document environment.
      environments: how many it has of \\begin{x} ... \\end{x}.
      formulas: how many formulas it has between dollars or \\( \\), \\[ \\] that hold a command, a
        power or an index; '$5 and $6' is none.
      characters: how many characters are in environments and such formulas.
    """

    document: bool
    environments: int
    formulas: int
    characters: int


def scan(text: str) -> Latex | None:
    """The LaTeX of a text; None when it has none, or an environment or a display is not closed."""
    if "\\" not in text and "$" not in text:
        return None
    document, environments, formulas, characters = False, 0, 0, 0
    opened: list[tuple[str, int]] = []  # environments and where they begin
    formula: tuple[str, int, bool] | None = None  # its closing sign, where it begins, is it one
    for match in _TOKEN.finditer(text):
        token, name = match.group(), match.group(1)
        if formula is not None:
            closing, start, sure = formula
            if token == closing:
                if sure:
                    formulas += 1
                    characters += 0 if opened else match.end() - start
                formula = None
            elif token.startswith("\n"):  # a paragraph ends: the dollar was an amount of money
                if closing not in ("$", "$$"):
                    return None
                formula = None
            elif token in ("^", "_") or _command(token):
                formula = (closing, start, True)
            continue
        if token in _CLOSING:
            formula = (_CLOSING[token], match.start(), False)
        elif token.startswith(r"\begin"):
            opened.append((name, match.start()))
        elif token.startswith(r"\end"):
            if not opened or opened[-1][0] != name:
                return None
            start = opened.pop()[1]
            environments += 1
            characters += 0 if opened else match.end() - start
            document |= name == "document"
        document |= token == r"\documentclass"
    if opened or (formula is not None and formula[0].startswith("\\")):
        return None
    if not (document or environments or formulas):
        return None
    return Latex(document, environments, formulas, characters)


def _command(token: str) -> bool:
    return len(token) > 1 and token[0] == "\\" and token[1].isalpha()
