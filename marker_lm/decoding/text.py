"""From the tokens of one answer to its text, while they come in."""

import os
from collections.abc import Sequence

from marker_lm.data.chat import Chat
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.decoding.sampling import Sampling

BROKEN = "\ufffd"  # what tokenizers write for bytes that are no character, or not yet


class Text:
    """The text of an answer so far.

    Attributes:
      ids: of the answer; see `Result.tokens`.
      reason: 'end' or 'stop' once it has ended by itself.
    """

    def __init__(
        self, tokenizer: Tokenizer, chat: Chat | None, ends: Sequence[int], sampling: Sampling
    ):
        self.ids: list[int] = []
        self.reason = ""
        self._tokenizer, self._chat = tokenizer, chat
        self._ends, self._stop, self._stop_ids = ends, sampling.stop, sampling.stop_ids
        self._given = ""

    def take(self, ids: Sequence[int]) -> int:
        """Takes further ids, up to the one that ends the text; returns how many those are.

        What comes of it does not depend on how many are taken at a time.
        """
        had = len(self.ids)
        ending = (n for n, id in enumerate(ids) if id in self._ends or id in self._stop_ids)
        size = next(ending, len(ids))
        self.ids += ids[:size]
        if self._stop and self._has_stop(len(self.ids)):
            found = (n for n in range(had + 1, len(self.ids)) if self._has_stop(n))
            del self.ids[next(found, len(self.ids)) :]
            self.reason = "stop"
            return len(self.ids) - had
        if size < len(ids):
            self.reason = "end" if ids[size] in self._ends else "stop"
            return size + 1
        return size

    def _has_stop(self, size: int) -> bool:
        text = self._tokenizer.decode(self.ids[:size])
        return any(stop in text for stop in self._stop)

    def whole(self) -> str:
        """The text of all ids, up to a stop text, without what a chat template writes around it."""
        text = self._tokenizer.decode(self.ids)
        text = text[: min((text.find(stop) for stop in self._stop if stop in text), default=None)]
        return self._chat.answer(text) if self._chat else text

    def news(self, ended: bool) -> str:
        """What can be shown since the last call: all that no later token can change or cut."""
        text = self.whole() if ended else self._settled()
        if ended or text.startswith(self._given):
            same = len(os.path.commonprefix([text, self._given]))
            self._given, text = text, text[same:]
            return text
        return ""

    def _settled(self) -> str:
        """The text without what may still become another character, or part of a stop text."""
        text = self._tokenizer.decode(self.ids).rstrip(BROKEN)
        before, after = self._chat.around if self._chat else ("", "")
        if len(text) < len(before) and before.startswith(text):
            return ""
        text = text[: len(text) - max(held(text, s) for s in (*self._stop, after))]
        return text.removeprefix(before)


def held(text: str, end: str) -> int:
    """How many characters at the end of `text` are the beginning of `end`, or all of it."""
    sizes = range(min(len(text), len(end)), 0, -1)
    return next((n for n in sizes if text.endswith(end[:n])), 0)
