"""A conversation with levers, without a terminal: lines go in, events come out.

A line that begins with '/' moves a lever or a setting; any other is a prompt. With a chat template
the model reads the whole conversation, with the markers of its earlier answers; without one each
prompt stands alone. Every answer takes the next seed, so the same lines give the same session.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from marker_lm.decoding.chat_events import Answered, Event, Lever, Levers, Piece, Said
from marker_lm.decoding.controls import Controls, check_lever
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.levers import pinned_too, sweep_values
from marker_lm.decoding.request import Request
from marker_lm.decoding.requests import Counters
from marker_lm.decoding.sampling import Sampling
from marker_lm.markers.category import mend

COMMANDS = {
    "set": "CATEGORY=VALUE pins it; several values of one category are parted by ';'",
    "free": "[CATEGORY] leaves it to the model; without a name, all of them",
    "ban": "CATEGORY may not be written",
    "ask": "CATEGORY must be written, with the model's own value",
    "levers": "shows all categories and what is said about them",
    "hold": "[CATEGORY] keeps answers to the number that is pinned of it; without a name, no more",
    "guide": "WEIGHT [CATEGORY ...] strengthens what is pinned; 1 is plain",
    "sweep": "CATEGORY [PROMPT] answers the last prompt with each value of it",
    "temperature": "NUMBER of the text; 0 is greedy",
    "top_k": "NUMBER of likeliest tokens that are kept; 0 keeps all",
    "top_p": "NUMBER: the nucleus that is kept",
    "repetition_penalty": "NUMBER against repeated tokens; 1 is none",
    "max_tokens": "NUMBER of an answer",
    "seed": "NUMBER of the next answer",
    "reset": "forgets the conversation; the levers stay",
    "save": "FILE writes the answers so far, as JSONL",
    "help": "shows this",
    "quit": "ends the session",
}
SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty", "max_tokens", "seed")
_OF_CATEGORY = ("set", "free", "ban", "ask", "hold", "sweep")


class LineError(ValueError):
    """A line that can't be followed; one sentence."""


