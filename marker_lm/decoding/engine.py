"""Batched decoding with markers as levers: prefill, marker block under the grammar, text."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.data.assembly import Layout, prompt_part
from marker_lm.data.chat import Chat
from marker_lm.decoding.controls import Controls, check_controls
from marker_lm.decoding.grammar import Block, Grammar, choose, probabilities
from marker_lm.decoding.prompts import Prompt, PromptWriter
from marker_lm.decoding.sampling import Sampling, sample
from marker_lm.model.cache import init_cache
from marker_lm.model.config import ModelConfig
from marker_lm.model.transformer import Transformer, head_logits, head_table
from marker_lm.sharding.rules import use_mesh


class TooLongError(ValueError):
    """A row that is longer than the sequences that the model was made for. One sentence."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What came back for one prompt.

    Attributes:
      text: the answer, marker block stripped.
      markers: the completion-side list, in its order.
      pinned: the categories of `markers` that were given by the user.
      probability: category -> probability of its value (1 for pinned ones).
      tokens: ids of the answer, without eos.
      finished: whether the answer ended by itself, and not at `max_tokens` or because the model's
        length was full; a long prompt and list may leave no room for an answer at all.
    """

    text: str
    markers: dict
    pinned: tuple[str, ...]
    probability: dict[str, float]
    tokens: tuple[int, ...]
    finished: bool

    def to_dict(self) -> dict:
        """JSON-able, without the ids."""
        fields = dataclasses.asdict(self)
        fields.pop("tokens")
        return fields | {"pinned": list(self.pinned)}


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Row:
    """One prompt on its way: its number among the prompts, ids to prefill, marker block if any."""

    number: int
    ids: list[int]
    block: Block | None


class Engine:
    """A model, its tokenizer and its markers, ready to generate and score.

    Args:
      params: parameters on the mesh.
      config: the model's.
      taxonomy, codec, layout, tokenizer, chat: as in training.
      mesh: where the parameters live.
      batch: rows decoded together; the last batch of a job is padded to it, so that one program
        serves.
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
        batch=32,
        chat: Chat | None = None,
    ):
        self.params, self.config, self.mesh, self.batch = params, config, mesh, batch
        self.taxonomy, self.codec, self.layout = taxonomy, codec, layout
        self.tokenizer, self.chat = tokenizer, chat
        self.prompts = PromptWriter(taxonomy, codec, layout, tokenizer, chat)
        # A model of conversations may end a text by the end of its turn or by its eos.
        self.ends = (layout.eos,) if chat is None else (layout.eos, tokenizer.eos_id)
        self.grammar = Grammar(taxonomy, codec, layout)
        self._extend = jax.jit(functools.partial(extend, config), donate_argnums=1)
        self._write = jax.jit(
            functools.partial(write_text, config, self.ends, tokenizer.size),
            static_argnums=5,
        )

    def generate(
        self,
        prompts: Sequence[Prompt],
        controls: Sequence[Controls] | None = None,
        sampling: Sampling | None = None,
    ) -> list[Result]:
        """Answers `prompts`, in their order.

        Args:
          prompts: texts or messages.
          controls: one Controls a prompt; all free by default.
          sampling: the same for all rows; greedy by default.

        Raises:
          MarkerError: a control that the model does not have.
          TooLongError: a prompt that leaves no room within the model's length.
          ValueError: an empty prompt.
        """
        controls = [Controls()] * len(prompts) if controls is None else controls
        rows = [
            self._row(number, prompt, control)
            for number, (prompt, control) in enumerate(zip(prompts, controls, strict=True))
        ]
        return list(self._stream(rows, sampling or Sampling()))

    def try_generate(
        self, prompts: Sequence[Prompt], controls: Sequence[Controls], sampling: Sampling
    ) -> Iterator[Result | str]:
        """As `generate`, batch by batch; a row that can't be answered gives the reason."""
        rows: list = []
        for number, (prompt, control) in enumerate(zip(prompts, controls, strict=True)):
            try:
                rows.append(self._row(number, prompt, control))
            except ValueError as error:
                rows.append(str(error))
        answers = self._stream([row for row in rows if not isinstance(row, str)], sampling)
        return (row if isinstance(row, str) else next(answers) for row in rows)

    def refusal(self, prompt: Prompt, controls: Controls) -> str | None:
        """Why this prompt can't be answered under these controls; None if it can."""
        try:
            self._row(0, prompt, controls)
        except ValueError as error:
            return str(error)
        return None

    def _stream(self, rows: list[Row], sampling: Sampling) -> Iterator[Result]:
        for start in range(0, len(rows), self.batch):
            yield from self._generate(rows[start : start + self.batch], sampling)

    def _row(self, number: int, prompt: Prompt, controls: Controls) -> Row:
        """Checks and tokenizes one prompt, up to the first choice of its marker block."""
        controls = check_controls(controls, self.taxonomy, self.layout.completion_side)
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
        block = Block(self.grammar, controls) if self.layout.completion_side else None
        return Row(number, ids + (block.forced() if block else []), block)

    def _generate(self, rows: list[Row], sampling: Sampling) -> list[Result]:
        """Decodes one batch: prefill, then the marker blocks, then the text."""
        n = len(rows)
        rows = rows + [Row(0, [self.layout.eos], None)] * (self.batch - n)
        longest = round_up(max(len(row.ids) for row in rows), 32)
        pins = [row.block.controls.pinned for row in rows if row.block]
        block_room = max(map(self.grammar.room, pins), default=0)
        room = round_up(block_room + sampling.max_tokens, 32)
        numbers_B = jnp.asarray([row.number for row in rows])
        # The seed is in the keys, so the program need not know it.
        seed, sampling = sampling.seed, dataclasses.replace(sampling, seed=0)
        with use_mesh(self.mesh):
            cache = init_cache(self.config, self.batch, longest + room)
            logits_BxV, cache = self._extend(
                self.params, cache, *pad([row.ids for row in rows], longest)
            )
            logits_BxV, cache = self._write_blocks(rows, logits_BxV, cache, seed, sampling)
            keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers_B)
            done_B = jnp.arange(self.batch) >= n
            tokens_BxT, length_B = self._write(
                self.params, cache, logits_BxV, keys_B, done_B, sampling
            )
        tokens_BxT, length_B = np.asarray(tokens_BxT), np.asarray(length_B)
        return [
            self._result(row.block, tokens_BxT[i, : length_B[i]].tolist())
            for i, row in enumerate(rows[:n])
        ]

    def _write_blocks(self, rows: list[Row], logits_BxV, cache, seed: int, sampling: Sampling):
        """Writes every row's marker block to its end. Rows that are done wait.

        A block takes few tokens and each is chosen by the grammar on the host, so this part is a
        plain loop over compiled single steps.
        """
        rngs = [np.random.default_rng([seed, row.number]) for row in rows]
        while any(row.block and not row.block.done for row in rows):
            logits = np.asarray(logits_BxV)
            chosen: list[list[int]] = []
            for row, logits_V, rng in zip(rows, logits, rngs, strict=True):
                if row.block is None or row.block.done:
                    chosen.append([])
                    continue
                token, log_p = choose(logits_V, row.block, sampling.marker_temperature, rng)
                row.block.push(token, log_p)
                chosen.append([token, *row.block.forced()])
            width = 1 << (max(map(len, chosen)) - 1).bit_length()
            tokens, active = pad(chosen, width)
            new_BxV, cache = self._extend(self.params, cache, tokens, active)
            logits_BxV = jnp.where(active[:, :1], new_BxV, logits_BxV)
        return logits_BxV, cache

    def _result(self, block: Block | None, ids: list[int]) -> Result:
        finished = bool(ids) and ids[-1] in self.ends
        ids = ids[:-1] if finished else ids
        text = self.tokenizer.decode(ids)
        text = self.chat.answer(text) if self.chat else text
        if block is None:
            return Result(text, {}, (), {}, tuple(ids), finished)
        pinned = tuple(c for c in block.markers if c in block.controls.pinned)
        return Result(text, block.markers, pinned, probabilities(block), tuple(ids), finished)


