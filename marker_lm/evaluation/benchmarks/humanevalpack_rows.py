"""Rows of HumanEvalPack: what they must have, pairs of languages, prompts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from marker_lm.data.example import RowError
from marker_lm.evaluation.benchmarks.records import Record
from marker_lm.evaluation.code_answers import LANGUAGE_NAMES, LANGUAGES

TASKS = ("synthesize", "repair", "repair_docs", "translate")
_FIELDS = (
    "task_id",
    "language",
    "prompt",
    "declaration",
    "canonical_solution",
    "buggy_solution",
    "test",
    "entry_point",
    "signature",
    "instruction",
)


def check_row(row: Mapping[str, Any]) -> None:
    """Raises RowError for a row that is none of HumanEvalPack."""
    for field in (*_FIELDS, "test_setup") if row.get("language") == "go" else _FIELDS:
        if not isinstance(row.get(field), str):
            raise RowError(f"the row has no text '{field}'", "missing field")
    if row["language"] not in LANGUAGES:
        raise RowError(f"there is no language {row['language']!r}", "unknown language")


def language_pairs(rows: Iterable[Record]) -> Iterator[Record]:
    """Each row as often as its problem has other languages, with the other's row as 'source'."""
    problems: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for place, row in rows:
        if isinstance(row, RowError) or not isinstance(row.get("task_id"), str):
            yield place, row
        else:
            problems.setdefault(row["task_id"].rpartition("/")[2], []).append((place, row))
    for same in problems.values():
        for _, source in same:
            for place, target in same:
                if source is not target:
                    yield place, {**target, "source": source}


def prompt(task: str, row: Mapping[str, Any]) -> str:
    """The official 'instruct' prompt; for 'translate', which has none, one of the same shape:
    the other language's program, a line that says what to do, a blank line, the declaration."""
    base = code_to_go_on(task, row)
    if task == "synthesize":
        asked = row["instruction"].strip()
    elif task == "translate":
        source = row["source"]
        names = LANGUAGE_NAMES[source["language"]], LANGUAGE_NAMES[row["language"]]
        given = source["declaration"] + source["canonical_solution"]
        asked = f"{given.strip()}\nTranslate this {names[0]} code to {names[1]}."
    else:
        given = base + row["buggy_solution"]
        given += "\n" + row["test"] if task == "repair" else ""
        asked = f"{given}\nFix bugs in {row['entry_point']}."
    return f"{asked}\n\n{base}".strip()


def code_to_go_on(task: str, row: Mapping[str, Any]) -> str:
    """What a prompt ends with: imports and the head of the function, with its description where
    the task has one."""
    if task in ("synthesize", "repair_docs"):
        return row["prompt"]
    return ("fn main(){}\n" if row["language"] == "rust" else "") + row["declaration"]
