"""Conversations as text: a model's chat template, and which of that text the model is to write.

A template is the Jinja text that ships with a model (`chat_template`). It is rendered as
`transformers` does it, in a sandbox. What the model is to write are the answers, each with the
token that ends it:

    <|user|>\\nHi<|end|>\\n<|assistant|>\\n | Hello      | <|end|> | \\n<|user|>\\nBye<|end|>\\n ...
    prompt of the first turn              | completion | eos     | prompt of the second

Where an answer begins is found by rendering the messages before it with the generation prompt, just
as at decoding, and never by searching the text for it.
"""

import dataclasses
import datetime
import difflib
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from marker_lm.data.spans import Spans
from marker_lm.data.tokenizers.base import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
_CONTENTS = ("first", "other")  # answers that begin and end with different letters


class ChatError(ValueError):
    """A template or messages that cannot be used: one sentence, and the kind of the fault."""

    def __init__(self, reason: str, kind: str = "chat template"):
        super().__init__(reason)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Turn:
    """One answer and what stands before it, since the end of the answer before.

    prompt: the template's text up to where the answer begins
    completion: what the model is to write, without the token that ends it; '' where it is asked
    markers: category -> canonical value
    """

    prompt: str
    completion: str
    markers: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Chat:
    """A chat template with the special tokens that it may write; can be sent to other processes.

    template: Jinja text.
    special: name -> text of special tokens: 'bos_token', 'eos_token', ...
    system: text of a system message before a prompt that is given as plain text; none when empty.

    Raises:
      ChatError: at first use, for a template that is no Jinja, or that does not write an answer as
        it is.
    """

    template: str
    special: Mapping[str, str]
    system: str = ""

    def about(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"template": self.template, "system": self.system}

    def plain(self, prompt: str, completion: str | None = None) -> list[dict[str, str]]:
        """The messages of a row that has a prompt and a completion."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": prompt})
        if completion is not None:
            messages.append({"role": "assistant", "content": completion})
        return messages

    def turns(self, messages: Sequence[Mapping[str, Any]], asked: bool = False) -> list[Turn]:
        """The turns of a conversation, without markers.

        Args:
          messages: checked ones, see `check_messages`; the last one is an answer.
          asked: the last message is not an answer: one more turn is to be written, and its
            completion is ''.

        Raises:
          ChatError: the template refuses the messages, or writes an answer in another way than it
            would have to be written after the messages before it.
        """
        for number, message in enumerate(messages, 1):
            if self.end in message["content"]:
                raise ChatError(
                    f"message {number} holds {self.end!r}, the text of the token that ends an "
                    "answer; leave it out",
                    "message holds the end of an answer",
                )
        whole = self._render(messages, asked)
        turns: list[Turn] = []
        at = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            head = self._render(messages[:number], True)
            if not whole.startswith(head):
                raise ChatError(
                    f"the chat template writes what stands before message {number + 1} otherwise "
                    "when more messages follow; give each answer a row of its own",
                    "chat template rewrites earlier turns",
                )
            is_last = number + 1 == len(messages)
            written = self._written(whole[len(head) :], message["content"], is_last)
            if written is None:
                raise ChatError(
                    f"the chat template does not write message {number + 1} as an answer to what "
                    "stands before it (it changes its text, or leaves out its thinking); mend the "
                    "message or give each answer a row of its own",
                    "chat template rewrites answers",
                )
            turns.append(Turn(whole[at : len(head)], written))
            at = len(head) + len(written) + len(self.end)
        if asked:
            turns.append(Turn(whole[at:], ""))
        return turns

    def text(self, turns: Sequence[Turn]) -> str:
        """All that the template writes, up to the end of the last answer."""
        return "".join(turn.prompt + turn.completion + self.end for turn in turns)

    def answer(self, written: str) -> str:
        """An answer without what the template writes around it, such as a space before it."""
        before, after = self.around
        return written.removeprefix(before).removesuffix(after)

    @property
    def around(self) -> tuple[str, str]:
        """What the template writes before an answer and after it, '' mostly."""
        return self._around[:2]

    @property
    def end(self) -> str:
        """The text of the token that ends an answer."""
        return self._around[2]

    def end_id(self, tokenizer: Tokenizer) -> int:
        """The token that ends an answer; ChatError where the tokenizer has no such token."""
        if self.end == self.special.get("eos_token"):
            return tokenizer.eos_id
        ids = tokenizer.encode(self.end)
        if len(ids) != 1:
            raise ChatError(
                f"the chat template ends an answer by {self.end!r}, which takes {len(ids)} tokens "
                "of this tokenizer; choose the tokenizer that the template was made for, or end "
                "answers by {{ eos_token }}"
            )
        return ids[0]

    def _written(self, rest: str, content: str, is_last: bool) -> str | None:
        """The answer as it stands at the beginning of `rest`; None where it stands there changed.

        A template may trim it. The last one may begin with its own thinking, where the template
        else writes an empty one.
        """
        before, after, end = self._around
        ways = [before + text + after for text in (content, content.strip())]
        ways += [content + after] if is_last else []
        return next((way for way in ways if rest.startswith(way + end)), None)

    @functools.cached_property
    def _around(self) -> tuple[str, str, str]:
        """What the template writes before an answer, after it, and the token that ends it."""
        question = {"role": "user", "content": "question"}
        head = self._render([question], True)
        wholes = [
            self._render([question, {"role": "assistant", "content": text}], False)
            for text in _CONTENTS
        ]
        if not all(whole.startswith(head) for whole in wholes):
            raise ChatError(
                "the chat template writes another text before an answer than as its generation "
                f"prompt, which is {head[-60:]!r}; mend the template"
            )
        rests = [whole[len(head) :] for whole in wholes]
        before = os.path.commonprefix(rests)
        rest = os.path.commonprefix([text[::-1] for text in rests])[::-1]
        if any(before + c + rest != r for c, r in zip(_CONTENTS, rests, strict=True)):
            raise ChatError("the chat template changes the answers that it writes; mend it")
        # What a template writes when nothing follows, such as a last eos, ends no answer.
        end = rest.strip()
        end = end.removesuffix(self.special.get("eos_token") or "").strip() or end
        if not end:
            raise ChatError(
                f"the chat template ends an answer by {rest!r}, which is no token; let it end "
                "answers by a special token, such as {{ eos_token }}"
            )
        return before, rest[: rest.index(end)], end

    def _render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        shown = [{k: v for k, v in message.items() if k != "markers"} for message in messages]
        try:
            return _compile(self.template).render(
                messages=shown,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special,
            )
        except ChatError:
            raise
        except Exception as error:  # a template is a program, and can fail in any way
            said = " ".join(str(error).split())[:200]
            raise ChatError(
                f"the chat template refuses the messages: {said}", "chat template refuses"
            ) from None


@functools.lru_cache
def _compile(template: str):
    """A template in the sandbox and with the functions that `transformers` gives to it."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the model's text for others; here it is read and left out."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            # A block of calls, as it is there, so that variables have the same scope.
            call = self.call_method("_body")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _body(self, caller) -> str:
            return caller()

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ChatError(f"the chat template is no Jinja: line {error.lineno}: {error}") from None


