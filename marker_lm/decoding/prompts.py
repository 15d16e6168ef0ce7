"""Prompts as tokens: a text, or the turns of a conversation, written as in training.

Under a chat template a text is the message of a user. The answers in a conversation may have
`markers`; they are written as training writes them where dropout takes the whole prompt side: in
the list of the answer alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marker_lm.data.assembly import Layout, assemble
from marker_lm.data.chat import Chat, Turn, check_messages
from marker_lm.data.row_markers import fill_buckets
from marker_lm.data.spans import Spans
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import Taxonomy

Prompt = str | Sequence[Mapping[str, Any]]  # a text, or messages that end with what is asked


@dataclasses.dataclass(frozen=True)
class PromptWriter:
    """Writes prompts with the objects of a run; `chat` is None where it has no template."""

    taxonomy: Taxonomy
    codec: MarkerCodec
    layout: Layout
    tokenizer: Tokenizer
    chat: Chat | None

    def turns(self, prompt: Prompt, completion: str | None = None) -> list[Turn]:
        """The turns of a prompt, the last one with an empty completion, or with the given one.

        Raises:
          ValueError: messages that are none, or that the template can't write.
        """
        if self.chat is None:
            if not isinstance(prompt, str):
                raise ValueError(
                    "messages need a chat template, and the model was trained without one; give "
                    "the prompt as a text."
                )
            return [Turn(prompt, completion or "")]
        if isinstance(prompt, str):
            messages = self.chat.plain(prompt)
        else:
            messages = check_messages(prompt, asked=True)
        if completion:
            messages = [*messages, {"role": "assistant", "content": completion}]
        turns = self.chat.turns(messages, asked=not completion)
        answers = [message for message in messages if message["role"] == "assistant"]
        written = [self._markers(message) for message in answers]
        return [
            dataclasses.replace(turn, markers=markers)
            for turn, markers in zip(turns, [*written, {}], strict=False)
        ]

    def _markers(self, message: Mapping) -> dict:
        """The markers of an earlier answer, as they would be read from a training row."""
        markers = dict(self.taxonomy.check_all(message.get("markers") or {}))
        fill_buckets(markers, dict.fromkeys(markers), self.taxonomy)
        return markers

    def spans(self, turn: Turn) -> Spans:
        """The tokens of a turn, with those of its markers that are levers of the model."""
        return Spans(
            "",
            np.asarray(self.tokenizer.encode(turn.prompt), np.int32),
            np.asarray(self.tokenizer.encode(turn.completion), np.int32),
            {
                c: np.asarray(self.codec.marker(c, v), np.int32)
                for c, v in turn.markers.items()
                if c in self.layout.levers
            },
        )

    def history(self, turns: Sequence[Turn]) -> np.ndarray:
        """Answered turns as they stand before the next one, int32[n]."""
        parts = [assemble(self.layout, self.spans(turn), ())[0] for turn in turns]
        return np.concatenate([np.zeros(0, np.int32), *parts])
