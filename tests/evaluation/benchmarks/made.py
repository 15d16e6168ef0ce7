"""Small files for benchmarks, and a model that answers by rule."""

import json
from types import SimpleNamespace

from marker_lm.evaluation.benchmarks.registry import load_benchmark
from marker_lm.evaluation.benchmarks.run import read_answers, read_items, score_answers


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def scored(folder, name, rows, answers=None, **settings):
    """The result of a benchmark on rows, with answers in the order of the rows."""
    benchmark = load_benchmark(name, settings)
    items, bad = read_items(benchmark, [write_jsonl(folder / "data.jsonl", rows)])
    pairs, notes = [(item, item.answer) for item in items], []
    if answers is not None:
        lines = [a if isinstance(a, dict) else {"text": a} for a in answers]
        lines = [{"id": item.id, **a} for item, a in zip(items, lines, strict=True)]
        pairs, notes = read_answers(items, write_jsonl(folder / "answers.jsonl", lines))
    return score_answers(benchmark, pairs, bad, notes)


def table(result) -> dict[str, dict[str, float]]:
    """group -> metric -> mean."""
    return {line.group: {m: v.mean for m, v in line.metrics.items()} for line in result.lines}


class Parrot:
    """What a benchmark needs of an Engine; answers with the prompt, and refuses long ones."""

    batch = 2

    def __init__(self):
        self.pinned = []

    def refusal(self, prompt, controls):
        return "the prompt is too long" if len(prompt) > 40 else None

    def generate(self, prompts, controls, sampling):
        self.pinned += [dict(one.pinned) for one in controls]
        return [
            SimpleNamespace(to_dict=lambda p=p, c=c: {"text": p, "markers": dict(c.pinned)})
            for p, c in zip(prompts, controls, strict=True)
        ]
