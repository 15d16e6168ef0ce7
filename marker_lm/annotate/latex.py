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
      commands: how many commands with an argument, such as \\section{x}, stand outside of those.
      characters: how many characters are in environments and such formulas.
    """

    document: bool
    environments: int
    formulas: int
    commands: int
    characters: int


def scan(text: str) -> Latex | None:
    """The LaTeX of a text; None when it has none, or an environment or a display is not closed."""
    if "\\" not in text and "$" not in text:
        return None
    document, environments, formulas, commands, characters = False, 0, 0, 0, 0
    opened: list[tuple[str, int]] = []  # environments and where they begin
    closing, start, sure = "", 0, False  # of the formula that is open: its last sign and its begin
    for match in _TOKEN.finditer(text):
        token, name = match.group(), match.group(1)
        if closing and token.startswith("\n"):  # a paragraph ends, so a dollar was one of money
            if closing.startswith("\\"):
                return None
            closing = ""
        elif closing and token == closing and _may_close(text, match):
            formulas += sure
            characters += match.end() - start if sure and not opened else 0
            closing = ""
        elif closing and token != "$":
            sure |= token in ("^", "_") or _is_command(token)
        elif token in _CLOSING and _may_open(text, match):
            closing, start, sure = _CLOSING[token], match.start(), False
        elif token.startswith(r"\begin") and name:
            opened.append((name, match.start()))
        elif token.startswith(r"\end") and name:
            if not opened or opened[-1][0] != name:
                return None
            begin = opened.pop()[1]
            environments += 1
            characters += 0 if opened else match.end() - begin
            document |= name == "document"
        elif _is_command(token):
            document |= token == r"\documentclass"
            commands += text[match.end() : match.end() + 1] == "{"
    if opened or closing.startswith("\\"):
        return None
    if not (document or environments or formulas or commands):
        return None
    return Latex(document, environments, formulas, commands, characters)


def _may_open(text: str, match: re.Match) -> bool:
    """A single dollar opens a formula before a sign that is no blank; '${' is of a shell."""
    after = text[match.end() : match.end() + 1]
    return match.group() != "$" or not (after.isspace() or after == "{")


def _may_close(text: str, match: re.Match) -> bool:
    """A single dollar closes a formula after a sign that is no blank, and not before a letter."""
    after = text[match.end() : match.end() + 1]
    return match.group() != "$" or not (text[match.start() - 1].isspace() or after.isalnum())


def _is_command(token: str) -> bool:
    return len(token) > 1 and token[0] == "\\" and token[1].isalpha()
