"""Markers that annotators find in prompts, pinned before decoding."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from marker_lm.cli.common import load_config


@contextlib.contextmanager
def tagging(annotate: str | None, engine) -> Iterator:
    """What `decoding.answering.answer_rows` tags its requests with; None without annotators.

    Args:
      annotate: the name of an annotator, or a config of annotation, FILE.py[:ARG].
      engine: whose levers are filled, where a request neither pins, bans nor asks for them.
    """
    if annotate is None:
        yield None
        return
    from marker_lm.annotate.prompt_markers import PromptTagger
    from marker_lm.decoding.levers import pinned_too

    is_config = annotate.split(":", 1)[0].endswith(".py")
    annotators = load_config(annotate, []).to_dict() if is_config else annotate
    tagger = PromptTagger(annotators, engine.taxonomy, engine.layout.completion_side)
    for line in (f"annotated: {', '.join(tagger.categories)}", *tagger.notes):
        print(line, file=sys.stderr)

    def tag(requests: Sequence) -> list[tuple]:
        said = [{*r.controls.pinned, *r.controls.banned, *r.controls.asked} for r in requests]
        tagged = []
        found = tagger.tag([_text(request) for request in requests], said)
        for request, tags in zip(requests, found, strict=True):
            markers = {category: value for category, (value, *_) in tags.items()}
            info = {c: {"origin": o, "confidence": p} for c, (_, o, p) in tags.items()}
            tagged.append((pinned_too(request, markers), {"marker_info": info}))
        return tagged

    with contextlib.closing(tagger):
        yield tag


def _text(request) -> str:
    """What is asked last."""
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
