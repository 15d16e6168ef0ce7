"""A real pretrained model: GGUF in, Hugging Face folder out, the same answers in transformers."""

import numpy as np
import pytest

from marker_lm.convert.check import model_config
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.export import export
from marker_lm.convert.load import load_params
from marker_lm.sharding.mesh import make_mesh
from tests.convert.gguf_files import smollm2 as packaged
from tests.convert.smollm2 import MAX_TOKENS, PROMPTS, asked, greedy

pytestmark = [pytest.mark.extra, pytest.mark.slow]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


class Both:
    """Our answers, theirs to the same prompts, and the lead of each of their tokens."""

    def __init__(self, folder):
        opened = open_pretrained(packaged())
        config = model_config(opened)
        params = load_params(opened, config, make_mesh())
        self.tokenizer = opened.tokenizer()
        export(folder, params, config, self.tokenizer, generation=opened.generation)
        texts = [asked(self.tokenizer, prompt) for prompt in PROMPTS]
        self.prompts = [self.tokenizer.encode(text) for text in texts]
        self.ours = greedy(params, config, self.tokenizer, self.prompts)
        del params
        self.their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.theirs, self.leads = zip(*map(ask_theirs(model.eval()), self.prompts), strict=True)


def ask_theirs(model):
    def ask(ids):
        with torch.no_grad():
            out = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        best = torch.cat(out.logits).topk(2).values
        return out.sequences[0, len(ids) :].tolist(), (best[:, 0] - best[:, 1]).numpy()

    return ask


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return Both(tmp_path_factory.mktemp("smollm2") / "exported")


def test_the_chat_template_is_rendered_as_transformers_does(both):
    for prompt, ids in zip(PROMPTS, both.prompts, strict=True):
        messages = [{"role": "user", "content": prompt}]
        found = both.their_tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert found["input_ids"] == ids


def test_greedy_answers_are_those_of_transformers(both):
    for prompt, ours, theirs, leads in zip(
        PROMPTS, both.ours, both.theirs, both.leads, strict=True
    ):
        text = both.tokenizer.decode(ours)
        print(f"{prompt}\n  {len(ours)} tokens, least lead {leads.min():.4f}: {text!r}")
        assert ours == theirs
    assert "Paris" in both.tokenizer.decode(both.ours[0])
    print(f"least lead of the best token over the next: {min(map(np.min, both.leads)):.5f}")


def test_the_exported_tokenizer_is_the_files(both):
    text = "<|im_start|>user\nÜber 12 Größen, 日本語!<|im_end|>\n"
    assert both.their_tokenizer(text)["input_ids"] == both.tokenizer.encode(text)
    assert both.their_tokenizer.eos_token_id == both.tokenizer.eos_id == 2
