"""What is fixed before the first run, and never changed: strata, test items, comparisons."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from marker_lm.annotate.checks import LEAST
from marker_lm.annotate.stats import make_statistics
from marker_lm.annotate.strata import make_strata
from marker_lm.data.cache import read_manifest
from marker_lm.data.whole_files import write_whole
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmark import Item, by_hash, choose_items
from marker_lm.evaluation.rows import heldout_items
from marker_lm.experiment.design import Design, ExperimentError
from marker_lm.markers.dropout import hash_ids
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy

FILE, STRATA = "registered.json", "strata.json"
METRIC = "answer_nats"  # that arms are compared in first: nats of a row's answer tokens, their mean


def make_registration(design: Design, log=print) -> dict[str, Any]:
    """All that is fixed, with its hash.

    Seeds and arms are not part of it, as far as these need no other packing: more may follow.
    """
    config = design.reference
    key = read_manifest(design.data(config.template) / "train")["key"]
    counted = {"data_key": key, "tail_share": config.eval.tail_share}
    old = read_registration(design.workdir) if (design.workdir / FILE).exists() else {}
    if counted.items() <= old.items() and old["strata"]["category"] == config.eval.tail_category:
        strata, date = old["strata"], old["date"]  # from the same rows: they are not read again
    else:
        strata = count_strata(design, log)
        date = strata.pop("date")
    dev, test = choose(design, strata)
    about = config.experiment
    fixed = {
        **counted,
        "question": about.question,
        "metric": METRIC,
        "reference": about.reference,
        "steps": config.train.steps,
        "batch": config.train.batch,
        "length": config.train.length,
        "learning_rates": list(about.learning_rates),
        "sweep_steps": about.sweep_steps,
        "plan": design.plan(),
        "dev_items": items_facts(dev),
        "test_items": items_facts(test),
        "tested_one_by_one": list(about.strata),
        "least_items": about.least_items,
        "correction": "Holm",
        "strata": strata,
    }
    fixed = json.loads(json.dumps(fixed))
    return {"hash": _hash(fixed), "date": date, **fixed}


def count_strata(design: Design, log=print) -> dict[str, Any]:
    """Which values of the tail's category are tail: counted over all training rows."""
    config = design.reference
    taxonomy = load_taxonomy(config.taxonomy)
    category, threshold = config.eval.tail_category, config.eval.tail_share
    stats = make_statistics(
        config,
        design.data(config.template),
        threshold=threshold,
        workers=max(1, (os.cpu_count() or 2) - 1),
        search=False,
        log=log,
    )
    values = {name: c["values"] for name, c in stats["categories"].items() if "values" in c}
    train = stats["splits"]["train"]
    rows = {"count": train["rows"], "hash": train["hash"]}
    heldout = stats["categories"][category].get("heldout", {})
    return make_strata(category, values, heldout, threshold, taxonomy, rows)