def pad(rows: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as int32 [B, width] and which of them are real, bool [B, width]."""
    ids_BxL = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        ids_BxL[i, : len(row)] = row
    return ids_BxL, np.arange(width) < np.asarray([len(row) for row in rows])[:, None]


def extend(config: ModelConfig, params, cache, tokens_BxL, real_BxL):
    """Reads new tokens into the cache.

    Returns:
      float32 logits [B, V] after each row's last real token (meaningless where it has none), cache.
    """
    positions_BxL = cache.length[:, None] + jnp.arange(tokens_BxL.shape[1])
    hidden_BxLxD, cache = Transformer(config).apply(
        {"params": params},
        tokens_BxL,
        positions_BxL,
        real_BxL.astype(jnp.int32),
        cache,
        return_hidden=True,
    )
    last_B = jnp.maximum(real_BxL.sum(1) - 1, 0)
    hidden_BxD = jnp.take_along_axis(hidden_BxLxD, last_B[:, None, None], axis=1)[:, 0]
    return head_logits(head_table(params, config), config, hidden_BxD), cache


def write_text(config, ends, size, params, cache, logits_BxV, keys_B, done_B, sampling: Sampling):
    """Samples answers token by token until every row has ended or `max_tokens` is reached.

    A row also ends when the model has read `config.max_len` tokens, as in training, where the token
    after those is only ever a target.

    Args:
      config: of the model.
      ends: ids that end a row, a tuple.
      size: ids from here on are reserved for markers and are never sampled.
      params, cache: the cache holds all that comes before the answer.
      logits_BxV: float32, after the last token of each row.
      keys_B: one random key a row.
      done_B: bool, rows that are only there to fill the batch.
      sampling: static.

    Returns:
      int32 [B, max_tokens] ids (0 after the end), and int32 [B] how many of them count, the one
      that ends a row included.
    """
    text_V = jnp.arange(config.vocab) < size
    tokens_BxT = jnp.zeros((done_B.shape[0], sampling.max_tokens), jnp.int32)

    def going_on(carry):
        t, _, _, done_B, _, _ = carry
        return (t < sampling.max_tokens) & ~done_B.all()

    def step(carry):
        t, tokens_BxT, length_B, done_B, logits_BxV, cache = carry
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys_B, t)
        token_B = sample(jnp.where(text_V, logits_BxV, -jnp.inf), keys, sampling)
        tokens_BxT = tokens_BxT.at[:, t].set(jnp.where(done_B, 0, token_B))
        length_B = length_B + ~done_B
        done_B = done_B | jnp.isin(token_B, jnp.asarray(ends)) | (cache.length >= config.max_len)
        logits_BxV, cache = extend(config, params, cache, token_B[:, None], ~done_B[:, None])
        return t + 1, tokens_BxT, length_B, done_B, logits_BxV, cache

    done_B = done_B | (cache.length > config.max_len)
    start = (0, tokens_BxT, jnp.zeros_like(done_B, jnp.int32), done_B, logits_BxV, cache)
    _, tokens_BxT, length_B, *_ = jax.lax.while_loop(going_on, step, start)
    return tokens_BxT, length_B
