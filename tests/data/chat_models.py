"""Chat templates in the formats of well-known models, and small tokenizers with their tokens."""

import dataclasses
import functools
import json

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from marker_lm.data.chat import Chat, load_chat
from marker_lm.data.tokenizers.hf import HFTokenizer

CHATML = """
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA_3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

LLAMA_2 = """{% if messages[0]['role'] == 'system' %}
{% set rest = messages[1:] %}
{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
{% set rest = messages %}
{% set system = '' %}
{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user/assistant') }}
{% endif %}
{% if message['role'] == 'user' %}
{% set shown = (system if loop.first else '') + message['content'] | trim %}
{{ bos_token + '[INST] ' + shown + ' [/INST]' -}}
{% else %}
{{ ' ' + message['content'] | trim + ' ' + eos_token -}}
{% endif %}
{% endfor %}"""

MISTRAL = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' }}{% generation %}{{- message.content + eos_token }}{% endgeneration %}
    {%- else %}
        {{- raise_exception('only user and assistant are known') }}
    {%- endif %}
{%- endfor %}"""

GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}
{%- for message in messages %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

COMMAND_R = """{{ bos_token }}
{%- for message in messages %}
    {%- set name = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[message.role] %}
    {{- '<|START_OF_TURN_TOKEN|><|' + name + '_TOKEN|>' + message.content.strip() }}
    {{- '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}
{%- endif %}"""

# Thinking stands in the last answer only, where there is none as an empty one.
QWEN_3 = """
{%- for message in messages %}
    {%- set said = message.content.split('</think>')[-1].lstrip('\\n') %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.last %}
        {%- set thought = message.content.split('</think>')[0].split('<think>')[-1] %}
        {%- set thought = thought.strip('\\n') if '</think>' in message.content else '' %}
        {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- said + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# What ends the whole text is not what ends an answer.
PHI_3 = """
{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token }}"""


@dataclasses.dataclass(frozen=True)
class Model:
    """A template, the special tokens of its tokenizer, and whether that is a SentencePiece one."""

    template: str
    tokens: tuple[str, ...]
    bos: str | None
    eos: str
    metaspace: bool = False


_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MODELS = {
    "chatml": Model(CHATML, _IM, None, "<|im_end|>"),
    "llama3": Model(
        LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
        + ("<|eot_id|>",),
        "<|begin_of_text|>",
        "<|end_of_text|>",
    ),
    "llama2": Model(LLAMA_2, ("<s>", "</s>"), "<s>", "</s>", True),
    "mistral": Model(MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", True),
    "gemma": Model(
        GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", True
    ),
    "command_r": Model(
        COMMAND_R,
        ("<BOS_TOKEN>", "<EOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>")
        + ("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        "<BOS_TOKEN>",
        "<EOS_TOKEN>",
    ),
    "qwen3": Model(QWEN_3, (*_IM, "<think>", "</think>"), None, "<|im_end|>"),
    "phi3": Model(
        PHI_3, ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"), None, "<|endoftext|>"
    ),
}
_TEXTS = ["Hello there, how are you today?", "Good bye and be well.", "say yes no ja nein hai"] * 9


@functools.cache
def make_tokenizer(name: str) -> HFTokenizer:
    model = MODELS[name]
    library = tokenizers.Tokenizer(models.BPE(byte_fallback=model.metaspace))
    if model.metaspace:
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
        library.normalizer = normalizers.Replace(" ", "\u2581")
        library.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=[*model.tokens, *alphabet], show_progress=False
        )
    else:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(model.tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    library.train_from_iterator(_TEXTS, trainer)
    content = json.loads(library.to_str())
    if model.metaspace:  # bytes are pieces of the model, and no tokens of their own
        content["added_tokens"] = [
            token for token in content["added_tokens"] if token["content"] in model.tokens
        ]
    config = {"eos_token": model.eos, "chat_template": model.template}
    if model.bos:
        config["bos_token"] = model.bos
    return HFTokenizer(content, config)


def make_chat(name: str, system: str = "") -> Chat:
    return load_chat({"template": "model", "system": system}, make_tokenizer(name))
