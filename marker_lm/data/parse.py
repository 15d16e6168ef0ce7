"""One row of a file becomes one Example, or a RowError that says why not."""

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from marker_lm.data.chat import Chat, ChatError, check_messages
from marker_lm.data.example import INFO_FIELD, Example, RowError, check_unicode, json_type, short
from marker_lm.data.row_format import RowFormat, lookup
from marker_lm.data.row_markers import read_markers
from marker_lm.markers.taxonomy import Taxonomy

_MISSING = object()


def parse_row(
    row: Any,
    taxonomy: Taxonomy,
    fields: RowFormat | Mapping[str, Any] | None = None,
    line_id: str = "row",
    left_out: Counter[str] | None = None,
    untrusted: Counter[str] | None = None,
    chat: Chat | None = None,
) -> Example:
    """Validates one decoded row.

    Args:
      fields: a RowFormat, or the mapping of its keys.
      line_id: the row's name when it has no id, 'file:line'.
      left_out: counts "category='value'" of markers left out under unknown_values='leave_out'.
      untrusted: counts categories of markers left out under `trust`.
      chat: writes the turns of the example.
    Raises:
      RowError with a one-sentence reason.
    """
    row_format = fields if isinstance(fields, RowFormat) else RowFormat.from_config(fields or {})
    if not isinstance(row, Mapping):
        raise RowError(f"the row is a {json_type(row)}, not an object", "not an object")
    name = _row_id(row, row_format.id, line_id)
    used = {row_format.id, row_format.messages, INFO_FIELD}
    for paths in (row_format.prompt, row_format.completion, row_format.markers):
        if not isinstance(paths, Mapping):
            used.update([paths] if isinstance(paths, str) else paths)
    extra = {key: value for key, value in row.items() if key not in used}
    try:
        if row_format.messages and lookup(row, row_format.messages) is not None:
            example = _conversation(row, row_format, taxonomy, left_out, untrusted, chat)
        else:
            prompt = _text(row, row_format.prompt, "prompt")
            completion = _text(row, row_format.completion, "completion")
            markers, info = read_markers(row, row_format, taxonomy, left_out, untrusted)
            prompt = _named(prompt, markers, row, row_format, taxonomy)
            example = Example("", prompt, completion, markers, {}, info)
            if chat is not None:
                [turn] = chat.turns(chat.plain(prompt, completion))
                example.turns = (dataclasses.replace(turn, markers=markers),)
    except ChatError as error:
        raise RowError(str(error), error.kind) from None
    example.id, example.extra = name, extra
    return example


def _conversation(
    row: Mapping,
    row_format: RowFormat,
    taxonomy: Taxonomy,
    left_out: Counter[str] | None,
    untrusted: Counter[str] | None,
    chat: Chat | None,
) -> Example:
    """The Example of a row that has messages, but for its id and extra."""
    for what in ("prompt", "completion"):
        paths = getattr(row_format, what)
        for path in (paths,) if isinstance(paths, str) else paths:
            if lookup(row, path) is not None:
                raise RowError(
                    f"the row has messages (field '{row_format.messages}') and a {what} (field "
                    f"'{path}'); leave one of the two out",
                    "messages and a prompt",
                )
    messages = check_messages(lookup(row, row_format.messages))
    found = []
    for number, message in enumerate(messages, 1):
        check_unicode(message["content"], f"message {number}")
        if message["role"] != "assistant":
            continue
        own = message.get("markers", {})
        try:
            found.append(read_markers(row, row_format, taxonomy, left_out, untrusted, own))
        except RowError as error:
            raise RowError(f"message {number}: {error}", error.kind) from None
    asked = [m["content"] for m in messages if m["role"] == "user"] or [messages[0]["content"]]
    example = Example("", asked[-1], messages[-1]["content"], found[-1][0], {}, found[-1][1])
    example.messages = messages
    if chat is not None:
        example.turns = [
            dataclasses.replace(turn, markers=markers)
            for turn, (markers, _) in zip(chat.turns(messages), found, strict=True)
        ]
    return example


def _text(row: Mapping, paths: str | tuple[str, ...], what: str) -> str:
    parts = []
    several = not isinstance(paths, str)
    for path in paths if several else (paths,):
        value = lookup(row, path, _MISSING)
        if value is _MISSING or value is None:
            continue
        if not isinstance(value, str):
            raise RowError(
                f"the {what} (field '{path}') is a {json_type(value)}, not a string: "
                f"{short(value)}",
                f"{what} is not a string",
            )
        if value.strip():
            parts.append(value)
        elif not several:
            raise RowError(f"the {what} (field '{path}') is blank", f"{what} is blank")
    if not parts:
        names = "', '".join(paths) if several else paths
        near = difflib.get_close_matches(paths[0] if several else paths, list(row), n=1)
        hint = f"the nearest is '{near[0]}'" if near else f"it has: {', '.join(row) or 'nothing'}"
        raise RowError(f"the row has no {what} (field '{names}'); {hint}", f"{what} is missing")
    text = "\n\n".join(parts)
    check_unicode(text, f"the {what}")
    return text


def _named(
    prompt: str, markers: Mapping, row: Mapping, row_format: RowFormat, taxonomy: Taxonomy
) -> str:
    """The prompt with a sentence for each marker that it does not name, see RowFormat.named."""
    where = row_format.named_where.items()
    if not all(lookup(row, path) in values for path, values in where):
        return prompt
    for category, sentence in row_format.named.items():
        name = taxonomy.categories[category].values.get(markers.get(category))
        if name and not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompt, re.IGNORECASE):
            prompt = f"{prompt}\n\n{sentence.format(name)}"
    return prompt


def _row_id(row: Mapping, field: str, line_id: str) -> str:
    value = lookup(row, field)
    if value is None:
        return line_id
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError(
            f"the id (field '{field}') is {short(value)}; it must be a string or an integer",
            "id is not usable",
        )
    check_unicode(str(value), "the id")
    return str(value)
