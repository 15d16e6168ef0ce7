"""Log-likelihoods per span kind, and posteriors over the values of a category; both exact."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.data.assembly import Kind, assemble, block, prompt_part
from marker_lm.data.batch_view import Reader
from marker_lm.data.loader import place
from marker_lm.data.packing import pack
from marker_lm.decoding.continuations import Continuations
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine, TooLongError
from marker_lm.decoding.prompts import Prompt
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.shapes import bucket, loss_blocks, rows_for
from marker_lm.markers.taxonomy import MarkerError
from marker_lm.model.likelihood import batch_nll
from marker_lm.sharding.rules import use_mesh

# Sequences of up to so many slots hold several short rows; more would cost attention more than it
# saves.
PACKED_SLOTS = 512


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-likelihood of one sequence, split by what its tokens belong to.

    Attributes:
      ids, kinds: int32 [n], the sequence and the Kind of each token.
      token_nats: float32 [n - 1], negative log-likelihood of each token after the first.
    """

    ids: np.ndarray
    kinds: np.ndarray
    token_nats: np.ndarray

    @property
    def nats(self) -> dict[str, float]:
        """Span kind name -> sum of negative log-likelihoods."""
        return {
            name: float(self.token_nats[at].sum(dtype=np.float64)) for name, at in self._of_kind()
        }

    @property
    def tokens(self) -> dict[str, int]:
        """Span kind name -> how many tokens, the first one of the sequence left out."""
        return {name: int(at.sum()) for name, at in self._of_kind()}

    def _of_kind(self):
        return [(k.name, self.kinds[1:] == k) for k in Kind if k is not Kind.PADDING]