def load_chat(section: Mapping[str, Any], tokenizer: Tokenizer | None) -> Chat | None:
    """The Chat of a config's `data.chat` section; None where it names no template.

    Args:
      section: `template` is '', 'model' (the tokenizer's own), the path of a Jinja file, or the
        template itself; `system` is text.
      tokenizer: of the model.

    Raises:
      ChatError: there is no such template, or none that can be used with this tokenizer.
    """
    template = template_text(section.get("template", ""), tokenizer)
    if not template:
        return None
    special = getattr(tokenizer, "special", None)
    if special is None:  # a tokenizer without special tokens in its texts still has an eos
        special = {"eos_token": tokenizer.piece(tokenizer.eos_id)}
    special = {name: text for name, text in special.items() if text}
    chat = Chat(template, special, section.get("system", ""))
    chat.end_id(tokenizer)
    return chat


def template_text(name: str, tokenizer: Tokenizer | None) -> str:
    """The Jinja text that `data.chat.template` names; '' where it names none."""
    if not name or "{%" in name or "{{" in name:
        return name
    if name == "model":
        found = getattr(tokenizer, "chat_template", None)
        if not found:
            raise ChatError(
                "data.chat.template='model', but the tokenizer has no chat template; give the path "
                "of a Jinja file, or '' for no template"
            )
        return found
    path = epath.Path(name)
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"the nearest name there is '{near[0]}'" if near else "give the path of a Jinja file"
        raise ChatError(f"data.chat.template='{name}': there is no such file; {hint}")
    return path.read_text(encoding="utf-8")


