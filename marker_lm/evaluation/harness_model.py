"""What lm-evaluation-harness asks of a model, answered as a marker-trained model must be asked.

Such a model has never seen an answer without a list before it. So every log-likelihood is that of a
continuation after a list: the pinned markers, and for all other categories the model's own, which
it infers from the context alone. All continuations of one context stand after the same list, so
nothing of a choice leaks into what it is compared with. The list's own tokens do not count, and
neither does the end of the answer, which is not part of a continuation.

A continuation begins with the space that stands between words. In training the separator and the
list stand there, and answers begin without it, so one space is left out; a model that writes
answers straight after prompts (no separator, no list, no chat template) keeps it.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from marker_lm.data.assembly import Kind
from marker_lm.decoding.controls import Controls, check_controls
from marker_lm.decoding.prompts import Prompt
from marker_lm.decoding.request import Request
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.scoring import Scorer
from marker_lm.progress import Progress

CHUNK = 512  # pairs between two lines of progress


class HarnessModel:
    """Log-likelihoods and answers of an Engine.

    Args:
      engine: an Engine.
      pinned: markers of every list, which stand on the prompt side too, as in decoding.

    Raises:
      MarkerError: a marker that the model does not write.
    """

    def __init__(self, engine, pinned: Mapping):
        controls = Controls(dict(pinned))
        self.engine = engine
        self.controls = check_controls(controls, engine.taxonomy, engine.layout.completion_side)
        self.scorer = Scorer(engine)
        layout = engine.layout
        self._apart = bool(layout.separator or layout.completion_side or engine.chat)

    def lists(self, contexts: Sequence[Prompt]) -> list[Mapping]:
        """The list after each context; an empty context gives the pinned markers alone."""
        asked = [n for n, context in enumerate(contexts) if context]
        lists: list[Mapping] = [self.controls.pinned] * len(contexts)
        if self.engine.layout.completion_side:
            prompts = [contexts[n] for n in asked]
            found = self.engine.generate(prompts, self.controls, Sampling(max_tokens=1))
            for n, result in zip(asked, found, strict=True):
                lists[n] = result.markers
        return lists

    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, bool]]:
        """Of each continuation: nats (0 or less), and whether greedy decoding would write it.

        Raises:
          TooLongError: a pair is longer than the model's sequences; then none is scored.
        """
        found: list[tuple[float, bool]] = []
        with Progress("log-likelihoods", len(pairs)) as progress:
            for start in range(0, len(pairs), CHUNK):
                found += self._score(pairs[start : start + CHUNK])
                progress.update(len(found))
        return found

    def _score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, bool]]:
        contexts = {str(context): context for context, _ in pairs}
        lists = dict(zip(contexts, self.lists(list(contexts.values())), strict=True))
        tails: dict[tuple[int, ...], list[list[int]]] = {}  # of each head, which is read once
        scores = [(0.0, True)] * len(pairs)  # of a continuation without tokens
        places = []
        for n, (context, text) in enumerate(pairs):
            head, tail = self._split(context, text, lists[str(context)])
            if tail:
                places.append((n, head, len(tails.setdefault(head, []))))
                tails[head].append(tail)
        found = self.scorer.continuations.follow(list(tails), list(tails.values()))
        of_head = dict(zip(tails, found, strict=True))
        for n, head, at in places:
            nats, likeliest = of_head[head][at]
            scores[n] = (-float(nats.sum(dtype=np.float64)), bool(likeliest.all()))
        return scores

    def _split(
        self, context: Prompt, continuation: str, markers: Mapping
    ) -> tuple[tuple[int, ...], list[int]]:
        """Ids up to the continuation, and its own."""
        text = continuation.removeprefix(" ") if self._apart else continuation
        ids, kinds = self.scorer.sequence(context, text, markers, set(self.controls.pinned))
        size = int((kinds == Kind.COMPLETION).sum())
        head, tail = ids[:-size].tolist(), ids[-size:-1].tolist()  # without the end of the answer
        self.scorer.check_length(head, len(head) + len(tail))
        return tuple(head), tail

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Log-likelihood of whole texts, as answers to nothing after the list of pinned markers.

        A text that is longer than the model's sequences is cut into windows, each of which stands
        after the list; every token is predicted once. The last window is as long as the others, so
        that its first tokens have what stands before them as context.
        """
        sequences, counted, owners = [], [], []
        for owner, text in enumerate(texts):
            for ids, size in self._windows(text):
                sequences.append(ids)
                counted.append(size)
                owners.append(owner)
        totals = [0.0] * len(texts)
        nats = self.scorer.token_nats(sequences)
        for owner, size, own in zip(owners, counted, nats, strict=True):
            totals[owner] -= float(own[-size:].sum(dtype=np.float64))
        return totals

    def _windows(self, text: str) -> Iterator[tuple[list[int], int]]:
        """Ids of each window, and how many of the last ones count."""
        ids = self.engine.tokenizer.encode(text)
        head = self._head()
        room = self.engine.config.max_len + 1 - len(head)
        for start in range(0, len(ids), room):
            end = min(start + room, len(ids))
            yield [*head, *ids[max(end - room, 0) : end]], end - start

    def _head(self) -> tuple[int, ...]:
        """What stands before an answer to an empty prompt."""
        return self._split("", "", self.controls.pinned)[0]

    def generate(self, asked: Sequence[tuple[Prompt, Sampling]]) -> list[str]:
        """The text of each answer.

        Raises:
          ValueError: a prompt that can't be answered; then none is.
        """
        requests = [Request(prompt, self.controls, sampling) for prompt, sampling in asked]
        for request in requests:
            if reason := self.engine.refusal(request.prompt, request.controls):
                raise ValueError(f"the prompt {str(request.prompt)[:40]!r}... is refused: {reason}")
        texts = [""] * len(requests)
        with Progress("answers", len(requests)) as progress:
            for done, (number, result) in enumerate(self.engine.run(requests), 1):
                texts[number] = result.text
                progress.update(done)
        return texts
