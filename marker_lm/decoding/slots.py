"""A fixed number of answers that are written side by side; ended ones make room for others.

Every call has the same shapes whoever takes part, so a row's bits do not depend on its neighbours:
prompts are read in lengths of a few sizes, by a number of rows that follows from the size alone.
Rows whose marker block is not finished go along with those that write text: the grammar chooses on
the host, and what it chose is read like any other token.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from marker_lm.decoding.grammar import Block, choose
from marker_lm.decoding.programs import Programs
from marker_lm.decoding.sampling import Sampling, Settings, key_words
from marker_lm.decoding.steps import Answers, Feed, pad, round_up
from marker_lm.decoding.text import Text

CHUNK = 32  # steps between two looks at what was written
SHORT = 8  # where a stop text may end an answer, or somebody reads along
SMALLEST_PROMPT, SMALLEST_CACHE = 32, 128


@dataclasses.dataclass
class Lane:
    """One row of the cache.

    Attributes:
      ids: to read next: at first the prompt and what is forced after it, then parts of the block.
      block: the marker block; None for a model without markers.
      temperature, rng: of the choices in the block.
      length: tokens in the cache.
    """

    ids: list[int]
    block: Block | None
    temperature: float
    rng: np.random.Generator
    length: int = 0

    @property
    def in_block(self) -> bool:
        """Whether the block is not finished."""
        return self.block is not None and not self.block.done


@dataclasses.dataclass
class Answer:
    """One row of a job on its way.

    Attributes:
      number: of the request.
      lanes: one, or two under guidance: with the row's own controls, and with the others.
      sampling, weight: as asked.
      text: so far.
      most: tokens of text that there is room for, at most max_tokens; set when the blocks are done.
      log_p: sum of their log-probabilities.
      drawn: how many tokens were sampled.
    """

    number: int
    lanes: Sequence[Lane]
    sampling: Sampling
    weight: float
    text: Text
    most: int | None = None
    log_p: float = 0.0
    drawn: int = 0

    @property
    def reason(self) -> str:
        """Why it has ended; '' while it goes on."""
        if self.text.reason or self.most is None or self.drawn < self.most:
            return self.text.reason
        return "max_tokens" if self.most == self.sampling.max_tokens else "length"


class Slots:
    """Room for `rows` rows of the cache; an answer takes `ways` of them.

    Attributes:
      free: slots without an answer.
      prompts, steps: calls that read prompts, and steps of one token a row, so far.
    """

    def __init__(self, programs: Programs, rows: int, ways: int):
        self.programs, self.ways = programs, ways
        self.count = max(rows // ways, 1)
        self.rows = self.count * ways
        self.free = list(range(self.count))[::-1]
        self.answers: dict[int, Answer] = {}
        self.prompts = self.steps = 0
        self._state, self._size = None, 0
        self._width = programs.prompt_rows(self.rows)
        self._prompts: Sequence[tuple[int, ...]] = ()  # those read last
        self._prompt_rows = None  # their State

    def add(self, answers: Sequence[Answer]) -> None:
        """Reads the prompts of answers, no more than there are free slots.

        Answers that begin with the same ids share one reading, and so do later ones, as long as
        nothing else has been read since: several answers to one prompt cost one prompt.
        """
        waiting: dict[tuple[int, ...], list[int]] = {}  # prompt -> its rows
        for answer in answers:
            slot = self.free.pop()
            self.answers[slot] = answer
            for way, lane in enumerate(answer.lanes):
                waiting.setdefault(tuple(lane.ids), []).append(way * self.count + slot)
                lane.length, lane.ids = len(lane.ids), []
        sizes: dict[int, list[tuple[int, ...]]] = {}
        for ids in waiting:
            sizes.setdefault(prompt_size(len(ids), self.programs.config.max_len), []).append(ids)
        self._fit(max(sizes, default=1))
        self._put(waiting)
        for size, prompts in sizes.items():
            prompts = [ids for ids in prompts if ids in waiting]
            for start in range(0, len(prompts), self._width):
                self._read(prompts[start : start + self._width], size)
                self._put(waiting)

    def _read(self, prompts: Sequence[tuple[int, ...]], size: int) -> None:
        self._prompts, self._prompt_rows = (), None  # so the next ones have their memory
        self._prompt_rows = self.programs.read(*pad(prompts, size, self._width))
        self._prompts = prompts
        self.prompts += 1

    def _put(self, waiting: dict[tuple[int, ...], list[int]]) -> None:
        """Puts the prompts that were read last into the rows that wait for them, which are taken
        out."""
        rows = [waiting.pop(ids, ()) for ids in self._prompts]
        for some in itertools.zip_longest(*rows, fillvalue=self.rows):
            at = np.full(self._width, self.rows, np.int32)
            at[: len(some)] = some
            self._state = self.programs.put(self._state, self._prompt_rows, at)

    def advance(self, hasty: bool, watched: bool) -> Iterator[Answer]:
        """Writes on for some steps; yields the answers that have news, and frees those that ended.

        Args:
          hasty: return as soon as one has ended, since others wait for its slot.
          watched: return often.
        """
        self._choose()
        for answer in self.answers.values():
            if answer.most is None and not any(lane.in_block for lane in answer.lanes):
                longest = max(lane.length + len(lane.ids) for lane in answer.lanes)
                room = self.programs.config.max_len + 1 - longest
                answer.most = max(min(answer.sampling.max_tokens, room), 0)
        if not all(answer.reason for answer in self.answers.values()):
            self._write(hasty, watched)
        for slot, answer in list(self.answers.items()):
            if answer.reason:
                del self.answers[slot]
                self.free.append(slot)
            if answer.reason or answer.drawn:
                yield answer

    def _lanes(self) -> Iterator[tuple[int, Lane]]:
        for slot, answer in self.answers.items():
            for way, lane in enumerate(answer.lanes):
                yield way * self.count + slot, lane

    def _choose(self) -> None:
        """Takes the next step in the block of every row that waits for it."""
        asking = [(row, lane) for row, lane in self._lanes() if lane.in_block and not lane.ids]
        if not asking:
            return
        allowed = [lane.block.allowed() for _, lane in asking]
        width = max(16, 1 << (max(map(len, allowed)) - 1).bit_length())
        ids_RxA = np.zeros((self.rows, width), np.int32)
        for (row, _), ids in zip(asking, allowed, strict=True):
            ids_RxA[row, : len(ids)] = ids
        logits_RxA = self.programs.pick(self._state, ids_RxA)
        for (row, lane), ids in zip(asking, allowed, strict=True):
            logits_A = logits_RxA[row, : len(ids)]
            token, log_p = choose(logits_A, lane.block, lane.temperature, lane.rng)
            lane.block.push(token, log_p)
            lane.ids = [token, *lane.block.forced()]

    def _write(self, hasty: bool, watched: bool) -> None:
        going_on = {slot: a for slot, a in self.answers.items() if not a.reason}
        often = watched or any(a.sampling.stop or a.sampling.stop_ids for a in going_on.values())
        steps = SHORT if often else CHUNK
        self._fit(max(_need(answer, steps) for answer in going_on.values()))
        feed = self._feed(going_on)
        self._state, written = self.programs.write(
            self._state, feed, self._asked(going_on), steps, hasty
        )
        self.steps += int(written.steps)
        for slot, answer in going_on.items():
            count = int(written.count_G[slot])
            taken = answer.text.take(written.ids_GxT[slot, :count].tolist())
            answer.drawn += taken
            answer.log_p += float(written.log_p_GxT[slot, :taken].sum(dtype=np.float64))
            for way, lane in enumerate(answer.lanes):
                read = min(int(feed.count_R[way * self.count + slot]), int(written.steps))
                lane.ids, lane.length = lane.ids[read:], lane.length + read + count

    def _feed(self, going_on: Mapping[int, Answer]) -> Feed:
        """What the rows read first; what is more than CHUNK tokens is left for the next time."""
        ids: list[list[int]] = [[] for _ in range(self.rows)]
        asks_R = np.zeros(self.rows, bool)
        for slot, answer in going_on.items():
            for way, lane in enumerate(answer.lanes):
                row = way * self.count + slot
                ids[row] = lane.ids[:CHUNK]
                asks_R[row] = lane.in_block and len(lane.ids) <= CHUNK
        ids_RxT, real_RxT = pad(ids, CHUNK)
        return Feed(ids_RxT, real_RxT.sum(1, dtype=np.int32), asks_R)

    def _asked(self, going_on: Mapping[int, Answer]) -> Answers:
        """What the answers ask for. Slots without one ask for nothing that takes time."""
        G = self.count
        settings = Settings(
            np.zeros((G, 2), np.uint32),
            np.zeros(G, np.float32),
            np.zeros(G, np.int32),
            np.ones(G, np.float32),
            np.ones(G, np.float32),
            np.zeros(G, np.int32),
        )
        asked = Answers(
            np.zeros(G, bool),
            np.zeros(G, np.int32),
            np.zeros(G, np.int32),
            np.ones(G, np.float32),
            settings,
        )
        for slot, answer in going_on.items():
            if answer.most is None or any(len(lane.ids) > CHUNK for lane in answer.lanes):
                continue
            asked.goes_on_G[slot] = True
            asked.drawn_G[slot], asked.most_G[slot] = answer.drawn, answer.most
            asked.weight_G[slot] = answer.weight
            settings.key_Bx2[slot] = key_words(answer.sampling.seed)
            settings.temperature_B[slot] = answer.sampling.temperature
            settings.top_k_B[slot] = answer.sampling.top_k
            settings.top_p_B[slot] = answer.sampling.top_p
            settings.penalty_B[slot] = answer.sampling.repetition_penalty
            settings.length_B[slot] = answer.sampling.length
        return asked

    def _fit(self, need: int) -> None:
        """Gives the cache room for `need` tokens a row, and hardly more: attention reads it all."""
        held = (lane.length for answer in self.answers.values() for lane in answer.lanes)
        size = cache_size(max(need, *held), self.programs.config.max_len)
        if self._state is None:
            self._state = self.programs.empty(self.rows, size)
        elif size != self._size:
            self._state = self.programs.fit(self._state, size)
        self._size = size


def _need(answer: Answer, steps: int) -> int:
    """Tokens that the longer row of an answer may hold after some steps."""
    text = 0 if answer.most is None else answer.most - answer.drawn
    return max(lane.length + min(steps, len(lane.ids) + text) for lane in answer.lanes)


def prompt_size(length: int, most: int) -> int:
    """The length that a prompt is filled up to: a power of two, or one and a half of one.

    Not more than the model's length, `most`, where the prompt has none either.
    """
    size = SMALLEST_PROMPT
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    longest = round_up(most, SMALLEST_PROMPT)
    return longest if length <= longest < size else size


def cache_size(length: int, most: int) -> int:
    """The room of a cache for rows of some length: few sizes, so that few programs are compiled."""
    size = max(SMALLEST_CACHE, 1 << (length - 1).bit_length())
    longest = round_up(most, SMALLEST_CACHE)
    return longest if length <= longest < size else size