def register(registration: Mapping[str, Any], folder: epath.PathLike) -> dict[str, Any]:
    """Writes registered.json and strata.json, or finds them there as they should be.

    Raises ExperimentError where something else is registered there, or the file was changed.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        strata = registration["strata"] | {"date": registration["date"]}
        write_whole(path.parent / STRATA, (json.dumps(strata, ensure_ascii=False) + "\n").encode())
        text = json.dumps(registration, indent=1, ensure_ascii=False) + "\n"
        write_whole(path, text.encode())
        return dict(registration)
    old = read_registration(folder)
    changed = [
        key
        for key, value in registration.items()
        if key not in ("hash", "date") and old.get(key) != value
    ]
    if changed:
        raise ExperimentError(
            f"{path} was registered on {old['date']} with another {', '.join(changed)}; what is "
            "registered before training is not changed after: use a new workdir."
        )
    return old


def read_registration(folder: epath.PathLike) -> dict[str, Any]:
    """What is registered in a folder. Raises ExperimentError where it was changed since."""
    path = epath.Path(folder) / FILE
    try:
        found = json.loads(path.read_text())
        same = _hash({k: v for k, v in found.items() if k not in ("hash", "date")})
        intact = found["hash"] == same
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ExperimentError(f"{path} can't be read ({error}); use a new workdir.") from None
    if not intact:
        raise ExperimentError(
            f"{path} was changed after it was written (its hash is {same}, not {found['hash']}); "
            "put the old one back or use a new workdir."
        )
    return found


def choose(design: Design, strata: Mapping[str, Any]) -> tuple[list[Item], list[Item]]:
    """Held-out items for the choice of learning rates, and those of the results: none in both."""
    config = design.reference
    about, tail = config.experiment, frozenset(strata["tail"])
    items = heldout_items(config, load_taxonomy(config.taxonomy))
    part_N = hash_ids([f"dev {item.id}" for item in items]) / 2**64
    dev = [i for i, part in zip(items, part_N, strict=True) if part < about.dev_share]
    test = [i for i, part in zip(items, part_N, strict=True) if part >= about.dev_share]
    if not dev and about.sweep_steps:
        raise ExperimentError(
            f"none of {len(items)} held-out rows is for the choice of rates; raise dev_share."
        )
    shares = strata["train_shares"][strata["category"]]
    chosen = choose_items(
        test,
        lambda i: "tail" if i.markers.get(strata["category"]) in tail else "head",
        config.eval.rows,
        tail_share=sum(shares.get(value, 0.0) for value in tail),
    )
    return by_hash(dev)[: about.dev_rows], chosen


@dataclasses.dataclass(frozen=True)
class Asked:
    """How items are asked, beyond being scored.

    Attributes:
      answered: ids of those that are answered, too.
      bare: id -> the prompt without the sentences of `data.rows.named`, where it has some; every
        prompt where the config has none.
      conflicting: category -> id -> the prompt with a sentence that names another value.
      sampling: of the answers.
      best_of: answers of which the one is kept that has most of what is pinned; 0: not asked so.
      hold: the number that answers are held to where it is pinned; '': not asked so.
    """

    answered: frozenset[str]
    bare: Mapping[str, str]
    conflicting: Mapping[str, Mapping[str, str]]
    sampling: Sampling = Sampling()
    best_of: int = 0
    hold: str = ""


def ask(design: Design, items: Sequence[Item], strata: Mapping[str, Any]) -> Asked:
    """What is answered: so many items of the head, of the tail, of those whose prompt would not
    name what the marker says, and of those with a number that is large enough to be judged."""
    config = design.reference
    taxonomy = load_taxonomy(config.taxonomy)
    tail, most = frozenset(strata["tail"]), config.experiment.decoded
    bare = _bare_prompts(config, taxonomy, items)
    items = by_hash(items)
    kinds = (
        lambda item: item.markers.get(strata["category"]) in tail,
        lambda item: item.markers.get(strata["category"]) not in tail,
        lambda item: item.id in bare,
        lambda item: any(isinstance(v, int) and v > LEAST for v in item.markers.values()),
    )
    groups = ([item.id for item in items if kind(item)][:most] for kind in kinds)
    answered = frozenset(id for group in groups for id in group)
    conflicting = _conflicting_prompts(config, taxonomy, items, strata)
    sampling = Sampling.from_config(config.decode)
    about = config.experiment
    return Asked(answered, bare, conflicting, sampling, about.best_of, about.hold)


def _bare_prompts(config: ConfigDict, taxonomy: Taxonomy, items: Sequence[Item]) -> dict[str, str]:
    if not config.data.rows.named:
        return {item.id: item.prompt for item in items}
    config = ConfigDict(config.to_dict())
    config.data.rows.named = {}
    plain = {i.id: i.prompt for i in heldout_items(config, taxonomy)}
    return {item.id: plain[item.id] for item in items if plain[item.id] != item.prompt}


def _conflicting_prompts(
    config: ConfigDict, taxonomy: Taxonomy, items: Sequence[Item], strata: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    """Another value of a named category is one of those that training rows had; by the item's id,
    always the same."""
    found: dict[str, dict[str, str]] = {}
    for category, sentence in config.data.rows.named.items():
        names = taxonomy.categories[category].values
        known = sorted(strata["train_shares"].get(category, ()))
        for item, number in zip(items, hash_ids([f"other {i.id}" for i in items]), strict=True):
            own = item.markers.get(category)
            named = sentence.format(names[own]) if own in names else ""
            others = [value for value in known if value != own]
            if named and named in item.prompt and others:
                other = names[others[int(number) % len(others)]]
                prompt = item.prompt.replace(named, sentence.format(other))
                found.setdefault(category, {})[item.id] = prompt
    return found


def items_facts(items: list[Item]) -> dict[str, Any]:
    """How many items, and a hash of all that is asked and expected."""
    text = json.dumps([[i.id, i.prompt, i.key, i.markers, i.natural] for i in items])
    return {"count": len(items), "hash": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _hash(fixed: Mapping[str, Any]) -> str:
    text = json.dumps(fixed, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
