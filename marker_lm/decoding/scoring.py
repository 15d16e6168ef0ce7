"""Log-likelihoods per span kind, and posteriors over the values of a category; both exact."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.data.assembly import Kind, assemble, block, prompt_part
from marker_lm.data.loader import place
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine, TooLongError
from marker_lm.decoding.prompts import Prompt
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.steps import round_up
from marker_lm.markers.taxonomy import MarkerError
from marker_lm.model.likelihood import batch_nll
from marker_lm.sharding.rules import use_mesh


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-likelihood of one sequence, split by what its tokens belong to.

    Attributes:
      nats: span kind name -> sum of negative log-likelihoods.
      tokens: span kind name -> how many tokens.
      token_nats: float32 [n - 1], each token after the first.
    """

    nats: dict[str, float]
    tokens: dict[str, int]
    token_nats: np.ndarray


class Scorer:
    """Scores with an Engine's model; batches share a length, so that few programs are compiled."""

    def __init__(self, engine: Engine, blocks: int = 1):
        self.engine = engine
        self._nll = jax.jit(functools.partial(_batch_nll, engine.config, blocks))

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
          TooLongError: a row is longer than the model's sequences; then none is scored.
        """
        engine = self.engine
        markers = [{}] * len(prompts) if markers is None else markers
        rows = []
        for prompt, completion, own in zip(prompts, completions, markers, strict=True):
            *before, last = engine.prompts.turns(prompt, completion)
            last = dataclasses.replace(last, markers=engine.taxonomy.check_all(own))
            head = engine.prompts.history(before)
            ids, kinds = assemble(engine.layout, engine.prompts.spans(last), shown)
            earlier = np.full(len(head), Kind.PROMPT, np.int32)
            rows.append((np.concatenate([head, ids]), np.concatenate([earlier, kinds])))
        scores = []
        for nll, (_, kinds) in zip(self.token_nats([r[0] for r in rows]), rows, strict=True):
            of_kind = {k: kinds[1:] == k for k in Kind if k is not Kind.PADDING}
            scores.append(
                Score(
                    {k.name: float(nll[at].sum()) for k, at in of_kind.items()},
                    {k.name: int(at.sum()) for k, at in of_kind.items()},
                    nll,
                )
            )
        return scores

    def posterior(
        self, prompts: Sequence[Prompt], category: str, given: Sequence[Mapping] | None = None
    ) -> list[dict[str, float]]:
        """Probability of every value of a closed category, given the prompt.

        Categories that stand before it in the list take the values in `given`, else the model's own
        likeliest ones. Each value is scored as the model would write it; the probabilities are
        normalised over the closed set and sum to 1. A category that allows several values has none:
        how likely a value is among others is a sum over all sets, too many to score.

        Raises:
          MarkerError: the category is not closed, allows several values, or the model doesn't write
            it.
          TooLongError: a prompt leaves no room for a value within the model's sequences.
        """
        engine, grammar = self.engine, self.engine.grammar
        if category in grammar.several:
            raise MarkerError(
                f"'{category}' allows several values, so it has no posterior over single ones;"
                f" decode with it asked for, which gives a set of values and its probability."
            )
        if category not in grammar.values:
            known = ", ".join(c for c in grammar.values if c not in grammar.several)
            raise MarkerError(f"'{category}' has no posterior; closed categories are: {known}.")
        order = engine.layout.completion_side
        before = order[: order.index(category)]
        given = [{}] * len(prompts) if given is None else given
        controls = [Controls(pinned={c: g[c] for c in before if c in g}) for g in given]
        inferred = engine.generate(prompts, controls, Sampling(max_tokens=1)) if before else None
        sequences, starts = [], []
        for i, (prompt, control) in enumerate(zip(prompts, controls, strict=True)):
            markers = {c: inferred[i].markers[c] for c in before if c in inferred[i].markers}
            *earlier, last = engine.prompts.turns(prompt)
            spans = engine.prompts.spans(dataclasses.replace(last, markers=markers))
            ids = prompt_part(engine.layout, spans.prompt, spans.markers, set(control.pinned))[0]
            ids = np.concatenate([engine.prompts.history(earlier), ids])
            listed = block(engine.layout, before, spans.markers)[: -len(engine.layout.close)]
            head = [*ids.tolist(), *listed.tolist(), *engine.codec.prefix(category)]
            sequences += [[*head, *path] for path in grammar.values[category].values()]
            starts.append(len(head) - 1)
        nats = self.token_nats(sequences)
        values = list(grammar.values[category])
        posteriors = []
        for i, start in enumerate(starts):
            rows = nats[i * len(values) : (i + 1) * len(values)]
            logs = np.asarray([-row[start:].sum(dtype=np.float64) for row in rows])
            p = np.exp(logs - np.logaddexp.reduce(logs))
            posteriors.append(dict(zip(values, p.tolist(), strict=True)))
        return posteriors

    def token_nats(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Negative log-likelihood of each token after the first, float32 [n - 1] a sequence.

        The last token is only predicted and never read, as in training, so n may be one more than
        the model's length. Raises TooLongError where it is more than that.
        """
        engine = self.engine
        most = engine.config.max_len
        for ids in sequences:
            if len(ids) > most + 1:
                start = engine.tokenizer.decode(ids[:20])[:40]
                raise TooLongError(
                    f"the row {start!r}... takes {len(ids)} tokens with its markers, but the model "
                    f"was made for sequences of {most}; shorten it."
                )
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(sequences)
        for start in range(0, len(order), engine.batch):
            chosen = order[start : start + engine.batch]
            L = round_up(max(len(sequences[i]) for i in chosen), 32)
            ids_T = np.concatenate([sequences[i] for i in chosen]).astype(np.int32)
            length_P = np.array([len(sequences[i]) for i in chosen])
            kinds_T = np.full(len(ids_T), Kind.COMPLETION, np.int32)
            batch = place(ids_T, kinds_T, length_P, np.arange(len(chosen)), engine.batch, L)
            with use_mesh(engine.mesh):
                nll_BxL = np.asarray(self._nll(engine.params, batch))
            for row, i in enumerate(chosen):
                out[i] = nll_BxL[row, : len(sequences[i]) - 1]
        return out


def _batch_nll(config, blocks, params, batch):
    wanted_BxL = batch["segment_ids"] != 0
    return batch_nll(params, config, batch, jnp.zeros(wanted_BxL.shape), wanted_BxL, blocks)[1]
