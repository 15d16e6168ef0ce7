"""Decodes held-out items with one trained arm under every setting; kept on disk, so done once."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from etils import epath

from marker_lm.data.whole_files import write_whole
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmark import Item
from marker_lm.progress import Progress


@dataclasses.dataclass(frozen=True)
class Answer:
    """A decoded answer: text, inferred and pinned markers, probability of each marker's value."""

    text: str
    markers: Mapping
    probability: Mapping[str, float]
    finished: bool


def pin_levers(engine: Engine, pins: Mapping) -> Controls:
    """Controls with those of the pins that are levers of the engine's arm."""
    pinned = {c: v for c, v in pins.items() if c in engine.layout.levers}
    return Controls(pinned, allow_unseen=True)  # a lever that was never trained is measured too


def predict(
    engine: Engine,
    items: Sequence[Item],
    pins: Sequence[Mapping],
    sizes: Sequence[int],
    sampling: Sampling,
    path: epath.PathLike,
    title: str,
    version: str,
    guidance: Guidance | None = None,
) -> list[Answer]:
    """One answer an item, in order; read from `path` where it was made before.

    Args:
      engine: of the arm. An arm without markers takes no pins: they are left out for it.
      items: what to answer.
      pins: pinned markers of each item.
      sizes: how long each answer is likely to be, in any unit: rows that end together are decoded
        together, so that few steps are wasted.
      sampling: of all answers.
      path: JSONL file of this arm and setting.
      title: for the progress line.
      version: names the parameters; answers of another version are made again.
      guidance: of all items; none by default.
    """
    path = epath.Path(path)
    asked = [
        item.prompt + json.dumps(dict(p), sort_keys=True)
        for item, p in zip(items, pins, strict=True)
    ]
    settings = json.dumps([version, dataclasses.asdict(sampling), repr(guidance), asked])
    key = hashlib.sha256(settings.encode()).hexdigest()
    if path.exists():
        # Not splitlines: answers may hold other line separators, which JSON leaves as they are.
        head, *lines = path.read_text().rstrip("\n").split("\n")
        if head == json.dumps(key):
            return [_read(line) for line in lines]
    controls = [pin_levers(engine, pinned) for pinned in pins]
    order = sorted(range(len(items)), key=lambda i: sizes[i])
    answers: list[Answer | None] = [None] * len(items)
    with Progress(title, len(items)) as progress:
        for start in range(0, len(order), engine.batch):
            chosen = order[start : start + engine.batch]
            results = engine.generate(
                [items[i].prompt for i in chosen], [controls[i] for i in chosen], sampling, guidance
            )
            for i, r in zip(chosen, results, strict=True):
                answers[i] = Answer(r.text, r.markers, r.probability, r.finished)
            progress.update(start + len(chosen))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(key),
        *(json.dumps(dataclasses.asdict(a), ensure_ascii=False) for a in answers),
    ]
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return answers


def _read(line: str) -> Answer:
    """A kept answer; several values of one category are a list in JSON."""
    answer = Answer(**json.loads(line))
    markers = {c: tuple(v) if isinstance(v, list) else v for c, v in answer.markers.items()}
    return dataclasses.replace(answer, markers=markers)