class Scorer:
    """Scores with an Engine's model. Short rows share a sequence, as in training."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._nll = jax.jit(functools.partial(_batch_nll, engine.config))
        self.continuations = Continuations(
            engine.params, engine.config, engine.mesh, engine.batch, engine.tokenizer.size
        )

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        markers: Sequence[Mapping] | None = None,
        shown: Collection[str] = (),
    ) -> list[Score]:
        """Scores completions given prompts.

        A model trained with markers must be scored with a list: without one it is out of its
        distribution.

        Args:
          prompts: texts or messages; the answers among messages are not scored.
          completions: texts.
          markers: the completion-side list of each row (category -> value); none by default.
          shown: categories of it that also stand on the prompt side.

        Raises:
          MarkerError: markers that the taxonomy lacks.
          TooLongError: a row is longer than the model's sequences; then none is scored.
        """
        markers = [{}] * len(prompts) if markers is None else markers
        check = self.engine.taxonomy.check_all
        rows = [
            self.sequence(prompt, completion, check(own), shown)
            for prompt, completion, own in zip(prompts, completions, markers, strict=True)
        ]
        nats = self.token_nats([ids for ids, _ in rows])
        return [Score(*row, own) for row, own in zip(rows, nats, strict=True)]

    def sequence(
        self, prompt: Prompt, completion: str, markers: Mapping, shown: Collection[str] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is scored: ids and kinds, int32 [n], of a row with canonical markers."""
        engine = self.engine
        *before, last = engine.prompts.turns(prompt, completion)
        head = engine.prompts.history(before)
        spans = engine.prompts.spans(dataclasses.replace(last, markers=markers))
        ids, kinds = assemble(engine.layout, spans, shown)
        earlier = np.full(len(head), Kind.PROMPT, np.int32)
        return np.concatenate([head, ids]), np.concatenate([earlier, kinds])

    def describe(self, score: Score) -> list[dict[str, Any]]:
        """Each token of a score for people and JSON: id, text, kind, and nats (None for the first).

        A text is that of one id alone: bytes that are no whole character are named.
        """
        engine = self.engine
        pieces = Reader(engine.layout, engine.codec, engine.tokenizer).pieces(score.ids)
        nats = [None, *score.token_nats.tolist()]
        return [
            {"id": int(id), "text": piece, "kind": Kind(kind).name, "nats": own}
            for id, piece, kind, own in zip(score.ids, pieces, score.kinds, nats, strict=True)
        ]

    def check_posterior(self, category: str) -> None:
        """Raises MarkerError where the category has no posterior, and says why."""
        grammar = self.engine.grammar
        if category in grammar.several:
            raise MarkerError(
                f"'{category}' allows several values, so it has no posterior over single ones;"
                f" decode with it asked for, which gives a set of values and its probability."
            )
        if category not in grammar.values:
            known = ", ".join(c for c in grammar.values if c not in grammar.several)
            raise MarkerError(f"'{category}' has no posterior; closed categories are: {known}.")

    def posterior(
        self,
        prompts: Sequence[Prompt],
        category: str,
        given: Sequence[Mapping] | None = None,
        completions: Sequence[str] | None = None,
    ) -> list[dict[str, float]]:
        """Probability of every value of a closed category, given the prompt, or also its answer.

        Each value is scored as the model would write it; the probabilities are normalised over the
        closed set and sum to 1. What is given is pinned, as in decoding: it stands on the prompt
        side and in the list. The rest of the list takes the model's own likeliest values.

        Without completions only the categories before this one matter: those after it are not
        written yet, and what is given of them is not looked at. With completions it is attribution:

          P(value | prompt, completion) ~ P(value | prompt) P(completion | prompt, list with value)

        where the rest of the list is the same for all values. It is a condition: how likely it is
        under each value does not count.

        A category that allows several values has no posterior: how likely a value is among others
        is a sum over all sets, too many to score.

        Args:
          prompts: texts or messages.
          category: closed, of one value.
          given: known markers of each row; one of the category itself is not looked at.
          completions: texts, for attribution.

        Raises:
          MarkerError: the category is not closed, allows several values, or the model doesn't write
            it; or a given marker that it doesn't have.
          TooLongError: a row leaves no room for a value within the model's sequences.
        """
        self.check_posterior(category)
        order = self.engine.layout.completion_side
        at = order.index(category)
        listed = order[:at] if completions is None else order[:at] + order[at + 1 :]
        given = [{}] * len(prompts) if given is None else given
        pins = [{c: own[c] for c in listed if c in own} for own in given]
        lists = self._lists(prompts, listed, pins)
        answers = [None] * len(prompts) if completions is None else completions
        rows = [
            self._paths(category, *row) for row in zip(prompts, answers, lists, pins, strict=True)
        ]
        nats = self.continuations.token_nats([r[0] for r in rows], [r[1] for r in rows])
        posteriors = []
        for (_, _, counted), own in zip(rows, nats, strict=True):
            logs = [-n[at].sum(dtype=np.float64) for n, at in zip(own, counted, strict=True)]
            p = np.exp(logs - np.logaddexp.reduce(logs))
            posteriors.append(
                dict(zip(self.engine.grammar.values[category], p.tolist(), strict=True))
            )
        return posteriors

    def _lists(self, prompts, listed, pins) -> list[dict]:
        """The markers of each row: pinned ones, and the model's own for the rest of `listed`."""
        if not listed:
            return [{}] * len(prompts)
        controls = [Controls(pinned=own) for own in pins]
        results = self.engine.generate(prompts, controls, Sampling(max_tokens=1))
        return [{c: r.markers[c] for c in listed if c in r.markers} for r in results]

    def _paths(self, category: str, prompt, completion, markers: Mapping, pinned: Mapping):
        """One row's ids up to the value, what follows for each value, and what of that counts."""
        engine, order = self.engine, self.engine.layout.completion_side
        *earlier, last = engine.prompts.turns(prompt, completion)
        history = engine.prompts.history(earlier)
        spans = engine.prompts.spans(dataclasses.replace(last, markers=markers))
        shown = prompt_part(engine.layout, spans.prompt, spans.markers, set(pinned))[0]
        before = block(engine.layout, order[: order.index(category)], spans.markers)
        before = before[: -len(engine.layout.close)]
        head = np.concatenate([history, shown, before, engine.codec.prefix(category)])
        tails, counted = [], []
        for value, path in engine.grammar.values[category].items():
            own = {**spans.markers, category: engine.codec.marker(category, value)}
            ids, kinds = assemble(
                engine.layout, dataclasses.replace(spans, markers=own), set(pinned)
            )
            end = None if completion is not None else len(head) - len(history) + len(path)
            tail, kinds = (x[len(head) - len(history) : end] for x in (ids, kinds))
            self.check_length(head, len(head) + len(tail))
            tails.append(tail)
            counted.append((np.arange(len(tail)) < len(path)) | (kinds == Kind.COMPLETION))
        return head, tails, counted

    def token_nats(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Negative log-likelihood of each token after the first, float32 [n - 1] a sequence.

        Sequences are packed: several short ones stand in one row of a batch, apart by segment. The
        last token is only predicted and never read, as in training, so n may be one more than the
        model's length. Raises TooLongError where it is more than that.
        """
        engine = self.engine
        for ids in sequences:
            self.check_length(ids, len(ids))
        out = [np.zeros(0, np.float32)] * len(sequences)
        number_N = np.asarray([i for i, ids in enumerate(sequences) if len(ids) > 1], int)
        if not len(number_N):
            return out
        slots_N = np.asarray([len(sequences[i]) - 1 for i in number_N])
        L = self._length(slots_N)
        order_N, starts = pack(slots_N, L)
        S = len(starts) - 1
        B = rows_for(S, engine.batch, engine.mesh)
        for start in range(0, S, B):
            ends = starts[start : start + B + 1]
            chosen_P = order_N[ends[0] : ends[-1]]
            row_P = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
            ids_T = np.concatenate([sequences[i] for i in number_N[chosen_P]]).astype(np.int32)
            kinds_T = np.full(len(ids_T), Kind.COMPLETION, np.int32)
            batch = place(ids_T, kinds_T, slots_N[chosen_P] + 1, row_P, B, L)
            with use_mesh(engine.mesh):
                nll_BxL = np.asarray(self._nll(engine.params, batch))
            nll_S = nll_BxL[batch["segment_ids"] != 0]  # in the order in which they were placed
            parts = np.split(nll_S, np.cumsum(slots_N[chosen_P])[:-1])
            for i, nats in zip(number_N[chosen_P], parts, strict=True):
                out[i] = nats
        return out

    def _length(self, slots_N: np.ndarray) -> int:
        """L of the packed rows: the longest one's, more where the batch would not hold all."""
        longest, total = int(slots_N.max()), int(slots_N.sum())
        most = max(bucket(longest), min(PACKED_SLOTS, bucket(self.engine.config.max_len)))
        L = bucket(longest)
        while L < most and total > L * self.engine.batch:
            L = min(2 * L, most)
        return L

    def check_length(self, start: Sequence[int], n: int) -> None:
        """Raises TooLongError for a sequence of n tokens, that begins so, if it is too long."""
        engine = self.engine
        if n > engine.config.max_len + 1:
            text = engine.tokenizer.decode([i for i in start[:20] if i < engine.tokenizer.size])
            raise TooLongError(
                f"the row {text[:40]!r}... takes {n} tokens with its markers, but the model was "
                f"made for sequences of {engine.config.max_len}; shorten it."
            )


def _batch_nll(config, params, batch):
    wanted_BxL = batch["segment_ids"] != 0
    unweighted_BxL = jnp.zeros(wanted_BxL.shape)
    blocks = loss_blocks(config.vocab, *wanted_BxL.shape)
    return batch_nll(params, config, batch, unweighted_BxL, wanted_BxL, blocks)[1]
