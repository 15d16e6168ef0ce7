"""What one trained run does on held-out items: a record for each item and metric.

A model that was trained with a list is always scored with one; without it, it is out of its
distribution. What is compared between arms is the nats of answer tokens alone, the list left out.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from marker_lm.annotate.checks import Check, judges, make_checks, obeys
from marker_lm.data.assembly import assemble
from marker_lm.data.setup import find_arm
from marker_lm.data.whole_files import write_whole
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.levers import Pins, rank_by_pins
from marker_lm.decoding.load import load_engine
from marker_lm.decoding.result import Result
from marker_lm.decoding.sampling import Sampling, one_a_row
from marker_lm.decoding.scoring import Scorer
from marker_lm.evaluation.benchmark import Benchmark, Item
from marker_lm.evaluation.predict import pin_levers
from marker_lm.evaluation.samples import lever_samples
from marker_lm.experiment.design import scored_list
from marker_lm.experiment.registration import METRIC, Asked

SKIPPED = "skipped"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained run and what it is asked.

    Attributes:
      engine, config: of the run.
      items: held-out rows that fit.
      asked: how they are asked.
      checks: category -> what tells its value from an answer.
    """

    engine: Engine
    config: ConfigDict
    items: Sequence[Item]
    asked: Asked
    checks: Mapping[str, Check]


@dataclasses.dataclass(frozen=True)
class Record:
    """One value: of an item, in a metric."""

    item: str
    metric: str
    value: float


Measure = Callable[[Subject], Iterator[Record]]


def scored_with(config: ConfigDict) -> dict[str, str]:
    """Metric -> the list that stands before the answer while it is scored; first the one in which
    arms are compared, see `scored_list`."""
    first = scored_list(config)
    if first == "none" and find_arm(config.arm).prompt_side:
        more = {"true list shown": "shown"}
    elif first == "own":
        more = {"true list": "true", "true but for length": "true but length"}
    else:
        more = {"own list": "own"} if first == "true" else {}
    return {METRIC: first} | {f"{METRIC}, {name}": mode for name, mode in more.items()}


def likelihood(subject: Subject) -> Iterator[Record]:
    """Nats per answer token under each list, markers inferred, and what lists cost in tokens."""
    engine, items = subject.engine, subject.items
    prompts = [item.prompt for item in items]
    modes = scored_with(subject.config)
    listed = engine.layout.levers
    true = [{c: v for c, v in item.markers.items() if c in listed} for item in items]
    lists = {"none": [{}] * len(items), "true": true, "filler": true, "shown": true}
    if "own" in modes.values():
        own = [r.markers for r in engine.generate(prompts, sampling=Sampling(max_tokens=1))]
        lists["own"] = own
        lists["true but length"] = list(map(_own_length(engine), true, own))
        for item, markers in zip(items, own, strict=True):
            for category in sorted(set(listed) & set(item.markers)):
                right = markers.get(category) == item.markers[category]
                yield Record(item.id, f"inferred {category}", float(right))
    scorer = Scorer(engine)
    for metric, mode in modes.items():
        shown = engine.layout.prompt_side if mode == "shown" else ()
        scores = scorer.score(prompts, [item.key for item in items], lists[mode], shown)
        for item, score in zip(items, scores, strict=True):
            tokens = score.tokens["COMPLETION"]
            yield Record(item.id, metric, score.nats["COMPLETION"] / tokens)
            if metric == METRIC:
                yield Record(item.id, "list_tokens", score.tokens["COMPLETION_MARKERS"])
                yield Record(item.id, "answer_tokens", tokens)


def answers(subject: Subject) -> Iterator[Record]:
    """Answers, by what is pinned and what the prompt says of it.

    - free: nothing is pinned.
    - pinned: the row's own markers, which a sentence of the prompt may name, too.
    - only pinned: the same, and no sentence names them.
    - best pinned: as only pinned, but of `best_of` answers the one that has most of it is kept.
    - held: as only pinned, and where a number is, the answer is held to it; only such rows.
    - hinted: as only pinned, shown after the prompt but not forced in the model's own list.
    - conflict: the prompt names another value.

    An arm without markers can't be pinned: what it answers all the same stands beside. An answer
    that shows no value did not obey; items whose reference the check gets wrong are not judged.
    """
    engine, asked = subject.engine, subject.asked
    if engine.layout.filler >= 0:
        return  # it has no list that it could write
    items = [item for item in subject.items if item.id in asked.answered]
    judged = {
        item.id: {
            category: check
            for category, check in subject.checks.items()
            if category in item.markers and judges(check, item.markers[category], item.key)
        }
        for item in items
    }
    plain = {item.id: item.prompt for item in items}
    bare = {item.id: asked.bare[item.id] for item in items if item.id in asked.bare}
    asks = [
        Ask("free", None, plain, pinned=False),
        *([Ask("pinned", None, plain)] if bare != plain else []),
        Ask("only pinned", None, bare),
        *([Ask("best pinned", None, bare, n=asked.best_of)] if asked.best_of else []),
        *([Ask("held", None, bare, hold=asked.hold)] if asked.hold else []),
        Ask("hinted", None, bare, forced=False),
        *(Ask("conflict", category, of) for category, of in asked.conflicting.items()),
    ]
    if asked.hold:
        engine.measure(asked.hold, subject.checks[asked.hold])
    for one in asks:
        rows = [
            item
            for item in items
            if item.id in one.prompts and (not one.hold or one.hold in judged[item.id])
        ]
        wanted = [
            {c: item.markers[c] for c in judged[item.id] if one.category in (None, c)}
            for item in rows
        ]
        controls = [
            dataclasses.replace(pin_levers(engine, pin if one.pinned else {}), forced=one.forced)
            for pin in wanted
        ]
        results = _results(subject, one, rows, wanted, controls)
        for item, pin, result in zip(rows, wanted, results, strict=True):
            if one.way == "free":
                right = result.text.strip() == item.key.strip()
                yield Record(item.id, "exact match", float(right))
            for category, value in pin.items():
                shown = judged[item.id][category](result.text)
                yield Record(item.id, f"{category}, {one.way}", float(obeys(value, shown)))
                if one.way == "hinted" and category in engine.layout.levers:
                    copied = result.markers.get(category) == value
                    yield Record(item.id, f"copied {category}", float(copied))


