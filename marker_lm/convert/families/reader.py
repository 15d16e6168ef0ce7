"""Reading a config.json such that no key of it goes unnoticed."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from marker_lm.convert.errors import ConvertError

# Keys that say nothing about what a forward pass computes: of the file, of the tokenizer, of
# generation, of training from scratch. `pretraining_tp` cuts a product into parts of the same sum.
INERT = frozenset(
    """
    architectures auto_mapping cache_implementation chunk_size_feed_forward dtype
    initializer_range is_llama_config model_max_length model_type pretraining_tp return_dict
    tokenizer_class torch_dtype transformers.js_config transformers_version use_cache
    bad_words_ids begin_suppress_tokens bos_token_id decoder_start_token_id eos_token_id
    forced_bos_token_id forced_eos_token_id pad_token_id sep_token_id suppress_tokens
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty length_penalty max_length min_length no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences remove_invalid_values repetition_penalty
    temperature top_k top_p typical_p
    finetuning_task id2label label2id prefix problem_type task_specific_params
    """.split()
)
REQUIRED = object()


class ConfigReader:
    """A config.json that knows which of its keys have been read.

    Raises ConvertError, naming the key, its value and what is supported, wherever a value is not
    one that the model can have.
    """

    def __init__(self, hf_config: Mapping[str, Any], model_type: str):
        self.model_type = model_type
        self._config = hf_config
        self._known: set[str] = set()

    def get(self, key: str, kind: type, default: Any = REQUIRED, null: Any = REQUIRED) -> Any:
        """The value, which is of `kind`; a float may be written as a whole number.

        Args:
          key: of the config.json.
          kind: int, float, bool, list or dict.
          default: what a missing key stands for; without it the key can not be missing.
          null: what null stands for; without it the same as a missing key.
        """
        self._known.add(key)
        value = self._config.get(key)
        if value is None:
            value = null if key in self._config and null is not REQUIRED else default
            if value is REQUIRED:
                raise ConvertError(
                    f"config.json of a {self.model_type} model has no {key}{self._nearest(key)}."
                )
            return value
        kinds = (int, float) if kind is float else kind
        # A bool is an int to Python, not to JSON.
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            raise self.refusal(key, value, f"supported: a value of type {kind.__name__}")
        return float(value) if kind is float else value

    def integer(self, key: str, default: Any = REQUIRED, null: Any = REQUIRED) -> Any:
        return self.get(key, int, default, null)

    def number(self, key: str, default: Any = REQUIRED, null: Any = REQUIRED) -> Any:
        return self.get(key, float, default, null)

    def choice(self, key: str, choices: Mapping[str, Any], default: str) -> Any:
        """What `choices` has for the value, or for `default` where it is missing or null."""
        self._known.add(key)
        value = self._config.get(key)
        value = default if value is None else value
        if not isinstance(value, str) or value not in choices:
            raise self.refusal(key, value, f"supported: {', '.join(choices)}")
        return choices[value]

    def demand(self, **allowed: Any) -> None:
        """Refuses the config where a key has neither the allowed value nor null nor is missing."""
        for key, supported in allowed.items():
            self._known.add(key)
            value = self._config.get(key)
            if value is not None and value != supported:
                raise self.refusal(key, value, f"supported: {json.dumps(supported)}")

    def refuse_unknown(self) -> None:
        """Refuses the config if it has keys that nobody read, except such as change nothing.

        An unknown key that is null, false or empty is an option that is off.
        """
        for key, value in self._config.items():
            if key in self._known or key in INERT or key.startswith(("_", "unsloth_")):
                continue
            if value is None or value is False or value in ({}, []):
                continue
            raise self.refusal(
                key, value, "it is not known; if it does not change the model, take it out"
            )

    def refusal(self, key: str, value: Any, why: str) -> ConvertError:
        shown = json.dumps(value, default=str)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return ConvertError(f"config.json of a {self.model_type} model: {key} is {shown}; {why}.")

    def _nearest(self, key: str) -> str:
        nearest = difflib.get_close_matches(key, self._config, n=1, cutoff=0.8)
        return f" (but {nearest[0]!r})" if nearest else ""
