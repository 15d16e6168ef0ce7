"""`peft` on `transformers` with an exported adapter, against our model with its factors."""

import dataclasses

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from marker_lm.convert.peft import export_adapter, import_adapter
from marker_lm.model.config import LoRA
from marker_lm.model.lora import is_factor, merge
from marker_lm.model.params import abstract_params
from tests.model.helpers import forward, plain

pytestmark = pytest.mark.extra
peft = pytest.importorskip("peft")
parity = pytest.importorskip("tests.convert.test_parity")

CASES = {
    "llama": "",
    "qwen2": "query|value",
    "gemma2": "",
    "gemma3": "mlp",
    "cohere, qk norm, untied": "",
    "cohere2": "attention",
}


@pytest.mark.parametrize(("name", "targets"), CASES.items(), ids=CASES)
def test_logits_of_an_adapter(tmp_path, name, targets):
    case = parity.Case(name)
    tokens = parity.some_tokens(parity.L)
    base_logits = case.their_logits(tokens)
    config = dataclasses.replace(case.config, lora=LoRA(4, 6.0, targets))
    random = np.random.default_rng(0)
    infos = flatten_dict(abstract_params(config), sep="/")
    factors = {
        path: (random.normal(size=info.shape) * 0.15).astype(np.float32)
        for path, info in infos.items()
        if is_factor(path)
    }
    params = unflatten_dict(flatten_dict(case.params, sep="/") | factors, sep="/")
    ours, _ = forward(config, params, *plain(tokens))

    export_adapter(tmp_path / "adapter", params, config, case.family, "base")
    adapted = peft.PeftModel.from_pretrained(case.theirs, tmp_path / "adapter").eval()
    theirs = parity.logits_of(adapted, tokens)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(theirs - base_logits).max() > 0.05
    merged, without = merge(params, config)
    np.testing.assert_allclose(forward(without, merged, *plain(tokens))[0], theirs, atol=1e-4)

    # What peft saves is what was exported.
    adapted.save_pretrained(tmp_path / "again")
    found, _ = import_adapter(tmp_path / "again", case.config, case.family)
    found = flatten_dict(found, sep="/")
    assert found.keys() == factors.keys()
    for path, x in found.items():
        np.testing.assert_array_equal(x, factors[path], strict=True)
