"""The packaged SmolLM2-135M-Instruct, asked without markers."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from marker_lm.data.chat import Chat
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.decoding.engine import extend, pad, write_text
from marker_lm.decoding.sampling import Sampling
from marker_lm.model.cache import init_cache
from marker_lm.model.config import ModelConfig

PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in one sentence why the sky is blue.",
    "List three fruits.",
    "What is 7 times 8?",
    "Give me a tip for sleeping better.",
    "Who wrote Romeo and Juliet?",
    "Write a Python function that adds two numbers.",
    "Translate 'good morning' to Spanish.",
    "What do bees make, and why?",
)
MAX_TOKENS = 64


def asked(tokenizer: Tokenizer, prompt: str) -> str:
    """A user's prompt as the model's chat template writes it, up to where the answer begins."""
    chat = Chat(tokenizer.chat_template, tokenizer.special)
    return chat.turns(chat.plain(prompt), asked=True)[0].prompt


def greedy(
    params, config: ModelConfig, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """The greedy answers to prompts (ids), eos included, by the decoding of the engine."""
    B, longest = len(prompts), max(map(len, prompts))
    cache = init_cache(config, B, longest + MAX_TOKENS)
    read = jax.jit(functools.partial(extend, config), donate_argnums=1)
    logits_BxV, cache = read(params, cache, *pad(prompts, longest))
    write = jax.jit(
        functools.partial(write_text, config, tokenizer.eos_id, tokenizer.size), static_argnums=5
    )
    keys_B = jax.vmap(jax.random.key)(jnp.arange(B))
    sampling = Sampling(max_tokens=MAX_TOKENS)
    done_B = jnp.zeros(B, bool)
    tokens_BxT, length_B = write(params, cache, logits_BxV, keys_B, done_B, sampling)
    return [
        np.asarray(row[:length]).tolist() for row, length in zip(tokens_BxT, length_B, strict=True)
    ]
