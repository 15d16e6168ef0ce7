"""An engine without a model: its answers say what it was asked."""

import json
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

from marker_lm.decoding.controls import Controls, check_controls
from marker_lm.decoding.request import Request
from marker_lm.decoding.result import Result, Update
from tests.decoding.small import make_layout, make_taxonomy


class FakeEngine:
    """Answers 'You said PROMPT' in pieces; infers lang=English and refuses the prompt 'refuse'.

    Attributes:
      requests: all that came.
      interrupt: a number of pieces after which Ctrl-C is pressed.
      measured: what lengths are of.
    """

    def __init__(self, conversations: bool = False, blocks: bool = True):
        self.taxonomy, self.layout = make_taxonomy(), make_layout("compact", blocks)
        self.chat = SimpleNamespace(plain=_plain) if conversations else None
        self.requests: list[Request] = []
        self.interrupt: int | None = None
        self.measured = ""

    def check(self, controls: Controls) -> Controls:
        return check_controls(controls, self.taxonomy, self.layout.completion_side)

    def measure(self, what: str, count) -> None:
        self.measured = what

    def stream(self, requests: Iterable[Request]) -> Iterator[Update]:
        for number, request in enumerate(requests):
            self.requests.append(request)
            answer = self._answer(request)
            if isinstance(answer, str):
                yield Update(number, "", answer)
                continue
            pieces = answer.text.split(" ")
            for at, piece in enumerate(pieces):
                if at == self.interrupt:
                    raise KeyboardInterrupt
                yield Update(number, piece if at == 0 else f" {piece}", None)
            yield Update(number, "", answer)

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Result | str]]:
        """The last one ends first."""
        requests = list(requests)
        self.requests += requests
        yield from ((n, self._answer(requests[n])) for n in reversed(range(len(requests))))

    def _answer(self, request: Request) -> Result | str:
        names = self.layout.completion_side
        pinned = self.check(request.controls).pinned
        prompt = request.prompt
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if text == "refuse":
            return "the prompt is refused."
        found = {} if "lang" in request.controls.banned or not names else {"lang": "English"}
        markers = {**found, **pinned}
        probability = {c: 1.0 if c in pinned else 0.75 for c in markers}
        reason = "max_tokens" if request.sampling.max_tokens < 3 else "end"
        said = "" if text == "blank" else f"You said {text}"
        return Result(said, markers, tuple(pinned), probability, (1, 2), reason, -1.5)


def _plain(text: str) -> list[dict]:
    return [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").rstrip("\n").split("\n")]
