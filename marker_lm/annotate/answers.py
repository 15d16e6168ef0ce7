"""Answers that are told by what they say: a chosen option, and steps that end in an answer."""

import re
import string
import unicodedata

_LABEL = r"\(?(?P<label>[A-Ja-j]|10|[1-9])[).:\]]"
_OPTION_LINE = re.compile(
    rf"^[ \t]*(?:[-*][ \t]+)?{_LABEL}[ \t]+(?P<text>\S.*?)[ \t]*$", re.MULTILINE
)
_OPTION_INLINE = re.compile(
    r"(?<!\w)\((?P<label>[A-Ja-j]|[1-9])\)[ \t]*(?P<text>[^\n]+?)[ \t,;]*(?=\(\w\)|$)", re.MULTILINE
)
_NAMED_OPTIONS = re.compile(
    r"^[ \t]*(?:(?:answer )?options|(?:answer )?choices)[ \t]*:\s*(?P<all>.+(?:\n.+)*)",
    re.MULTILINE | re.IGNORECASE,
)
_ANSWER_IS = re.compile(
    r"^(?:(?:the )?(?:final |correct |right )?(?:answer|option|choice)(?: is)?[ \t]*:?[ \t]*)",
    re.IGNORECASE,
)
_CHOSEN = re.compile(rf"^(?:{_LABEL}|(?P<bare>[A-Ja-j]))(?:\s+(?P<text>.*))?$", re.DOTALL)


def options(prompt: str) -> dict[str, str]:
    """Label -> text of the options that a prompt offers; {} when it offers fewer than two.

    Options are labelled A, B, ... or 1, 2, ... in lines of their own or as (A) ... (B) ... in one,
    or follow 'Options:' or 'Choices:' without labels, one a line or separated by ';' or '|': those
    are labelled '#1', '#2', ...
    """
    for pattern in (_OPTION_LINE, _OPTION_INLINE):
        found = _in_sequence([m.group("label", "text") for m in pattern.finditer(prompt)])
        if len(found) >= 2:
            return found
    named = _NAMED_OPTIONS.search(prompt)
    if named:
        parts = re.split(r"[;|\n]", named["all"])
        texts = [text for text in (part.strip(" \t-*,") for part in parts) if text]
        if len(texts) >= 2:
            return {f"#{i}": text for i, text in enumerate(texts, 1)}
    return {}


def chosen(offered: dict[str, str], answer: str) -> str | None:
    """The label of the option that an answer chooses: it is the label, the text or both.

    A bare number is no label: prompts have numbered steps, and answers are numbers.
    """
    answer = _ANSWER_IS.sub("", answer.strip()).strip(" \t\n*_\"'")
    same = [label for label, text in offered.items() if _folded(text) == _folded(answer)]
    if same:
        return same[0]
    match = _CHOSEN.match(answer)
    label = match and (match["label"] or match["bare"]).upper()
    if not label or label not in offered:
        return None
    if match["text"] and _folded(match["text"]) != _folded(offered[label]):
        return None
    return label


def _in_sequence(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The options from the last 'A' or '1' on, as long as their labels follow one another."""
    labels = [label.upper() for label, _ in pairs]
    starts = [i for i, label in enumerate(labels) if label in ("A", "1")]
    if not starts:
        return {}
    first = starts[-1]
    names = string.ascii_uppercase if labels[first] == "A" else [str(i) for i in range(1, 11)]
    found = {}
    for name, label, (_, text) in zip(names, labels[first:], pairs[first:], strict=False):
        if name != label:
            break
        found[name] = text
    return found


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", " ".join(text.split())).casefold().rstrip(".")


_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_STATES_ANSWER = re.compile(
    r"^(?:\W*(?:so|therefore|thus|hence|in conclusion|finally)\b,?\s*)?\W*"
    r"(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:|=)|\\boxed\s*\{",
    re.IGNORECASE,
)
_FINAL_MARK = re.compile(r"^####\s*\S")
_STEP = re.compile(
    r"^\W*(?:step\s*\d+|\d+[.)]\s|first(?:ly)?\b|second(?:ly)?\b|third(?:ly)?\b|then\b|next\b|now\b"
    r"|after\b|so\b|since\b|because\b|therefore\b|thus\b|hence\b|finally\b|if\b|we\s+(?:know|have|need)\b)",
    re.IGNORECASE,
)
_EQUATION = re.compile(r"[\w)\]}.%$€£]\s*[=≈]\s*[-+$€£(\[{\\]?\s*[\w\\]")
_THOUGHTS = re.compile(r"^\s*<(think|thinking|reasoning)>(.+?)</\1>\s*\S", re.DOTALL)


def reasons_to_answer(text: str) -> float:
    """How surely a text is steps of thought that end in a stated answer, 0..1.

    1.0 for steps before a line '#### 42' and for <think> ... </think> before an answer; 0.9 for two
    steps (equations, or sentences that begin like 'First', 'Step 2', 'So') before a last sentence
    that says 'the answer is' or has \\boxed{}. The words are English, the signs are not.
    """
    if _THOUGHTS.match(text):
        return 1.0
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if len(lines) >= 2 and _FINAL_MARK.match(lines[-1]) and not _FINAL_MARK.match(lines[-2]):
        return 1.0
    sentences = [s.strip() for s in _SENTENCE_END.split(text.strip()) if s.strip()]
    if len(sentences) < 3 or not _STATES_ANSWER.search(sentences[-1]):
        return 0.0
    steps = sum(1 for s in sentences[:-1] if _STEP.match(s) or _EQUATION.search(s))
    return 0.9 if steps >= 2 else 0.0