def check_messages(value: Any, asked: bool = False) -> list[dict[str, Any]]:
    """The messages of a row, or ChatError with the reason why they are none.

    Args:
      value: of the row's field.
      asked: whether the last message must be no answer; else it must be one.
    """
    if not isinstance(value, list | tuple):
        raise ChatError(
            f"the messages are a {type(value).__name__}, not a list", "messages are not a list"
        )
    if not value:
        raise ChatError("the list of messages is empty", "messages are empty")
    for number, message in enumerate(value, 1):
        _check_message(message, f"message {number}")
    is_answer = value[-1]["role"] == "assistant"
    if is_answer and asked:
        raise ChatError("the last message is an answer; end with what is asked", "nothing is asked")
    if not is_answer and not asked:
        raise ChatError(
            f"the last message has the role '{value[-1]['role']}' and no answer; answer it or "
            "leave it out",
            "last message is not an answer",
        )
    # A column of Parquet has every key for every message.
    return [{k: v for k, v in message.items() if v is not None} for message in value]


def _check_message(message: Any, name: str) -> None:
    if not isinstance(message, Mapping):
        raise ChatError(
            f"{name} is a {type(message).__name__}, not an object with 'role' and 'content'",
            "message is not an object",
        )
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ChatError(
            f"{name} has the role {role!r:.60}; it must be one of {', '.join(ROLES)}",
            "unknown role",
        )
    if not isinstance(content, str):
        raise ChatError(
            f"the content of {name} is {content!r:.60}, not a string", "content is not a string"
        )
    if role in ("user", "assistant") and not content.strip():
        raise ChatError(f"the content of {name} is blank", "content is blank")
    markers = message.get("markers") or {}
    if not isinstance(markers, Mapping):
        raise ChatError(
            f"the markers of {name} are {markers!r:.60}, not an object of category: value",
            "markers are not an object",
        )
    if role != "assistant" and any(value is not None for value in markers.values()):
        raise ChatError(
            f"{name} has markers and the role '{role}'; only answers have markers",
            "markers of a question",
        )


def mark_conversations(
    chat: Chat, tokenizer: Tokenizer, texts: Sequence[Sequence[Turn]], rows: Sequence[Spans]
) -> None:
    """Sets `begins` and `apart` of rows.

    Prompts and answers are tokenized apart, so that no token reaches over the border between them;
    tokens of the text as one piece may.

    Args:
      texts: the turns of each conversation.
      rows: the spans of all turns of all of them, in the same order.
    """
    eos = chat.end_id(tokenizer)
    is_token = tokenizer.encode(chat.end) == [eos]
    at = 0
    for turns in texts:
        own = rows[at : at + len(turns)]
        at += len(turns)
        # An eos that has no text cuts the text.
        pieces = [chat.text(turns)] if is_token else [t.prompt + t.completion for t in turns]
        ends = [] if is_token else [eos]
        whole = [i for ids in tokenizer.encode_batch(pieces) for i in [*ids, *ends]]
        found = [part for one in own for part in (one.prompt, one.completion, [eos])]
        for number, one in enumerate(own):
            one.begins = number == 0
        own[0].apart = whole != np.concatenate(found).tolist()