class ChatSession:
    """The state of a session.

    Args:
      engine: an Engine.
      controls, sampling, guidance: to begin with; raises MarkerError for a lever that the model
        does not have.
      counters: what /hold takes, see `requests.hold`.

    Attributes:
      open: whether nobody has said /quit.
      lines: what /save writes, a mapping an answer.
    """

    def __init__(
        self,
        engine,
        controls: Controls | None = None,
        sampling: Sampling | None = None,
        guidance: Guidance | None = None,
        counters: Counters | None = None,
    ):
        self.engine, self.guidance = engine, guidance
        self.sampling = sampling or Sampling()
        self.counters, self.held = counters or {}, ""
        self.controls = engine.check(controls or Controls())
        self.open = True
        self.lines: list[dict] = []
        self._messages: list[dict] = []
        self._last: str | None = None
        self._saved: set[str] = set()

    def handle(self, line: str) -> Iterator[Event]:
        """Follows one line. Where the caller stops midway, the answer is not part of the session.

        Raises ValueErrors of one sentence for a line that can't be followed; nothing has changed
        then.
        """
        line = line.strip()
        if not line.startswith("/"):
            yield from self._answer(line) if line else ()
            return
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise LineError(f"there is no command /{name}; {mend(name, COMMANDS)}")
        if name in SETTINGS:
            yield from self._change(name, rest.strip())
        else:
            yield from getattr(self, f"_{name}")(rest.strip())

    def complete(self, line: str) -> list[str]:
        """How a line may go on: commands, then categories, then values."""
        name, space, rest = line.partition(" ")
        if not space:
            return [f"/{c}" for c in COMMANDS if f"/{c}".startswith(line)] if line else []
        if name.removeprefix("/") not in (*_OF_CATEGORY, "guide"):
            return []
        before, last = rest[: rest.rfind(" ") + 1], rest[rest.rfind(" ") + 1 :]
        category, equals, _ = rest.partition("=")
        if name == "/set" and equals:
            values = self._values(category) if category in self.names else ()
            found = [f"{category}={value}" for value in values]
            return [f"{name} {one}" for one in found if one.startswith(rest)]
        end = "=" if name == "/set" else ""
        return [f"{name} {before}{c}{end}" for c in self.names if c.startswith(last)]

    @property
    def names(self) -> tuple[str, ...]:
        return self.engine.layout.completion_side

    def _values(self, category: str) -> tuple[str, ...]:
        return tuple(self.engine.taxonomy.categories[category].values)

    def _request(self, text: str, controls: Controls) -> Request:
        prompt: Any = text
        if self.engine.chat is not None:
            before = self._messages or self.engine.chat.plain(text)[:-1]
            prompt = [*before, {"role": "user", "content": text}]
        length = max(controls.pinned.get(self.held, 0), 0)
        sampling = dataclasses.replace(self.sampling, length=length)
        return Request(prompt, controls, sampling, self.guidance)

    def _answer(self, text: str) -> Iterator[Event]:
        request = self._request(text, self.controls)
        result = None
        for update in self.engine.stream([request]):
            if update.text:
                yield Piece(update.text)
            result = update.result
        if isinstance(result, str):
            raise LineError(result)
        self._note(text, request, result)
        self._last = text
        if self.engine.chat is not None and result.text.strip():
            said = {"role": "assistant", "content": result.text, "markers": result.markers}
            self._messages = [*request.prompt, said]
        self.sampling = dataclasses.replace(self.sampling, seed=self.sampling.seed + 1)
        yield Answered(result)

    def _note(self, text: str, request: Request, result, **more) -> None:
        guidance = {"guidance": request.guidance.weight} if request.guidance else {}
        sampling = {name: getattr(request.sampling, name) for name in SETTINGS}
        if request.sampling.length:
            sampling["length"] = request.sampling.length
        line = {"prompt": text, **more, **result.to_dict(), "sampling": sampling, **guidance}
        self.lines.append(line)

    def _sweep(self, rest: str) -> Iterator[Event]:
        category, _, text = rest.partition(" ")
        text = text.strip() or self._last
        values = sweep_values(self.engine, category)
        if text is None:
            raise LineError(f"there is no prompt yet; write /sweep {category} PROMPT.")
        request = self._request(text, self.controls)
        requests = [pinned_too(request, {category: value}) for value in values]
        ended: dict[int, Any] = {}
        shown = 0
        for number, result in self.engine.run(requests):
            ended[number] = result
            while shown in ended:
                result, value = ended[shown], f"{category}={values[shown]}"
                if isinstance(result, str):
                    yield Said(f"{value}: {result}")
                else:
                    self._note(text, requests[shown], result, sweep=value)
                    yield Answered(result, value)
                shown += 1

    def _set(self, rest: str) -> Iterator[Event]:
        category, equals, value = (part.strip() for part in rest.partition("="))
        if not equals or not value:
            raise LineError(f"/set {rest} is not /set CATEGORY=VALUE, such as /set lang=German.")
        if self.engine.taxonomy.category(category).several:
            value = [one.strip() for one in value.split(";")]
        self.controls = self.engine.check(self.controls.pinned_too({category: value}))
        yield Said(f"{category} is pinned to {show(self.controls.pinned[category])}")

    def _free(self, rest: str) -> Iterator[Event]:
        if not rest:
            self.controls = self.controls.without(self.names)
            yield Said("all levers are free")
            return
        check_lever(rest, self.names)
        self.controls = self.controls.without({rest})
        yield Said(f"{rest} is free")

    def _ban(self, rest: str) -> Iterator[Event]:
        check_lever(rest, self.names)
        without = self.controls.without({rest})
        self.controls = dataclasses.replace(without, banned=without.banned | {rest})
        yield Said(f"{rest} is banned")

    def _ask(self, rest: str) -> Iterator[Event]:
        check_lever(rest, self.names)
        without = self.controls.without({rest})
        self.controls = dataclasses.replace(without, asked=without.asked | {rest})
        yield Said(f"{rest} is asked for")

    def _hold(self, rest: str) -> Iterator[Event]:
        if rest and rest not in self.counters:
            raise LineError(f"/hold {rest}: nothing counts that; {mend(rest, self.counters)}")
        if rest:
            self.engine.measure(rest, self.counters[rest])
        self.held = rest
        yield Said(f"answers are held to {rest}, where it is pinned" if rest else "nothing is held")

    def _guide(self, rest: str) -> Iterator[Event]:
        weight, *categories = rest.split() or [""]
        number = _number(weight, float, "guide", "2.0")
        for category in categories:
            check_lever(category, self.names)
        self.guidance = Guidance(number, categories=frozenset(categories)) if number != 1 else None
        what = ", ".join(categories) or "what is pinned"
        yield Said(f"{what} is guided with weight {number:g}" if number != 1 else "no guidance")

    def _change(self, name: str, rest: str) -> Iterator[Event]:
        kind = int if isinstance(getattr(Sampling(), name), int) else float
        value = _number(rest, kind, name, "40" if kind is int else "1.0")
        self.sampling = dataclasses.replace(self.sampling, **{name: value})
        yield Said(f"{name} is {value}")

    def _levers(self, rest: str) -> Iterator[Event]:
        yield Levers(tuple(self._lever(name) for name in self.names))

    def _lever(self, name: str) -> Lever:
        category, controls = self.engine.taxonomy.categories[name], self.controls
        state = "banned" if name in controls.banned else "free"
        state = "asked" if name in controls.asked else state
        state = "pinned" if name in controls.pinned else state
        takes = ", ".join(category.values) or f"{category.type} of {category.unit}"
        return Lever(name, state, controls.pinned.get(name), takes)

    def _reset(self, rest: str) -> Iterator[Event]:
        self._messages, self._last = [], None
        yield Said("the conversation begins anew")

    def _save(self, rest: str) -> Iterator[Event]:
        if not rest:
            raise LineError("/save needs the name of a file, such as /save talk.jsonl.")
        if rest not in self._saved and epath.Path(rest).exists():
            raise LineError(f"{rest} is there already; give another name.")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines)
        try:
            epath.Path(rest).write_text(text, encoding="utf-8")
        except OSError as error:
            raise LineError(f"{rest} can't be written ({error}); give another file.") from None
        self._saved.add(rest)
        yield Said(f"{len(self.lines)} answers: {rest}")

    def _help(self, rest: str) -> Iterator[Event]:
        yield Said("\n".join(f"/{name} {what}" for name, what in COMMANDS.items()))

    def _quit(self, rest: str) -> Iterator[Event]:
        self.open = False
        return iter(())


def show(value: Any) -> str:
    """A marker's value for people; several are parted by ';', as they are given."""
    return "; ".join(value) if isinstance(value, tuple | list) else str(value)


def _number(text: str, kind: type, name: str, example: str):
    try:
        return kind(text)
    except ValueError:
        raise LineError(f"/{name} {text} is not a number; write /{name} {example}.") from None
