"""How many tokens the markers will cost in training, by template and side."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from marker_lm.annotate.tally import Tally
from marker_lm.data.assembly import Layout
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import Dropout

_POINTS = 200  # of the progress over which a dropout schedule is averaged


def token_costs(
    tally: Tally,
    codecs: Mapping[str, MarkerCodec],
    layout: Layout,
    dropout: Dropout,
) -> dict[str, Any]:
    """Tokens of one pass over the rows, borders of the lists included.

    Args:
      tally: of the training rows; `marker_tokens` has each template of `codecs`.
      codecs: template -> codec.
      layout: says which categories stand on which side, and the separator.
      dropout: of the prompt side; a schedule counts by its mean over the training.

    Returns:
      text: tokens of prompts, separators, completions and their ends;
      templates: template -> completion_side, prompt_side (expected under dropout),
        prompt_side_undropped, markers (completion_side + prompt_side), a_row, share_of_text,
        borders (tokens around one list), categories {name: mean tokens where it is present};
      compact_over_text: markers of the compact template over those of text, where both are.
    """
    ends = len(layout.bos) + len(layout.separator) + 1
    text = sum(tally.text_tokens.values()) + tally.rows * ends
    templates = {name: _cost(tally, name, codec, layout, dropout) for name, codec in codecs.items()}
    for cost in templates.values():
        cost["a_row"] = cost["markers"] / max(tally.rows, 1)
        cost["share_of_text"] = cost["markers"] / max(text, 1)
    result: dict[str, Any] = {"text": text, "templates": templates}
    if {"text", "compact"} <= templates.keys() and templates["text"]["markers"]:
        ratio = templates["compact"]["markers"] / templates["text"]["markers"]
        result["compact_over_text"] = ratio
    return result


def _cost(tally: Tally, template: str, codec, layout: Layout, dropout: Dropout) -> dict[str, Any]:
    tokens, borders = tally.marker_tokens[template], len(codec.open) + len(codec.close)
    completion_side = sum(tokens[c] for c in layout.completion_side)
    if layout.completion_side:
        completion_side += tally.rows * borders
    undropped = _prompt_side(tally, tokens, borders, layout, Dropout(0.0, 0.0))
    prompt_side = _prompt_side(tally, tokens, borders, layout, dropout)
    return {
        "completion_side": completion_side,
        "prompt_side": prompt_side,
        "prompt_side_undropped": undropped,
        "markers": completion_side + prompt_side,
        "borders": borders,
        "categories": {c: n / tally.marked[c] for c, n in tokens.items() if tally.marked[c]},
    }


def _prompt_side(tally: Tally, tokens, borders: int, layout: Layout, dropout: Dropout) -> float:
    """Expected tokens of the prompt-side lists, by the rule of `markers.dropout.keep_mask`."""
    factor_P = np.ones(1)
    if dropout.schedule:
        middle_P = (np.arange(_POINTS) + 0.5) / _POINTS
        factor_P = np.interp(middle_P, *zip(*dropout.schedule, strict=True))
    stays_P = 1 - dropout.example * factor_P
    drop = {c: dropout.per_category.get(c, dropout.marker) * factor_P for c in layout.prompt_side}
    total_P = sum((tokens[c] * stays_P * (1 - drop[c]) for c in drop), np.zeros(1))
    for present, rows in tally.sets.items():
        shown = [drop[c] for c in present if c in drop]
        if shown:
            total_P = total_P + borders * rows * stays_P * (1 - np.prod(shown, axis=0))
    return float(np.mean(total_P))
