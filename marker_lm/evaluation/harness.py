"""The model `marker_lm` of lm-evaluation-harness (pip install 'marker-lm[eval]').

The harness has no way to find models of other packages, so this module registers the model and then
is the harness's own command line:

  python -m marker_lm.evaluation.harness --model marker_lm --tasks arc_easy,gsm8k \\
      --model_args checkpoint=/data/run,markers=lang:German

  checkpoint  a run's folder or an exported one
  markers     CATEGORY:VALUE;... that are pinned; the model infers the rest of its list by itself
  step, weights, cache   as in `marker-lm decode`
  max_gen_toks           of an answer, where a task does not say it; 256

--batch_size is the number of rows side by side, by default decode.batch of the run's config. In
Python, `lm_eval.simple_evaluate` takes a `MarkerLM`. How lists enter the scores is told in
harness_model.py.
"""

import json
import sys
from collections.abc import Mapping, Sequence

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
except ImportError as error:
    raise ImportError(
        f"lm-evaluation-harness is missing ({error}); pip install 'marker-lm[eval]'"
    ) from None

from marker_lm.decoding.load import load_engine
from marker_lm.decoding.prompts import Prompt
from marker_lm.decoding.sampling import Sampling, row_seed
from marker_lm.evaluation.harness_model import HarnessModel

MESSAGES = "messages:"  # begins a context that a chat template is to be written around
_SAMPLING = ("temperature", "top_k", "top_p")
_WITHOUT_EFFECT = {"num_beams": 1, "repetition_penalty": 1.0, "length_penalty": 1.0}


@register_model("marker_lm")
class MarkerLM(LM):
    """See the module. Raises ValueErrors of one sentence for arguments that can't be used."""

    def __init__(
        self,
        checkpoint: str,
        markers: str | Mapping = "",
        step: int | None = None,
        weights: str = "",
        cache: str = "",
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,  # the harness always names one; JAX takes what is there
    ):
        super().__init__()
        # 1 is what the harness says where nobody has said anything; answers don't depend on it.
        side_by_side = int(batch_size) if str(batch_size).isdigit() else 1
        batch = side_by_side if side_by_side > 1 else max_batch_size
        economy = {k: v for k, v in {"weights": weights, "cache": cache}.items() if v}
        engine, _ = load_engine(checkpoint, step, batch=batch, **economy)
        self.model = HarnessModel(engine, read_markers(markers))
        self.max_gen_toks = max_gen_toks

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = [(_prompt(context), text) for context, text in _args(requests)]
        return self._kept("loglikelihood", requests, self.model.log_likelihoods(pairs))

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        totals = self.model.rolling([text for (text,) in _args(requests)])
        return self._kept("loglikelihood_rolling", requests, totals)

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        asked = [
            (_prompt(context), read_sampling(given, self.max_gen_toks, number))
            for number, (context, given) in enumerate(_args(requests))
        ]
        return self._kept("generate_until", requests, self.model.generate(asked))

    def _kept(self, kind: str, requests, results: list) -> list:
        for args, result in zip(_args(requests), results, strict=True):
            self.cache_hook.add_partial(kind, args, result)
        return results

    @property
    def tokenizer_name(self) -> str:
        return self.model.engine.tokenizer.hash

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The Jinja text; there is one only. Raises ValueError where the model has none."""
        if self.model.engine.chat is None:
            raise ValueError(
                "--apply_chat_template: the model was trained without a template; leave it out."
            )
        return self.model.engine.chat.template

    def apply_chat_template(self, chat_history, add_generation_prompt: bool = True) -> str:
        """The messages as text; the template is written where markers are, when it is answered."""
        self.chat_template()
        return MESSAGES + json.dumps(chat_history)


def read_markers(given: str | Mapping) -> dict[str, str | list[str]]:
    """Pinned markers: 'lang:German;task:qa', a category twice for two values; or a mapping.

    Raises ValueError for a part without ':'.
    """
    if isinstance(given, Mapping):
        return dict(given)
    pins: dict[str, list[str]] = {}
    for part in filter(None, given.split(";")):
        category, colon, value = part.partition(":")
        if not colon:
            raise ValueError(f"markers has {part!r}; give CATEGORY:VALUE, such as lang:German.")
        pins.setdefault(category.strip(), []).append(value.strip())
    return {c: values if len(values) > 1 else values[0] for c, values in pins.items()}


def read_sampling(given: Mapping, max_gen_toks: int, number: int) -> Sampling:
    """The Sampling of a request's generation arguments.

    Args:
      given: until, do_sample, temperature, top_k, top_p, max_gen_toks (and its other names), seed.
      max_gen_toks: where the request does not say it.
      number: of the request: two of the same text, which tasks with repeats have, differ.

    Raises:
      ValueError: an argument that would change the answers and that is not known here.
    """
    known = dict(normalize_gen_kwargs(dict(given), max_gen_toks))
    until, most = known.pop("until"), known.pop("max_gen_toks")
    drawn, seed = known.pop("do_sample"), known.pop("seed", 0)
    settings = {name: known.pop(name) for name in _SAMPLING if name in known}
    for name, value in known.items():
        if value is not None and _WITHOUT_EFFECT.get(name, not value) != value:
            raise ValueError(
                f"generation argument {name}={value!r} is not supported; take it out of the task's "
                f"generation_kwargs. These are: until, max_gen_toks, do_sample, "
                f"{', '.join(_SAMPLING)}, seed."
            )
    if not drawn:
        settings = {}
    stop = tuple(text for text in until if text)
    return Sampling(**settings, max_tokens=most, seed=row_seed(seed, number), stop=stop)


def _args(requests: Sequence) -> list[tuple]:
    return [request.args for request in requests]


def _prompt(context: str) -> Prompt:
    if context.startswith(MESSAGES):
        return json.loads(context.removeprefix(MESSAGES))
    return context


def main() -> int:
    """The harness's command line."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except ValueError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
