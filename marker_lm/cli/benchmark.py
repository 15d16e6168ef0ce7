"""Scores answers to a public benchmark by its official definition.

NAME is one of: answers, humanevalpack, ifeval, language_confusion, length, likelihood,
marker_inference, quality_lever, translation, win_rate; --about prints what it measures and its
settings. --data is the public data file (JSONL, a JSON list, CSV, Parquet). Answers come from
--answers, lines of {"prompt" or "id", "text", ...} as `marker-lm decode` and `score` write them; or
from a model, --workdir, that answers first; or, with neither, they stand in the data file. What has
no score is counted with its reason. With --out the table goes to DIR/result.json, each score to
DIR/rows.jsonl and the answers of a model to DIR/answers.jsonl, from which a killed command goes on.

  marker-lm benchmark --about ifeval
  marker-lm benchmark ifeval --data=ifeval.jsonl --answers=answers.jsonl
  marker-lm benchmark length --data=li.json --workdir=/data/run --set marker=length_tokens
  marker-lm benchmark language_confusion --data=outputs/command-r.csv --set words=words.txt
"""

import dataclasses
import json
import sys
import tempfile

from etils import epath

from marker_lm.cli.common import ConfigError, find_step
from marker_lm.cli.levers import add_levers, read_controls


def add_arguments(parser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the benchmark")
    parser.add_argument("--about", action="store_true", help="print its definition and settings")
    parser.add_argument(
        "--data", action="append", metavar="FILE", help="the data; several files by repeating it"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--answers", metavar="FILE", help="answers to score")
    source.add_argument("--workdir", metavar="DIR", help="run or exported model that answers")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the benchmark, such as endpoint.url=http://127.0.0.1:8000/v1",
    )
    parser.add_argument("--taxonomy", help="of the markers in --answers, to check their units")
    parser.add_argument("--out", metavar="DIR", help="folder for the result")
    parser.add_argument("--overwrite", action="store_true", help="begin the answers in --out anew")
    add_levers(parser)
    parser.add_argument("--step", type=int, help="of the checkpoint; the newest by default")
    parser.add_argument("--batch", type=int, help="rows decoded together")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=256, help="of an answer")
    parser.add_argument("--seed", type=int, default=0)


def read_settings(given: list[str]) -> dict:
    """--set as a nested mapping; values are read as YAML, dots go into sections.

    Raises ConfigError for one without '=' or that can't be read.
    """
    import yaml

    settings: dict = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise ConfigError(f"--set {one} is not KEY=VALUE, such as --set unit=characters.")
        *sections, last = key.split(".")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {one}: '{section}' is a value and a section at once.")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {one} can't be read ({type(error).__name__}).") from None
        if place[last] is None:
            place[last] = ""
    return settings


def run(args) -> None:
    from marker_lm.evaluation.benchmarks.registry import load_benchmark, settings_help

    if args.about:
        print(settings_help(args.name))
        return
    if not args.data:
        raise ConfigError("--data is missing; give the benchmark's data file.")
    controls = read_controls(args)
    if not args.workdir and (controls.pinned or args.ban or args.ask):
        raise ConfigError("--pin, --ban and --ask are for a model that answers; add --workdir.")
    benchmark = load_benchmark(args.name, read_settings(args.set))
    from rich.console import Console

    from marker_lm.evaluation.benchmarks.run import read_items, rows_jsonl, score_answers
    from marker_lm.evaluation.benchmarks.show import count_lines, terminal_table

    items, bad = read_items(benchmark, args.data)
    pairs, notes = (
        _decoded(args, benchmark, items, controls)
        if args.workdir
        else _given(args, benchmark, items)
    )
    result = score_answers(benchmark, pairs, bad, notes)
    width = None if sys.stdout.isatty() else 400  # a file has room for the whole table
    Console(width=width).print(terminal_table(benchmark, result))
    print("\n".join([*count_lines(result), *result.notes]))
    if args.out:
        _write(args.out, "result.json", [json.dumps(result.to_dict(), indent=1)])
        _write(args.out, "rows.jsonl", rows_jsonl(result))


def _given(args, benchmark, items):
    """Items with answers of a file, or of the data itself, and notes."""
    from marker_lm.evaluation.benchmarks.run import read_answers
    from marker_lm.markers.taxonomy import load_taxonomy

    pairs, notes = [(item, item.answer) for item in items], []
    if args.answers:
        pairs, notes = read_answers(items, args.answers)
    taxonomy = load_taxonomy(args.taxonomy) if args.taxonomy else None
    given = [answer for _, answer in pairs if answer]
    pinned = {c: a["markers"].get(c) for a in given for c in a.get("pinned") or ()}
    return pairs, [*_warnings(benchmark, taxonomy, pinned), *notes]


def _decoded(args, benchmark, items, controls):
    """Items with a model's answers, and notes."""
    from marker_lm.decoding.job import Job, hash_rows
    from marker_lm.decoding.load import load_engine
    from marker_lm.decoding.sampling import Sampling
    from marker_lm.evaluation.benchmarks.run import decode

    step = find_step(args)
    engine, _ = load_engine(args.workdir, step, batch=args.batch)
    engine.check(controls)
    pinned = controls.pinned | {c: v for item in items for c, v in item.pins.items()}
    notes = _warnings(benchmark, engine.taxonomy, pinned)
    options = ("temperature", "top_p", "max_tokens", "seed")
    sampling = Sampling(**{name: getattr(args, name) for name in options})
    about = ("workdir", *options, "pin", "ban", "ask", "allow_unseen")
    settings = {name: getattr(args, name) for name in about} | {
        "step": step,
        "benchmark": [benchmark.name, dataclasses.asdict(benchmark)],
        "rows": hash_rows([item.prompt, item.facts, item.pins] for item in items),
    }
    with tempfile.TemporaryDirectory() as nowhere:
        out = epath.Path(args.out or nowhere) / "answers.jsonl"
        with Job(out, settings, len(items), args.overwrite) as job:
            decode(benchmark, engine, items, controls, sampling, job)
        answers = list(job.results())
    if args.out:
        print(out)
    return list(zip(items, answers, strict=True)), notes


def _warnings(benchmark, taxonomy, pinned) -> list[str]:
    """Printed at once, on stderr, and kept in the result."""
    found = [f"Warning: {warning}." for warning in benchmark.warnings(taxonomy, pinned)]
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return found


def _write(folder: str, name: str, lines) -> None:
    from marker_lm.data.whole_files import write_whole

    path = epath.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())
    print(path)
