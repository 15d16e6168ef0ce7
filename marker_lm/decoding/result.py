"""What comes back for one row."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Result:
    """An answer that has ended.

    Attributes:
      text: the answer, without marker block and what ended it.
      markers: the completion-side list, in its order.
      pinned: the categories of `markers` that were given by the user.
      probability: category -> probability of its value (1 for pinned ones).
      tokens: ids of the answer without the one that ends it. Where a stop text ended it, they go up
        to the token that completed that text, which may hold more than `text`.
      reason: why it ended: 'end' (the model's own), 'stop' (a stop text or token), 'max_tokens', or
        'length' (the model's length was full; a long prompt and list may leave no room at all).
      log_likelihood: sum of the log-probabilities (natural logarithm) of `tokens` and of what ended
        them, at temperature 1, under the guided logits where there is guidance.
    """

    text: str
    markers: dict
    pinned: tuple[str, ...]
    probability: dict[str, float]
    tokens: tuple[int, ...]
    reason: str
    log_likelihood: float

    @property
    def finished(self) -> bool:
        """Whether the answer ended by itself, and not for want of room."""
        return self.reason in ("end", "stop")

    def to_dict(self) -> dict:
        """JSON-able, without the ids."""
        fields = dataclasses.asdict(self)
        fields.pop("tokens")
        return fields | {"pinned": list(self.pinned), "finished": self.finished}


@dataclasses.dataclass(frozen=True)
class Update:
    """News of one row.

    Attributes:
      number: of the request, in the order in which they were given.
      text: what has been added since the last update of this request. All updates together give the
        text of the Result, but where the answer breaks off within a character: a tokenizer may then
        write what came before it otherwise, and the Result's text is the right one.
      result: set when the request has ended: its Result, or one sentence why it was refused.
    """

    number: int
    text: str
    result: Result | str | None = None
