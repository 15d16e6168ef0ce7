"""Markers from a language model behind an OpenAI-compatible endpoint.

As in the paper (arXiv 2506.14702, appendix B) the model classifies what a category describes, by
definition mostly the prompt alone, chooses among the taxonomy's values, and may say 'Unspecified'.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.annotate import questions
from marker_lm.annotate.annotator import Found
from marker_lm.annotate.endpoint import Answer, Endpoint
from marker_lm.annotate.endpoint_config import EndpointConfig, EndpointError, RefusedError
from marker_lm.annotate.ledger import NANO
from marker_lm.annotate.settings import settings_from
from marker_lm.data.example import Example
from marker_lm.markers.category import Category, MarkerError
from marker_lm.markers.taxonomy import Taxonomy

STRUCTURED = ("schema", "json", "none")
_REFUSED_FIRST = 20  # refusals without a single answer mean that the requests are at fault


@dataclasses.dataclass(frozen=True)
class LlmConfig:
    """How to ask; see `make`."""

    endpoint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    categories: tuple[str, ...] = ()
    one_call: bool = True
    structured: str = "schema"
    logprobs: bool = True
    temperature: float = 0.0
    max_tokens: int = 200
    max_chars: int = 6000
    confidence: float = 0.8
    threshold: float = 0.0

    def __post_init__(self):
        if self.structured not in STRUCTURED:
            raise EndpointError(
                f"llm.structured is {self.structured!r}; it must be one of {', '.join(STRUCTURED)}"
            )
        for name in ("max_tokens", "max_chars"):
            if getattr(self, name) < 1:
                raise EndpointError(f"llm.{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("confidence", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise EndpointError(f"llm.{name} is {getattr(self, name)}; it must be in 0..1")


@dataclasses.dataclass(frozen=True)
class _Question:
    """What is asked in one call: `place` is the index of the example."""

    place: int
    categories: tuple[Category, ...]
    messages: tuple[Mapping[str, str], ...]


def make(config: Mapping[str, Any], taxonomy: Taxonomy) -> "LlmAnnotator":
    """The annotator of a section of the config; these are its keys and defaults.

        endpoint: {"url": "", "model": "", ...}  # see annotate/endpoint_config.py
        categories: ()  # closed categories to ask for; () is all whose origin is 'classified'
        one_call: True  # ask for all categories of a prompt (or completion) at once
        structured: "schema"  # schema | json | none: the response_format that is asked for
        logprobs: True  # ask for them: they give each marker's confidence
        temperature: 0.0
        max_tokens: 200  # of an answer
        max_chars: 6000  # of a text; longer ones are cut in the middle for the question only
        confidence: 0.8  # where the endpoint gives no log-probabilities
        threshold: 0.0  # markers under this confidence are left out

    Raises SettingsError or EndpointError for a bad section, MarkerError for a category that can't
    be asked for.
    """
    settings = settings_from(LlmConfig, config, "llm")
    endpoint = EndpointConfig.from_config(settings.endpoint, "llm.endpoint")
    categories = [taxonomy.category(name) for name in settings.categories] or [
        category
        for category in taxonomy.categories.values()
        if category.type == "closed" and category.origin == "classified"
    ]
    for category in categories:
        if category.type != "closed":
            raise MarkerError(
                f"llm.categories names {category.name!r} of type {category.type!r}; "
                "a model is asked for closed categories only, take it out"
            )
    return LlmAnnotator(settings, endpoint, tuple(categories))


class LlmAnnotator:
    """Asks a language model; an Annotator.

    Opens its endpoint at the first question, so it can be pickled and sent to other processes;
    limits on rate and cost hold over all that share one cache file.

    Attributes:
      counts: of what did not go plainly, by kind: 'cut' (texts, in the middle), 'asked again',
        'unusable' (answers after the second asking, by question), 'refused' (questions), and
        'abstained' and 'under threshold' (categories of an example).
    """

    name = "llm"

    def __init__(
        self, settings: LlmConfig, endpoint: EndpointConfig, categories: tuple[Category, ...]
    ):
        self.settings = settings
        self.categories = tuple(category.name for category in categories)
        self.counts: Counter[str] = Counter()
        self._categories = categories
        self._answered = False
        self._endpoint_config = endpoint
        self._endpoint: Endpoint | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_endpoint": None}

    @property
    def endpoint(self) -> Endpoint:
        """The open endpoint, which other questions may be put to as well."""
        if self._endpoint is None:
            self._endpoint = Endpoint(self._endpoint_config)
        return self._endpoint

    def close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        """Asks for the categories that an example lacks; see Annotator.

        Raises EndpointError and BudgetError as Endpoint.ask_all does; what was answered until then
        is kept in the endpoint's cache.
        """
        asked = []
        for place, example in enumerate(examples):
            lacking = [c for c in self._categories if c.name not in example.markers]
            for subject in ("prompt", "completion"):
                about = [c for c in lacking if c.describes == subject]
                asked += self._questions(place, about, subject, getattr(example, subject))
        return self._found(asked, len(examples))

    def tag(self, prompt: str) -> dict[str, Found]:
        """Markers of a prompt that has no completion yet, for pinning them at decode time."""
        return self.tag_all([Example("", prompt, "", {}, {})])[0]

    def tag_all(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        """Markers that the prompts lack, of examples that have no completion yet.

        Categories that describe the completion are asked for as those of the best answer (the
        paper's on-the-fly tagger, appendix C of its first version). Raises as `annotate` does.
        """
        asked = []
        for place, example in enumerate(examples):
            lacking = [c for c in self._categories if c.name not in example.markers]
            for describes, subject in (("prompt", "prompt"), ("completion", "wanted")):
                about = [c for c in lacking if c.describes == describes]
                asked += self._questions(place, about, subject, example.prompt)
        return self._found(asked, len(examples))

    def facts(self) -> dict[str, Any]:
        """Counts and cost for a manifest; the cost is that of all in the cache file."""
        answers, spent = self.endpoint.ledger.totals()
        return {
            "model": self._endpoint_config.model,
            "requests": self.endpoint.sent,
            "answers_kept": answers,
            "spent": spent / NANO,
            **{kind.replace(" ", "_"): n for kind, n in sorted(self.counts.items())},
        }

    def _questions(
        self, place: int, categories: Sequence[Category], subject: str, text: str
    ) -> list[_Question]:
        if not categories:
            return []
        short = questions.cut_middle(text, self.settings.max_chars)
        self.counts["cut"] += short != text
        groups = [tuple(categories)] if self.settings.one_call else [(c,) for c in categories]
        return [
            _Question(place, group, tuple(questions.messages(group, subject, short)))
            for group in groups
        ]

    def _found(self, asked: Sequence[_Question], n_examples: int) -> list[dict[str, Found]]:
        found: list[dict[str, Found]] = [{} for _ in range(n_examples)]
        again = []
        for question, answer in zip(asked, self._ask(asked), strict=True):
            if rest := self._take(question, answer, found):
                more = questions.complaint(rest, answer.text)
                again.append(_Question(question.place, rest, (*question.messages, *more)))
        self.counts["asked again"] += len(again)
        for question, answer in zip(again, self._ask(again), strict=True):
            self.counts["unusable"] += bool(self._take(question, answer, found))
        return found

    def _ask(self, asked: Sequence[_Question]) -> list[Answer | RefusedError]:
        answers = self.endpoint.ask_all([self._body(question) for question in asked])
        refusals = [answer for answer in answers if isinstance(answer, RefusedError)]
        self.counts["refused"] += len(refusals)
        self._answered |= len(refusals) < len(answers)
        if not self._answered and self.counts["refused"] >= _REFUSED_FIRST:
            raise EndpointError(
                f"{refusals[0]}; no question was answered until now, so if it does not know the "
                "fields of the request, set llm.structured='none' or llm.logprobs=False"
            )
        return answers

    def _body(self, question: _Question) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {
            "messages": list(question.messages),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        if settings.structured == "schema":
            body["response_format"] = questions.response_format(question.categories)
        elif settings.structured == "json":
            body["response_format"] = {"type": "json_object"}
        if settings.logprobs:
            body["logprobs"] = True
        return body

    def _take(
        self, question: _Question, answer: Answer | RefusedError, found: list[dict[str, Found]]
    ) -> tuple[Category, ...]:
        """Takes the markers of an answer into `found`; the categories it can't be used for."""
        if isinstance(answer, RefusedError):
            return ()
        values = questions.read_values(answer.text, question.categories)
        for name, value in values.items():
            if value is None:
                self.counts["abstained"] += 1
                continue
            probability = questions.value_probability(answer.text, answer.logprobs, name)
            confidence = self.settings.confidence if probability is None else probability
            if confidence < self.settings.threshold:
                self.counts["under threshold"] += 1
            else:
                found[question.place][name] = Found(value, confidence)
        return tuple(c for c in question.categories if c.name not in values)
