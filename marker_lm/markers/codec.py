"""Markers as token ids and back: the one place that knows both templates at token level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from marker_lm.markers.category import MarkerError, mend, show
from marker_lm.markers.taxonomy import Taxonomy
from marker_lm.markers.template import (
    FORMS,
    TEMPLATES,
    Form,
    category_token,
    escape,
    number_text,
    reserved_tokens,
    unescape,
    value_token,
)

Ids = tuple[int, ...]

NUMBER_CHARACTERS = "0123456789.-"


class MarkerCodec:
    """Writes markers as ids of one tokenizer and reads them back.

    'text' and 'sentence' tokenize what stands around a value and the value apart, so the ids of a
    piece never depend on its neighbours. 'compact' uses reserved ids from tokenizer.size on, in the
    order of `reserved_tokens`, which no user text can produce. Numbers are one id a character.
    Several values of a category repeat the tag in 'text'; in 'compact' their ids follow the
    category's one id: a value's id belongs to one category, so it needs no other to say which.

    Attributes:
        taxonomy, template: as given.
        n_reserved: count of reserved ids; 0 for all but 'compact'.
        open, close: ids around a block.
        number_ids: '0'..'9', '.', '-' -> id; empty when no category is a number.
    """

    def __init__(self, taxonomy: Taxonomy, template: str, tokenizer: Any):
        """`tokenizer` has size, encode(text) -> ids and decode(ids) -> text.

        Raises MarkerError for an unknown template, and for a tokenizer that cannot tell the
        markers of this taxonomy apart (unknown characters, digits that are not one token).
        """
        if template not in TEMPLATES:
            raise MarkerError(f"unknown template {show(template)}; {mend(template, TEMPLATES)}")
        self.taxonomy = taxonomy
        self.template = template
        self._tokenizer = tokenizer
        self._size = int(tokenizer.size)
        numeric = [c.name for c in taxonomy.categories.values() if not c.is_closed]
        self.number_ids: Mapping[str, int] = self._number_ids() if numeric else {}
        self._characters = {id: character for character, id in self.number_ids.items()}
        if template == "compact":
            self._build_compact()
        else:
            self._build_text(FORMS[template])
        self._names = {
            name: {ids: taxonomy.check(name, value) for value, ids in table.items()}
            for name, table in self._values.items()
        }
        self._read_back(numeric)

    def _encode(self, text: str) -> Ids:
        return tuple(int(id) for id in self._tokenizer.encode(text))

    def _number_ids(self) -> dict[str, int]:
        ids = {character: self._encode(character) for character in NUMBER_CHARACTERS}
        for character, piece in ids.items():
            if len(piece) != 1:
                raise MarkerError(
                    f"the tokenizer writes {character!r} as {len(piece)} ids; number markers need"
                    " a tokenizer with one id for each digit, '.' and '-'"
                )
        if len(set(ids.values())) != len(ids):
            raise MarkerError(
                "the tokenizer gives two of the characters 0123456789.- the same id; number"
                " markers need a tokenizer that knows all of them"
            )
        return {character: piece[0] for character, piece in ids.items()}

    def _build_text(self, form: Form) -> None:
        categories = self.taxonomy.categories.values()
        self.n_reserved = 0
        self.open, self.close = self._encode(form.open), self._encode(form.close)
        self._prefix = {
            c.name: self._encode(form.before(c.name, not c.is_closed)) for c in categories
        }
        self._suffix = {c.name: self._encode(form.after(c.name)) for c in categories}
        self._again = self._prefix
        self._values = {
            c.name: {value: self._encode(form.gap + escape(value)) for value in c.values}
            for c in categories
        }

    def _build_compact(self) -> None:
        categories = self.taxonomy.categories.values()
        tokens = reserved_tokens(self.taxonomy)
        ids = {token: (self._size + i,) for i, token in enumerate(tokens)}
        self.n_reserved = len(tokens)
        self.open, self.close = ids[tokens[0]], ids[tokens[1]]
        self._prefix = {c.name: ids[category_token(c.name)] for c in categories}
        self._suffix = {c.name: () for c in categories}
        self._again = self._suffix
        self._values = {
            c.name: {value: ids[value_token(c.name, value)] for value in c.values}
            for c in categories
        }

    def _read_back(self, numeric: Iterable[str]) -> None:
        """Parses every marker once: a tokenizer with unknown characters is found here, not later
        as silently wrong training data."""
        several = [c for c in self.taxonomy.categories.values() if c.several]
        probes = [(name, value) for name, table in self._values.items() for value in table]
        probes += [(c.name, tuple(c.values)) for c in several]
        probes += [(name, number) for name in numeric for number in (-1234567890, 0)]
        for name, value in probes:
            block = self.open + self.marker(name, value) + self.close
            try:
                markers, consumed = self.parse(block)
            except MarkerError as error:
                markers, consumed = {name: str(error)}, 0
            if markers != {name: self.taxonomy.check(name, value)} or consumed != len(block):
                raise MarkerError(
                    f"the tokenizer cannot write {name}={show(value)} so that it reads back (got"
                    f" {show(markers.get(name))}); use template 'compact' or a tokenizer that"
                    " knows these characters"
                )

    def prefix(self, category: str) -> Ids:
        """Ids before a value: '<lang>' tokenized, or the category's reserved id."""
        return self._prefix[self.taxonomy.category(category).name]

    def suffix(self, category: str) -> Ids:
        """Ids after a value: '</lang>\\n' tokenized, or none."""
        return self._suffix[self.taxonomy.category(category).name]

    def again(self, category: str) -> Ids:
        """Ids between the suffix of one value and a further value of the same category: the prefix
        in 'text', none in 'compact'."""
        return self._again[self.taxonomy.category(category).name]

    def value(self, category: str, value: Any) -> Ids:
        """Ids of a value, of several with what stands between them; MarkerError when the taxonomy
        does not know it."""
        value = self.taxonomy.check(category, value)
        if isinstance(value, tuple):
            between = self._suffix[category] + self._again[category]
            first, *further = (self._values[category][one] for one in value)
            return sum((between + ids for ids in further), first)
        if self._values[category]:
            return self._values[category][value]
        return tuple(self.number_ids[character] for character in number_text(value))

    def marker(self, category: str, value: Any) -> Ids:
        """Ids of a whole marker: prefix, value, suffix."""
        return self.prefix(category) + self.value(category, value) + self.suffix(category)

    def parse(self, ids: Iterable[int]) -> tuple[dict[str, Any], int]:
        """Canonical markers of a block, in the order written, and the count of ids it takes.

        `ids` begins with `open`; what follows `close` is not looked at. Raises MarkerError when the
        block is malformed, holds an unknown marker, or does not end.
        """
        ids = tuple(int(id) for id in ids)
        if not _at(ids, 0, self.open):
            raise MarkerError(f"the ids do not begin with the open of a marker block: {show(ids)}")
        markers: dict[str, Any] = {}
        start = len(self.open)
        while not _at(ids, start, self.close):
            name = self._category_at(ids, start)
            if name in markers:
                raise MarkerError(f"category {name} stands twice in a marker block, at id {start}")
            value, start = self._value_at(name, ids, start + len(self._prefix[name]))
            while self._goes_on(name, ids, start):
                further, start = self._value_at(name, ids, start + len(self._again[name]))
                value += further
            markers[name] = self.taxonomy.check(name, value)
        return markers, start + len(self.close)

    def _category_at(self, ids: Ids, start: int) -> str:
        for name, prefix in self._prefix.items():
            if _at(ids, start, prefix):
                return name
        raise MarkerError(
            f"a marker block has neither a category nor its close at id {start}:"
            f" {show(ids[start : start + 8])}"
        )

    def _value_at(self, name: str, ids: Ids, start: int) -> tuple[Any, int]:
        """One value, and where its suffix ends."""
        end = self._value_end(name, ids, start)
        return self._read_value(name, ids[start:end], start), end + len(self._suffix[name])

    def _goes_on(self, name: str, ids: Ids, start: int) -> bool:
        """Whether a further value of a category that allows several stands here."""
        if not self.taxonomy.categories[name].several:
            return False
        again = self._again[name]
        return _at(ids, start, again) if again else ids[start : start + 1] in self._names[name]

    def _value_end(self, name: str, ids: Ids, start: int) -> int:
        suffix = self._suffix[name]
        if suffix:
            for end in range(start, len(ids) - len(suffix) + 1):
                if _at(ids, end, suffix):
                    return end
            raise MarkerError(f"the value of {name} at id {start} of a marker block does not end")
        if self._values[name]:
            return start + 1
        end = start
        while end < len(ids) and ids[end] in self._characters:
            end += 1
        return end

    def _read_value(self, name: str, piece: Ids, start: int) -> str | tuple[str] | int | float:
        if piece in self._names[name]:
            return self._names[name][piece]
        if not self._values[name] and all(id in self._characters for id in piece):
            return self.taxonomy.check(name, "".join(self._characters[id] for id in piece))
        # A model that writes freely may split a text value in another way than the tokenizer does.
        if self.template != "compact" and all(0 <= id < self._size for id in piece):
            text = self._tokenizer.decode(list(piece))
            text = text.removeprefix(FORMS[self.template].gap)
            return self.taxonomy.check(name, unescape(text))
        raise MarkerError(f"the ids {show(piece)} at {start} are no value of {name}")


def _at(ids: Ids, start: int, piece: Ids) -> bool:
    return ids[start : start + len(piece)] == piece
