"""The memory of a decode job, known before it starts."""

import dataclasses
import math
import os
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from marker_lm.decoding.slots import Answer, cache_size, prompt_size
from marker_lm.model.cache import ring_size
from marker_lm.model.config import ModelConfig
from marker_lm.sharding.rules import (
    RULES,
    batch_shards,
    device_bytes,
    laid_out_cache,
    laid_out_decoding,
)


@dataclasses.dataclass(frozen=True)
class Job:
    """What decides over the memory of decoding.

    Attributes:
      rows: of the cache: one a slot, two under guidance.
      size: tokens a row can hold.
      prompt_rows, prompt_tokens: prompts that are read at a time, and their padded length.
      weights, cache: '' or 'int8'.
    """

    rows: int
    size: int
    prompt_rows: int
    prompt_tokens: int
    weights: str = ""
    cache: str = ""


@dataclasses.dataclass(frozen=True)
class JobMemory:
    """Bytes of one device.

    Attributes:
      weights, cache: exact.
      logits: those kept between steps, and those of a step, float32; and the tokens that were seen.
      temporaries: the prompts that were read last, and the largest arrays that live at once beside
        all that, by formula.
      have: what the device has; None where nothing says so.
    """

    weights: int
    cache: int
    logits: int
    temporaries: int
    have: int | None

    @property
    def need(self) -> int:
        return self.weights + self.cache + self.logits + self.temporaries

    @property
    def fits(self) -> bool:
        return self.have is None or self.need <= self.have

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {_gigabytes(getattr(self, name))}"
            for name in ("weights", "cache", "logits", "temporaries")
        )
        has = "" if self.have is None else f", and has {_gigabytes(self.have)}"
        return f"a device needs {_gigabytes(self.need)} ({parts}){has}"


def job_memory(config: ModelConfig, mesh, job: Job) -> JobMemory:
    """What a job takes of each device of a mesh.

    Raises:
      ShardingError: the model can't be laid out on the mesh.
    """
    tensor = math.prod(mesh.shape[axis] for axis in RULES["vocab"])
    tokens = _local(job.rows, mesh) * -(-config.vocab // tensor)
    return JobMemory(
        weights=device_bytes(laid_out_decoding(config, mesh, job.weights)),
        cache=device_bytes(laid_out_cache(config, mesh, job.rows, job.size, job.cache)),
        logits=2 * 4 * tokens + tokens,
        temporaries=_of_prompts(config, mesh, job, tensor)
        + max(_of_step(config, mesh, job, tensor), _of_reading(config, mesh, job, tensor)),
        have=device_memory(mesh),
    )


def find_job(engine, answers: Iterable[Answer], weights: str = "", cache: str = "") -> Job:
    """What an Engine needs at most for these answers, of which one at a time is held.

    Args:
      engine: an Engine.
      answers: as `Engine.answer` gives them: nothing of them has been read yet.
      weights, cache: that the Engine was loaded with.
    """
    most, ways, longest, prompt = engine.config.max_len, set(), 1, 1
    for answer in answers:
        ways.add(len(answer.lanes))
        longest = max(longest, _tokens(engine, answer))
        prompt = max(prompt, *(len(lane.ids) for lane in answer.lanes))
    rows = sum(max(engine.batch // n, 1) * n for n in ways)
    tokens = prompt_size(prompt, most)
    at_once = engine.programs.prompt_rows(max(rows, 1))
    return Job(rows, cache_size(min(longest, most), most), at_once, tokens, weights, cache)


def _tokens(engine, answer: Answer) -> int:
    """The most tokens that a row of the cache holds for an answer."""
    blocks = [
        engine.grammar.room(lane.block.controls.pinned) if lane.block else 0
        for lane in answer.lanes
    ]
    heads = [len(lane.ids) for lane in answer.lanes]
    return max(map(sum, zip(heads, blocks, strict=True))) + answer.sampling.max_tokens


def check_memory(config: ModelConfig, mesh, job: Job) -> JobMemory:
    """As `job_memory`.

    Raises:
      ValueError: a device has less than the job needs. One sentence that says what helps.
      ShardingError: as `job_memory`.
    """
    memory = job_memory(config, mesh, job)
    if memory.fits:
        return memory
    raise ValueError(
        f"decoding {job.rows} rows of up to {job.size} tokens does not fit: {memory}; "
        f"{_mend(config, mesh, job)}."
    )


def _mend(config: ModelConfig, mesh, job: Job) -> str:
    """The switches that help, the mildest first."""

    def fits(**changes) -> bool:
        return job_memory(config, mesh, dataclasses.replace(job, **changes)).fits

    helpful = []
    if not job.cache and fits(cache="int8"):
        helpful.append("--cache=int8")
    if not job.weights and fits(weights="int8"):
        helpful.append("--weights=int8")
    if not helpful and not (job.cache and job.weights) and fits(cache="int8", weights="int8"):
        helpful.append("--cache=int8 with --weights=int8")
    rows = job.rows // 2
    while rows and not fits(rows=rows, prompt_rows=min(rows, job.prompt_rows)):
        rows //= 2
    if rows:
        helpful.append(f"--slots={rows}")
    size = job.size // 2
    while size and not fits(size=size, prompt_tokens=min(size, job.prompt_tokens)):
        size //= 2
    if size:
        helpful.append(f"rows of at most {size} tokens")
    return f"what helps: {', or '.join(helpful)}" if helpful else "it takes more devices"


def device_memory(mesh) -> int | None:
    """Bytes that a device of this process lets programs have; a host's memory is shared by all."""
    device = mesh.local_devices[0] if isinstance(mesh, jax.sharding.Mesh) else mesh.devices.flat[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(mesh.local_devices)
    return (device.memory_stats() or {}).get("bytes_limit")


def _local(rows: int, mesh) -> int:
    shards = batch_shards(mesh)
    return rows // shards if rows % shards == 0 else rows


def _of_step(config: ModelConfig, mesh, job: Job, tensor: int) -> int:
    """The largest of: logits that are sorted, a matrix and a layer's cache that are widened."""
    rows, item = _local(job.rows, mesh), config.compute_dtype.itemsize
    largest = 4 * rows * config.vocab // tensor
    if job.weights:
        largest = max(largest, item * config.width * max(config.vocab, config.ff) // tensor)
    if job.cache:
        places = max(ring_size(window, job.size) for window in config.layer_windows)
        heads = 2 * config.kv_heads // tensor * config.head_size
        largest = max(largest, item * rows * places * heads)
    return largest


def _of_prompts(config: ModelConfig, mesh, job: Job, tensor: int) -> int:
    """A cache of the prompts' own, their logits and which tokens were seen."""
    cache = laid_out_cache(config, mesh, job.prompt_rows, job.prompt_tokens, job.cache)
    return device_bytes(cache) + 5 * _local(job.prompt_rows, mesh) * -(-config.vocab // tensor)


def _of_reading(config: ModelConfig, mesh, job: Job, tensor: int) -> int:
    """What one layer makes of the tokens of prompts."""
    rows, L = _local(job.prompt_rows, mesh), job.prompt_tokens
    width, item = config.width, jnp.dtype(config.dtype).itemsize
    scores = 2 * 4 * config.heads // tensor * L * L  # products and their softmax
    hidden = item * L * (3 * config.ff // tensor + 4 * width)
    return rows * max(scores, hidden)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
