"""Every family that is converted: decoding through slots is the argmax of whole forward passes."""

import dataclasses

import jax
import numpy as np
import pytest

from marker_lm.convert.families import find_family
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.request import Request
from marker_lm.decoding.sampling import Sampling
from marker_lm.model.config import ModelConfig
from marker_lm.sharding.mesh import make_mesh
from tests.convert.cases import CASES, SIZES
from tests.decoding.small import (
    MAX_LEN,
    TOKENIZER,
    full_logits,
    make_codec,
    make_config,
    make_layout,
    make_params,
)

TOKENS = 64
# Of three sizes that are read apart, two of them together; more rows than slots.
PROMPTS = ["Name the capital of Japan.", "x", "Hi, you.", "tell me more, " * 6]
CONTROLS = [Controls({"lang": "German", "words": 12}), Controls()]


def family_config(case: str) -> ModelConfig:
    hf_config = SIZES | CASES[case]
    config = ModelConfig(**find_family(hf_config).to_model(hf_config))
    return dataclasses.replace(
        config, vocab=make_config("compact").vocab, max_len=MAX_LEN, scan=True
    )


def lively_params(config: ModelConfig):
    """Random parameters whose blocks count for more than the last token's embedding: tied to the
    head, it would call for itself again and again."""
    params = dict(make_params(config))
    params["embedding"] = params["embedding"] / (4 * config.embedding_scale)
    return params


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_greedy_is_the_argmax_of_forward_passes(case):
    config, codec = family_config(case), make_codec("compact")
    mesh = make_mesh(devices=jax.devices()[:1])
    # A reserved id is never sampled, so that texts go on.
    layout = dataclasses.replace(make_layout("compact"), eos=config.vocab - 1)
    known = codec.taxonomy, codec, layout, TOKENIZER
    engine = Engine(lively_params(config), config, *known, mesh, 3)
    sampling = Sampling(max_tokens=TOKENS)
    requests = [Request(p, CONTROLS[i % 2], sampling) for i, p in enumerate(PROMPTS)]
    written = set()
    for number, result in engine.run(requests):
        controls = engine.check(requests[number].controls)
        lane = engine.lane(PROMPTS[number], controls, sampling)
        head = lane.ids[: len(lane.ids) - len(lane.block.tokens)]
        spans = [codec.marker(c, v) for c, v in result.markers.items()]
        ids = [*head, *codec.open, *sum(map(list, spans), []), *codec.close]
        logits = full_logits(engine, [*ids, *result.tokens])[len(ids) - 1 : -1, : TOKENIZER.size]
        assert len(result.tokens) == TOKENS
        assert result.tokens == tuple(np.argmax(logits, axis=-1))
        written.update(result.tokens)
    assert len(written) > 20, "not one token again and again"
