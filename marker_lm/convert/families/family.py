"""What a family is: a config.json read and written, and the names of its tensors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from marker_lm.convert.errors import ConvertError
from marker_lm.convert.families.reader import ConfigReader
from marker_lm.model.config import ModelConfig

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
THEIR_ACTIVATION = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}
# How a model is run, which no config.json says.
RUNTIME = ("dtype", "param_dtype", "scan", "remat", "ff_blocks")


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models as Hugging Face's transformers knows it.

    Attributes:
      model_type: of config.json, such as 'llama'.
      architecture: the class that loads it, such as 'LlamaForCausalLM'.
      read: fields of ModelConfig from a config.json.
      write: keys of config.json from a ModelConfig; what it can not say may be left out, for it is
        found by reading the keys again. None for a family that is only read.
      names: our path of a parameter, such as 'layers/attention/query', to their name, with
        '{layer}' in it where there is one for each layer.
      whole_heads: whether their class refuses a width that the heads do not divide.
      unread: a regular expression that names the tensors of their files which are no parameters of
        the text model. Besides those, a file with a tied head may hold the head again.
    """

    model_type: str
    architecture: str
    read: Callable[[ConfigReader], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]] | None
    names: Mapping[str, str]
    whole_heads: bool = False
    unread: str = r".*\.rotary_emb\.inv_freq"

    def to_model(self, hf_config: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of ModelConfig, without those of RUNTIME.

        Raises ConvertError: the config.json has an option that a ModelConfig can not express, or
        an impossible value; the message names the key, its value and what is supported.
        """
        reader = ConfigReader(hf_config, self.model_type)
        try:
            fields = self.read(reader)
            ModelConfig(**fields)
        except ConvertError:
            raise
        except ValueError as error:
            raise ConvertError(f"config.json of a {self.model_type} model: {error}") from error
        reader.refuse_unknown()
        return fields

    def to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json, but for token ids and dtype.

        Raises ConvertError: the family can not express the config; the message names the fields.
        """
        lost = self.lost(config)
        if lost:
            raise ConvertError(f"a {self.model_type} model can't have {', '.join(lost)}.")
        return self._written(config)

    def lost(self, config: ModelConfig) -> list[str]:
        """What of the config the family can not express, as text; [] if it can express it."""
        if self.write is None:
            return ["parts other than text left out; export it as the family of its text model"]
        lost = []
        if self.whole_heads and config.width % config.heads:
            lost.append(
                f"width={config.width} with heads={config.heads} (transformers wants the heads to "
                "divide the width)"
            )
        again = ModelConfig(**self.to_model(self._written(config)))
        wanted, found = _canonical(config), _canonical(again)
        return lost + [
            f"{name}={wanted[name]!r} (would become {found[name]!r})"
            for name in wanted
            if wanted[name] != found[name]
        ]

    def _written(self, config: ModelConfig) -> dict[str, Any]:
        head = {"architectures": [self.architecture], "model_type": self.model_type}
        return head | self.write(config)


def _canonical(config: ModelConfig) -> dict[str, Any]:
    """The fields that say what is computed, equal for two configs that compute the same."""
    fields = dataclasses.asdict(config)
    for name in RUNTIME:
        del fields[name]
    windows = fields["windows"] = config.layer_windows
    fields["attention_scale"] = config.attention_scale or config.head_size**-0.5
    one_base = config.rope_local_base == config.rope_base and not config.rope_scaling
    if one_base or not any(windows):
        fields["rope_local_base"] = 0.0
    fields["rope_everywhere"] = config.rope_everywhere or all(windows)
    return fields


def read_sizes(
    reader: ConfigReader, *, tied: bool, activation_key: str = "hidden_act", **defaults: Any
) -> dict[str, Any]:
    """The fields that all families share; a key without a default must be in the file.

    Args:
      reader: of the config.json.
      tied: whether the head is tied where the file does not say so.
      activation_key: the key that names the activation.
      **defaults: the values of keys where the file does not have them.
    """

    def size(key: str) -> int:
        return reader.integer(key, defaults[key]) if key in defaults else reader.integer(key)

    width, heads = size("hidden_size"), size("num_attention_heads")
    reader.demand(attention_dropout=0.0)
    return {
        "vocab": size("vocab_size"),
        "width": width,
        "layers": size("num_hidden_layers"),
        "heads": heads,
        "kv_heads": reader.integer(
            "num_key_value_heads", defaults.get("num_key_value_heads"), null=None
        )
        or heads,
        "head_size": reader.integer("head_dim", defaults.get("head_dim")) or width // heads,
        "ff": size("intermediate_size"),
        "max_len": size("max_position_embeddings"),
        "activation": reader.choice(
            activation_key, ACTIVATIONS, defaults.get(activation_key, "silu")
        ),
        "tied_head": reader.get("tie_word_embeddings", bool, tied),
    }


def write_sizes(config: ModelConfig, activation_key: str = "hidden_act") -> dict[str, Any]:
    """The keys that all families share."""
    return {
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.ff,
        "max_position_embeddings": config.max_len,
        activation_key: THEIR_ACTIVATION[config.activation],
        "tie_word_embeddings": config.tied_head,
    }
