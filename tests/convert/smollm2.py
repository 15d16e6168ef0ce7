"""The packaged SmolLM2-135M-Instruct, asked without markers."""

from collections.abc import Sequence

import numpy as np

from marker_lm.data.chat import Chat
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.decoding.programs import Programs
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.slots import Answer, Lane, Slots
from marker_lm.decoding.text import Text
from marker_lm.model.config import ModelConfig
from marker_lm.sharding.mesh import make_mesh

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
    ends, sampling = (tokenizer.eos_id,), Sampling(max_tokens=MAX_TOKENS)
    mesh = make_mesh()
    slots = Slots(Programs(params, config, mesh, ends, tokenizer.size), len(prompts), 1)
    answers = [
        Answer(
            number,
            [Lane(list(ids), None, 0.0, np.random.default_rng(0))],
            sampling,
            1.0,
            Text(tokenizer, None, ends, sampling),
        )
        for number, ids in enumerate(prompts)
    ]
    slots.add(answers)
    while slots.answers:
        list(slots.advance(hasty=False, watched=False))
    return [[*a.text.ids, *(ends if a.reason == "end" else ())] for a in answers]