@dataclasses.dataclass(frozen=True)
class Ask:
    """A way to ask for markers.

    Attributes:
      way: its name.
      category: the one that is pinned; None for all that can be judged.
      prompts: id -> prompt.
      pinned, forced: whether anything is pinned, and in the model's own list, too.
      hold: the number that an answer is held to; only rows where it can be judged are asked.
      n: answers, of which that is kept which has most of what is wanted.
    """

    way: str
    category: str | None
    prompts: Mapping[str, str]
    pinned: bool = True
    forced: bool = True
    hold: str = ""
    n: int = 1


def _results(
    subject: Subject,
    one: Ask,
    rows: Sequence[Item],
    wanted: Sequence[Mapping[str, Any]],
    controls: Sequence[Controls],
) -> list[Result]:
    """An answer to each row. That an arm can't be pinned does not change what is kept of it."""
    prompts = [one.prompts[item.id] for item in rows for _ in range(one.n)]
    several = [control for control in controls for _ in range(one.n)]
    sampling: Sampling | list[Sampling] = subject.asked.sampling
    if one.hold:
        each = one_a_row(sampling, len(rows))
        sampling = [
            dataclasses.replace(own, length=pin[one.hold])
            for own, pin in zip(each, wanted, strict=True)
        ]
    results = subject.engine.generate(prompts, several, sampling)
    if one.n == 1:
        return results
    groups = [results[start : start + one.n] for start in range(0, len(results), one.n)]
    return [
        rank_by_pins(Pins(subject.checks), pin, group)[0].result if pin else group[0]
        for pin, group in zip(wanted, groups, strict=True)
    ]


MEASURES: tuple[Measure, ...] = (likelihood, answers)


def measure(
    workdir: epath.PathLike,
    items: Sequence[Item],
    asked: Asked,
    path: epath.PathLike,
) -> list[dict[str, Any]]:
    """All records of a run, written to `path` as JSON lines.

    An item that does not fit into the model's sequences has the one record 'skipped'.

    Args:
      workdir: of the trained run.
      items, asked: see Subject.
      path: JSONL file, whole or not there.
    """
    engine, config = load_engine(workdir)
    fitting = [item for item in items if _fits(engine, item)]
    subject = Subject(engine, config, fitting, asked, make_checks(engine.taxonomy))
    inside = {item.id for item in fitting}
    found = [Record(item.id, SKIPPED, 1.0) for item in items if item.id not in inside]
    for each in MEASURES:
        found += each(subject)
    records = [dataclasses.asdict(record) for record in found]
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_whole(epath.Path(path), "".join(lines).encode("utf-8", "backslashreplace"))
    return records


def dev_nats(workdir: epath.PathLike, items: Sequence[Item]) -> float:
    """Mean over items of the nats per answer token, as the arm is compared with others."""
    engine, config = load_engine(workdir)
    items = [item for item in items if _fits(engine, item)]
    subject = Subject(engine, config, items, Asked(frozenset(), {}, {}), {})
    values = [record.value for record in likelihood(subject) if record.metric == METRIC]
    if not values:
        raise ValueError(f"no dev item fits into the sequences of {workdir}; raise train.length.")
    return sum(values) / len(values)


def _fits(engine: Engine, item: Item) -> bool:
    """Whether a row fits with its true list on the sides of the arm, and with any of its own."""
    if engine.refusal(item.prompt, Controls()) is not None:
        return False
    *before, last = engine.prompts.turns(item.prompt, item.key)
    listed = {c: v for c, v in item.markers.items() if c in engine.layout.levers}
    spans = engine.prompts.spans(dataclasses.replace(last, markers=listed))
    true = len(assemble(engine.layout, spans, engine.layout.prompt_side)[0])
    lists = 2 * engine.grammar.room({}) + len(engine.layout.separator) + 2
    written = len(spans.prompt) + lists + max(len(spans.completion), 1)
    return len(engine.prompts.history(before)) + max(true, written) <= engine.config.max_len


def _own_length(engine: Engine):
    """(true list, own list) -> the true list with the computed categories of the own one."""
    computed = [
        c
        for c in engine.layout.completion_side
        if engine.taxonomy.categories[c].origin == "computed"
    ]

    def join(true: Mapping, own: Mapping) -> dict:
        kept = {c: v for c, v in true.items() if c not in computed}
        return kept | {c: own[c] for c in computed if c in own}

    return join


def samples(
    workdir: epath.PathLike,
    items: Sequence[Item],
    open_values: Mapping[str, Sequence[str]],
    sampling: Sampling,
    most: int,
) -> list[dict[str, Any]]:
    """Prompts with one lever moved through some of its values, for the report."""
    engine, _ = load_engine(workdir)
    checks = {
        category: lambda text, asked, check=check: check(text)
        for category, check in make_checks(engine.taxonomy).items()
        if category in open_values and category in engine.layout.levers
    }
    opened = [dataclasses.replace(i, open=open_values) for i in items if _fits(engine, i)]
    benchmark = Benchmark(opened, {}, checks)
    return lever_samples(benchmark, engine, sampling, most)
