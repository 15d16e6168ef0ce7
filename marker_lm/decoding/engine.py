"""Decoding with markers as levers: any number of requests through a fixed number of slots."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from marker_lm.data.assembly import Layout, prompt_part
from marker_lm.data.chat import Chat
from marker_lm.decoding.controls import Controls, check_controls, check_lever, check_seen
from marker_lm.decoding.grammar import Block, Grammar, probabilities
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.lengths import token_units
from marker_lm.decoding.programs import Programs
from marker_lm.decoding.prompts import Prompt, PromptWriter
from marker_lm.decoding.request import Request
from marker_lm.decoding.result import Result, Update
from marker_lm.decoding.sampling import Sampling, one_a_row
from marker_lm.decoding.slots import Answer, Lane, Slots
from marker_lm.decoding.text import Text
from marker_lm.model.config import ModelConfig


class TooLongError(ValueError):
    """A row that is longer than the sequences that the model was made for. One sentence."""


class Engine:
    """A model, its tokenizer and its markers, ready to generate and score.

    The text of a row depends on its Request alone, not on the other rows of a job, their order or
    how many there are: all calls have the shapes that `batch` says.

    Args:
      params: parameters on the mesh, as in training or, for speed, as `decoding_params` makes them.
      config: the model's.
      taxonomy, codec, layout, tokenizer, chat: as in training.
      mesh: where the parameters live.
      batch: rows that are decoded side by side, and scored together.
      seen: the values in the training data, see `controls.check_seen`; None where it is not known.
      cache: dtype of the key-value cache, the compute dtype if ''.

    Attributes (besides these):
      measured: what `measure` was told; '' where it was not.
    """

    def __init__(
        self,
        params,
        config: ModelConfig,
        taxonomy,
        codec,
        layout: Layout,
        tokenizer,
        mesh,
        batch: int = 32,
        chat: Chat | None = None,
        seen: Mapping | None = None,
        cache: str = "",
    ):
        self.params, self.config, self.mesh, self.batch = params, config, mesh, batch
        self.taxonomy, self.codec, self.layout = taxonomy, codec, layout
        self.tokenizer, self.chat, self.seen = tokenizer, chat, seen
        self.prompts = PromptWriter(taxonomy, codec, layout, tokenizer, chat)
        # A model of conversations may end a text by the end of its turn or by its eos.
        self.ends = (layout.eos,) if chat is None else (layout.eos, tokenizer.eos_id)
        self.grammar = Grammar(taxonomy, codec, layout)
        self.programs = Programs(params, config, mesh, self.ends, tokenizer.size, cache)
        self.measured = ""

    @classmethod
    def load(
        cls,
        path: epath.PathLike,
        step: int | None = None,
        taxonomy=None,
        slots: int | None = None,
        mesh=None,
        weights: str = "",
        cache: str = "",
    ) -> "Engine":
        """The Engine of a run's folder or of an exported one; see `load.load_engine`."""
        from marker_lm.decoding.load import load_engine

        return load_engine(path, step, taxonomy, slots, mesh, weights, cache)[0]

    def measure(self, what: str, count: Callable[[str], int]) -> None:
        """Says what `Sampling.length` is the number of, and what counts it in a text.

        It takes a moment: every token is looked at, see `lengths.token_units`.

        Args:
          what: a name for people, such as 'words'.
          count: of a text.
        """
        self.programs.measure(token_units(self.tokenizer, count, self.config.vocab))
        self.measured = what

    def generate(
        self,
        prompts: Sequence[Prompt],
        controls: Controls | Sequence[Controls] | None = None,
        sampling: Sampling | Sequence[Sampling] | None = None,
        guidance: Guidance | Sequence[Guidance | None] | None = None,
    ) -> list[Result]:
        """Answers `prompts`, in their order.

        Args:
          prompts: texts or messages.
          controls, sampling, guidance: one for all, or one a prompt; all free, greedy and plain by
            default. One Sampling for all gives every row a seed of its own, `row_seed` of its
            number.

        Raises:
          MarkerError: a control that the model does not have.
          TooLongError: a prompt that leaves no room within the model's length.
          ValueError: an empty prompt. In any case nothing is decoded.
        """
        n = len(prompts)
        if controls is None or isinstance(controls, Controls):
            controls = [controls or Controls()] * n
        if sampling is None or isinstance(sampling, Sampling):
            sampling = one_a_row(sampling or Sampling(), n)
        if guidance is None or isinstance(guidance, Guidance):
            guidance = [guidance] * n
        rows = zip(prompts, controls, sampling, guidance, strict=True)
        answers = [self.answer(i, Request(*row)) for i, row in enumerate(rows)]
        results: list[Result | None] = [None] * n
        for update in self._decode(answers, watched=False):
            results[update.number] = update.result
        return results

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Result | str]]:
        """Answers requests; yields (number, Result or why it was refused) as they end."""
        for update in self._decode(self._answers(requests), watched=False):
            yield update.number, update.result

    def stream(self, requests: Iterable[Request]) -> Iterator[Update]:
        """Answers requests; yields what is new of any of them, as it comes.

        A request is taken from the iterable when there is a slot for it.
        """
        return self._decode(self._answers(requests), watched=True)

    def score(self, *args, **kwargs):
        """See `scoring.Scorer.score`."""
        return self._scorer.score(*args, **kwargs)

    def posterior(self, *args, **kwargs):
        """See `scoring.Scorer.posterior`."""
        return self._scorer.posterior(*args, **kwargs)

    @functools.cached_property
    def _scorer(self):
        from marker_lm.decoding.scoring import Scorer

        return Scorer(self)

    def refusal(self, prompt: Prompt, controls: Controls) -> str | None:
        """Why this prompt can't be answered under these controls; None if it can."""
        try:
            self.answer(0, Request(prompt, controls))
        except ValueError as error:
            return str(error)
        return None

    def answer(self, number: int, request: Request) -> Answer:
        """Checks and tokenizes one request, up to the first choices of its marker blocks."""
        controls = [self.check(request.controls)]
        guidance, sampling = request.guidance, request.sampling
        if sampling.length and not self.measured:
            raise ValueError(
                f"length is {sampling.length}, and nothing says of what; call Engine.measure first."
            )
        if guidance is not None:
            for category in sorted(guidance.categories):
                check_lever(category, self.layout.levers)
            # With weight 1 the other row would count for nothing.
            if guidance.weight != 1:
                controls.append(self.check(guidance.other(controls[0])))
        lanes = [self.lane(request.prompt, one, sampling) for one in controls]
        text = Text(self.tokenizer, self.chat, self.ends, sampling)
        return Answer(number, lanes, sampling, guidance.weight if guidance else 1.0, text)

    def check(self, controls: Controls) -> Controls:
        """The controls with canonical values; see `check_controls` and `check_seen`."""
        controls = check_controls(controls, self.taxonomy, self.layout.levers)
        check_seen(controls, self.taxonomy, self.seen)
        return controls

    def lane(self, prompt: Prompt, controls: Controls, sampling: Sampling) -> Lane:
        """One row of the cache for a prompt under checked controls."""
        if isinstance(prompt, str) and not prompt.strip():
            raise ValueError("the prompt is empty.")
        *before, last = self.prompts.turns(prompt)
        last = self.prompts.spans(dataclasses.replace(last, markers=controls.pinned))
        head = prompt_part(self.layout, last.prompt, last.markers, kept=set(last.markers))[0]
        ids = [*self.prompts.history(before).tolist(), *head.tolist()]
        if len(ids) >= self.config.max_len:
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            raise TooLongError(
                f"the prompt {text[:40]!r}... takes {len(ids)} tokens with its markers, but the "
                f"model was made for sequences of {self.config.max_len}; shorten it."
            )
        listed = controls if controls.forced else controls.without(controls.pinned)
        block = Block(self.grammar, listed) if self.layout.completion_side else None
        forced = block.forced() if block else []
        rng = np.random.default_rng(sampling.seed)
        return Lane(ids + forced, block, sampling.marker_temperature, rng)

    def _answers(self, requests: Iterable[Request]) -> Iterator[Answer | Update]:
        for number, request in enumerate(requests):
            try:
                yield self.answer(number, request)
            except ValueError as error:
                yield Update(number, "", str(error))

    def _decode(self, answers: Iterable[Answer | Update], watched: bool) -> Iterator[Update]:
        """Updates of answers, or, where it is not watched, only those with a result.

        Answers under guidance take two rows of the cache and have slots of their own, so the others
        pay nothing for them.
        """
        source, waiting = iter(answers), None
        slots: dict[int, Slots] = {}
        while True:
            new: dict[int, list[Answer]] = {}
            while (waiting := waiting or next(source, None)) is not None:
                if isinstance(waiting, Update):
                    yield waiting
                    waiting = None
                    continue
                ways = len(waiting.lanes)
                if ways not in slots:
                    slots[ways] = Slots(self.programs, self.batch, ways)
                if len(new.get(ways, ())) == len(slots[ways].free):
                    break
                new.setdefault(ways, []).append(waiting)
                waiting = None
            for ways, some in new.items():
                slots[ways].add(some)
            busy = [one for one in slots.values() if one.answers]
            if not busy:
                return
            for one in busy:
                for answer in one.advance(hasty=waiting is not None, watched=watched):
                    if answer.reason:
                        news = answer.text.news(ended=True) if watched else ""
                        yield Update(answer.number, news, self._result(answer))
                    elif watched and (news := answer.text.news(ended=False)):
                        yield Update(answer.number, news)

    def _result(self, answer: Answer) -> Result:
        block, text = answer.lanes[0].block, answer.text
        markers = block.markers if block else {}
        return Result(
            text.whole(),
            markers,
            tuple(c for c in markers if c in block.controls.pinned),
            probabilities(block) if block else {},
            tuple(text.ids),
            answer.reason,
            answer.log_p,
        )
