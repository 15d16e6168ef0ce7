"""Statistics of a config's rows before training: one pass, blocks counted side by side."""

import datetime
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from marker_lm.annotate import duplicates, long_tail, strata, tally
from marker_lm.annotate.sketches import sketch
from marker_lm.annotate.token_costs import token_costs
from marker_lm.data.inputs import SPLITS, examples
from marker_lm.data.processes import map_in_processes
from marker_lm.data.rejects import Rejects
from marker_lm.data.setup import SetupError, find_arm, make_dropout, make_layout
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import TRAINERS
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from marker_lm.markers.template import TEMPLATES

BLOCK = 512  # rows that travel to a process together
GROUPS = 12  # largest groups of near duplicates that are listed
PAIRS = 12  # surprising pairs of either sign for two categories
_SECONDS = 10.0  # between two lines about the progress


def make_statistics(
    config: ConfigDict,
    data: epath.PathLike,
    *,
    threshold: float,
    workers: int = 1,
    search: bool = True,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Everything that stats.json holds; the sections are described at `summarize`.

    Args:
      config: its `taxonomy`, `data`, `markers` and `eval` sections.
      data: folder where `marker-lm prepare` may have put the run's tokenizer.
      threshold: a value with a smaller share of the training rows is tail.
      workers: processes that count beside this one, which reads; 0 counts here. The result is the
        same for any number.
      search: whether to look for near duplicates.
      log: takes lines for people.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    tokenizer, unit = find_tokenizer(config, data)
    log(f"tokens are counted in {unit}")
    codecs, failures = _codecs(taxonomy, tokenizer)
    ruler = tally.Ruler(taxonomy, tokenizer, codecs)
    began = time.monotonic()
    # Held-out rows come first, so that in a group of duplicates they are compared with all others.
    splits = [s for s in reversed(SPLITS) if any(task[s] for task in config.data.tasks.values())]
    if "train" not in splits:
        raise SetupError("no task names training files; set data.tasks.<name>.train.")
    tallies = {split: tally.Tally() for split in splits}
    read: dict[str, dict[str, Any]] = {split: {"tasks": {}} for split in splits}
    with duplicates.DuplicateSearch() as found:
        blocks = _blocks(config, taxonomy, splits, read)
        for split, (part, sketches) in _count_all(blocks, ruler, search, workers, log):
            tallies[split].merge(part)
            if search:
                found.add(sketches)
        log(f"counted {sum(t.rows for t in tallies.values())} rows")
        groups = _duplicates(found, tallies, log) if search else None
    seconds = time.monotonic() - began
    rows = sum(one["rejects"]["rows"] for one in read.values())
    about = {
        "date": datetime.date.today().isoformat(),
        "taxonomy": taxonomy.name,
        "taxonomy_hash": taxonomy.hash,
        "threshold": threshold,
        "token_unit": unit,
        "seconds": round(seconds, 2),
        "rows_a_second": round(rows / seconds, 1),
    }
    costs = _costs(config, taxonomy, tokenizer, codecs, tallies["train"]) | {"failures": failures}
    return summarize(about, taxonomy, tallies, read, threshold, costs, groups)


def find_tokenizer(config: ConfigDict, data: epath.PathLike) -> tuple[Tokenizer, str]:
    """The tokenizer of a run, and in which unit it counts, in words.

    One that the config names by its path comes first, then the one that `prepare` trained or took
    from the pretrained model; bytes stand in before that.
    """
    if config.data.tokenizer == "bytes":
        return ByteTokenizer(), "tokens of the byte tokenizer"
    if config.data.tokenizer not in (*TRAINERS, "pretrained"):
        return load_tokenizer(config.data.tokenizer), f"tokens of {config.data.tokenizer}"
    folder = epath.Path(data) / "tokenizer"
    if folder.exists():
        return load_tokenizer(folder), f"tokens of {folder}"
    return (
        ByteTokenizer(),
        "bytes: the tokenizer is not there yet; `marker-lm prepare` first counts real tokens",
    )


def _codecs(taxonomy: Taxonomy, tokenizer: Tokenizer):
    """template -> codec, and template -> why the tokenizer can't write it."""
    codecs, failures = {}, {}
    for template in TEMPLATES:
        try:
            codecs[template] = MarkerCodec(taxonomy, template, tokenizer)
        except MarkerError as error:
            failures[template] = str(error)
    return codecs, failures


def _blocks(config, taxonomy, splits, read) -> Iterator[tuple[str, list[tally.Row]]]:
    """Blocks of rows in order; fills in `read` with rows by task and what was rejected."""
    for split in splits:
        # Rejected rows are counted and not a reason to stop: to see them is what this is for.
        with Rejects(None, max_share=1.0) as rejects:
            for task in (name for name, files in config.data.tasks.items() if files[split]):
                rows = map(tally.Row.of, examples(config, task, split, taxonomy, rejects))
                read[split]["tasks"][task] = 0
                while block := list(itertools.islice(rows, BLOCK)):
                    read[split]["tasks"][task] += len(block)
                    yield split, block
        read[split]["rejects"] = rejects.summary()


def _counter(ruler: tally.Ruler, sketching: bool) -> Callable[..., Any]:
    def count(split: str, block: list[tally.Row]):
        return tally.count(block, ruler), sketch(block) if sketching else None

    return count


def _count_all(blocks: Iterable, ruler, search: bool, workers: int, log) -> Iterator:
    """(split, (Tally, Sketches or None)) of each block, in the order of the blocks."""
    began = shown = time.monotonic()
    rows = 0
    make = functools.partial(_counter, ruler, search)
    if workers:
        lost = ValueError(
            "a process that counted has ended (killed, or out of memory?); run the same command "
            "again, with fewer --workers if memory is short"
        )
        results = map_in_processes(make, blocks, workers, ahead=4, lost=lost)
    else:
        count = make()
        results = ((call, count(*call)) for call in blocks)
    for (split, _), result in results:
        yield split, result
        rows += result[0].rows
        if time.monotonic() - shown > _SECONDS:
            shown = time.monotonic()
            log(f"{rows} rows, {rows / (shown - began):,.0f} a second")


def _costs(config, taxonomy, tokenizer, codecs, train: tally.Tally) -> dict[str, Any]:
    if not codecs:
        return {"templates": {}}
    # Order and borders of the lists depend on the codec, the sides do not.
    layout = make_layout(
        config, taxonomy, tokenizer, next(iter(codecs.values())), find_arm("markers")
    )
    costs = token_costs(train, codecs, layout, make_dropout(config))
    sides = {"prompt_side": layout.prompt_side, "completion_side": layout.completion_side}
    return costs | {name: list(side) for name, side in sides.items()}


def _duplicates(found: duplicates.DuplicateSearch, tallies, log) -> dict[str, Any]:
    log("looking for near duplicates ...")
    return duplicates.report(
        found, heldout=tallies["heldout"].rows if "heldout" in tallies else 0, most=GROUPS
    )


def summarize(
    about: dict[str, Any],
    taxonomy: Taxonomy,
    tallies: dict[str, tally.Tally],
    read: dict[str, dict[str, Any]],
    threshold: float,
    costs: dict[str, Any],
    groups: dict[str, Any] | None,
) -> dict[str, Any]:
    """Plain JSON values.

    Returns:
      about: date, taxonomy, threshold, token_unit, seconds, rows_a_second;
      splits: split -> rows, hash, tasks {task: rows}, rejects (see `Rejects.summary`), wordless;
      categories: name -> type, origin, rows, coverage, origins, confidences (ten counts), and for
        closed ones values {value: rows}, heldout {value: rows}, head, tail, tail_share, entropy
        (bits), effective_values, unseen (values of the taxonomy without a row); for numbers
        histogram [[least, rows]];
      association: pairs of categories -> nmi, rows, surprising (see `long_tail.surprising`);
      lengths: 'prompt' and 'completion' -> [[least tokens, rows]];
      token_costs: see `token_costs`; duplicates: see `duplicates.report`, None if not looked for;
      strata: closed category -> see `strata.propose`.
    """
    train, heldout = tallies["train"], tallies.get("heldout", tally.Tally())
    closed = [c for c in taxonomy.categories if train.values.get(c)]
    return {
        "about": about,
        "splits": {
            split: {
                "rows": one.rows,
                "hash": f"{one.fingerprint:016x}",
                "tasks": read[split]["tasks"],
                "wordless": one.wordless,
                "rejects": read[split]["rejects"],
            }
            for split, one in reversed(tallies.items())
        },
        "categories": {
            name: _category(category, train, heldout, threshold)
            for name, category in taxonomy.categories.items()
        },
        "association": [
            {
                "categories": list(pair),
                "rows": sum(train.joint[pair].values()),
                "nmi": long_tail.mutual_information(train.joint[pair]),
                "surprising": long_tail.surprising(train.joint[pair], PAIRS),
            }
            for pair in itertools.combinations(closed, 2)
            if train.joint.get(pair)
        ],
        "lengths": {side: _histogram(counts) for side, counts in train.lengths.items()},
        "token_costs": costs,
        "duplicates": groups,
        "strata": {
            c: strata.propose(train.values[c], heldout.values.get(c, {}), threshold) for c in closed
        },
    }


def _category(category, train: tally.Tally, heldout: tally.Tally, threshold: float) -> dict:
    name, values = category.name, train.values.get(category.name, {})
    tenths = train.confidences.get(name, {})
    result = {
        "type": category.type,
        "origin": category.origin,
        "rows": train.marked[name],
        "coverage": train.marked[name] / max(train.rows, 1),
        "origins": dict(train.origins.get(name, tally.Counter()).most_common()),
        "confidences": [tenths.get(i, 0) for i in range(tally.CONFIDENCE_BINS)],
    }
    if not category.is_closed:
        return result | {"histogram": _histogram(train.numbers.get(name, {}))}
    head, tail = long_tail.head_and_tail(values, threshold)
    share = long_tail.shares(values)
    held = heldout.values.get(name, {})
    return result | {
        "values": {value: values[value] for value in share},
        "heldout": {value: held.get(value, 0) for value in share},
        "head": head,
        "tail": tail,
        "tail_share": sum(share[value] for value in tail),
        "entropy": long_tail.entropy(values) if values else 0.0,
        "effective_values": long_tail.effective_values(values),
        "unseen": [value for value in category.values if value not in values],
    }


def _histogram(counts) -> list[list[int]]:
    """[[least length of the bin, rows]] from the first bin that has rows to the last."""
    if not counts:
        return []
    bins = range(min(counts), max(counts) + 1)
    starts = [(i, tally.bin_start(i)) for i in bins if tally.bin_start(i) < tally.bin_start(i + 1)]
    return [[start, counts.get(i, 0)] for i, start in starts]
