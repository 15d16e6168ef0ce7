"""Evaluates trained arms on one benchmark and gathers the results of the report."""

import dataclasses
import datetime
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.arms import ARMS
from marker_lm.data.setup import SetupError, find_arm
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.load import load_engine
from marker_lm.decoding.sampling import Sampling
from marker_lm.decoding.scoring import Scorer
from marker_lm.evaluation import tables
from marker_lm.evaluation.benchmark import Benchmark, Item, moved
from marker_lm.evaluation.findings import guidance_sentence
from marker_lm.evaluation.guidance import DEV_ROWS, TEST_ROWS, guidance_curves
from marker_lm.evaluation.predict import pin_levers, predict
from marker_lm.evaluation.samples import lever_samples
from marker_lm.model.params import parameter_count
from marker_lm.training.checkpoints import load_about
from marker_lm.training.metrics import read_metrics

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "seqio", "numpy")


def evaluate(
    benchmark: Benchmark,
    arms: Mapping[str, epath.PathLike],
    config: ConfigDict,
    folder: epath.PathLike,
    log: Callable[[str], None] = print,
    dev: Benchmark | None = None,
) -> dict[str, Any]:
    """Decodes, checks and scores; returns the results that evaluation/report.py documents.

    Each arm answers every item as it is (a marked arm infers its markers), with the row's own
    markers pinned, and with every open lever moved to another value. An arm that never saw a marker
    can't be pinned: its plain answers stand beside.

    Args:
      benchmark: items, strata and checks.
      arms: name -> workdir of the trained run; 'markers' first.
      config: its `eval` and `decode` sections and seed.
      folder: where answers are kept, so that an evaluation goes on where it was stopped.
      log: takes lines for people.
      dev: rows that settings may be chosen on; with them the weakest lever is tried under guidance.
    """
    folder, began = epath.Path(folder), time.monotonic()
    engines = {arm: _load(arm, workdir, config.decode.batch) for arm, workdir in arms.items()}
    benchmark = _fitting(benchmark, engines.values(), config.seed, log)
    items = benchmark.items
    sampling = Sampling.from_config(config.decode)
    own = [own_levers(benchmark, item) for item in items]
    asked = [moved_levers(benchmark, item, config.seed) for item in items]
    settings = {"inferred": [{}] * len(items), "pinned": own, "moved": asked}
    answers: dict[str, dict[str, list]] = {}
    versions = {arm: _version(arm, workdir) for arm, workdir in arms.items()}
    for arm, engine in engines.items():
        marked = ARMS[arm].completion_side
        answers[arm] = {
            setting: _answers(
                benchmark,
                engine,
                pins,
                # Combinations that training never had are asked for by pinning them only.
                [i.split == "heldout" or setting in ("pinned", "plain") for i in items],
                sampling,
                path=folder / f"{arm}.{setting}.jsonl",
                title=f"decode {arm} {setting}",
                version=versions[arm],
            )
            for setting, pins in (settings if marked else {"plain": settings["inferred"]}).items()
        }
    main = engines["markers"]
    guided = dev and _guidance(main, dev, benchmark, config, folder, versions["markers"])
    if guided:
        log(guidance_sentence(guided))
    log("posteriors ...")
    return {
        "meta": {
            "title": "Training-time markers: does one model infer them and obey them?",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "config": config.to_dict(),
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "taxonomy_hash": main.taxonomy.hash,
            "parameters": parameter_count(main.config),
            "rows": {"evaluated": len(items)},
            "notes": list(benchmark.notes),
        },
        "arms": [arm_curves(name, workdir) for name, workdir in arms.items()],
        "quality": tables.quality(benchmark, answers, asked),
        "differences": tables.differences(benchmark, answers),
        "control": tables.control(benchmark, answers, own, asked),
        "inference": tables.inference(benchmark, answers),
        "asked_got": tables.asked_got(benchmark, answers["markers"]["moved"], own, asked),
        "inferred_confusion": tables.inferred_confusion(benchmark, answers["markers"]["inferred"]),
        "guidance": guided,
        "posterior": posterior_check(benchmark, main),
        "strata": dict(benchmark.strata),
        "samples": lever_samples(benchmark, main, sampling, config.eval.samples),
        "caveats": list(caveats(arms)),
        "seconds": time.monotonic() - began,
    }


def _version(arm: str, workdir: epath.PathLike) -> str:
    """Names the parameters of an arm."""
    return json.dumps([arm, load_about(epath.Path(workdir) / "checkpoints")], sort_keys=True)


def _guidance(engine: Engine, dev: Benchmark, test: Benchmark, config, folder, version):
    """The curves of the weakest lever over the guidance weight, on kept answers."""

    def decode(items, pins, guidance, split):
        [lever] = pins[0]
        weight = guidance.weight if guidance else 1
        name = f"guidance.{lever}.{split}.{weight:g}"
        sizes = [len(item.key) for item in items]
        where = {"path": folder / f"markers.{name}.jsonl", "title": f"decode {name}"}
        return predict(
            engine, items, pins, sizes, sampling, version=version, guidance=guidance, **where
        )

    sampling = Sampling.from_config(config.decode)
    rows = (min(DEV_ROWS, config.eval.rows), min(TEST_ROWS, config.eval.rows))
    return guidance_curves(engine, dev, test, decode, config.seed, rows=rows)


def _answers(benchmark: Benchmark, engine: Engine, pins, wanted, sampling, **where) -> list:
    """An Answer for each item that is wanted, None for the others."""
    items = benchmark.items
    at = [n for n in range(len(items)) if wanted[n]]
    sizes = [
        len(benchmark.key(items[n], pins[n]) if benchmark.key and pins[n] else items[n].key)
        for n in at
    ]
    found = predict(engine, [items[n] for n in at], [pins[n] for n in at], sizes, sampling, **where)
    answers = dict(zip(at, found, strict=True))
    return [answers.get(n) for n in range(len(items))]


def own_levers(benchmark: Benchmark, item: Item) -> dict[str, Any]:
    """The row's own values of the levers that are checked."""
    return {c: item.markers[c] for c in benchmark.checks if c in item.markers}


def moved_levers(benchmark: Benchmark, item: Item, seed: int) -> dict[str, Any]:
    """The same with every lever moved that the prompt leaves open."""
    return own_levers(benchmark, item) | moved(item, seed, benchmark.avoid)


def _load(arm: str, workdir: epath.PathLike, batch: int) -> Engine:
    """The engine of an arm. Raises SetupError for a run of another arm."""
    find_arm(arm)
    engine, config = load_engine(workdir, batch=batch)
    if config.arm != arm:
        raise SetupError(
            f"--arm={arm}={workdir} is a run of arm '{config.arm}'; write --arm={config.arm}=..."
        )
    return engine


def _fitting(
    benchmark: Benchmark, engines: Iterable[Engine], seed: int, log: Callable[[str], None]
) -> Benchmark:
    """The benchmark without the items that some arm can't take, such as too long ones."""

    def refusal(item: Item) -> str | None:
        pins = (own_levers(benchmark, item), moved_levers(benchmark, item, seed))
        reasons = (
            engine.refusal(item.prompt, pin_levers(engine, pin))
            for engine in engines
            for pin in pins
        )
        return next(filter(None, reasons), None)

    engines = list(engines)
    refusals = [refusal(item) for item in benchmark.items]
    items = [i for i, reason in zip(benchmark.items, refusals, strict=True) if reason is None]
    reasons = [reason for reason in refusals if reason is not None]
    if not reasons:
        return benchmark
    note = (
        f"{len(reasons)} of {len(refusals)} held-out prompts are left out, since a model cannot be "
        f"asked them; the first: {reasons[0]}"
    )
    log(note)
    return dataclasses.replace(benchmark, items=items, notes=(*benchmark.notes, note))


def arm_curves(name: str, workdir: epath.PathLike, label: str = "") -> dict[str, Any]:
    """The learning curves of one arm, from its metrics file; the label is by its name if none."""
    records = read_metrics(workdir)
    train = [r for r in records if "loss" in r]
    held = [r for r in records if "eval_answer_nats" in r]
    return {
        "name": name,
        "label": label or ARMS[name].label,
        "curve": {
            "step": [r["step"] for r in train],
            "loss": [r["loss"] for r in train],
            "answer_loss": [r["answer_nats"] for r in train],
        },
        "eval_curve": {
            "step": [r["step"] for r in held],
            "answer_nats": [r["eval_answer_nats"] for r in held],
        },
    }


def posterior_check(benchmark: Benchmark, engine: Engine, most: int = 32) -> dict[str, Any]:
    """Posteriors of the categories that the prompt fixes: do they sum to 1, are they right?"""
    scorer, errors, right, n = Scorer(engine), [0.0], {}, 0
    for category in (c for c in engine.grammar.values if c not in engine.grammar.several):
        chosen = [i for i in benchmark.items if i.determined and category in i.determined][:most]
        if not chosen:
            continue
        posteriors = scorer.posterior([i.prompt for i in chosen], category)
        errors += [abs(sum(p.values()) - 1) for p in posteriors]
        p_true = [p[i.markers[category]] for p, i in zip(posteriors, chosen, strict=True)]
        right[category] = float(np.mean(p_true))
        n += len(chosen)
    return {"n": n, "max_error_of_sum": max(errors), "mean_true_probability": right}


def caveats(arms: Mapping[str, Any]):
    """What figures of such a run don't show."""
    yield "One seed an arm: the intervals are over items, not over training runs."
    yield (
        "The same learning rate for all arms; where it is not each arm's best, differences between "
        "arms shift."
    )
    yield (
        "All arms train on the same rows in the same order and steps; a marked arm also trains on "
        "the tokens of its lists, and writes its list before it answers."
    )
    if "shuffled" not in arms:
        yield (
            "Without an arm of shuffled markers, a gain over the plain arm may be that of any "
            "auxiliary loss and not of what the markers say; run with --shuffled to tell."
        )
