"""Measures trained arms on held-out rows and writes report.html and report.json to OUT.

Every --arm=NAME=WORKDIR names a finished run; 'markers' must be among them. With --atlas=FOLDER the
benchmark is the Atlas that `marker-lm demo` wrote there, else the held-out rows of the config.
Answers are kept under OUT/answers, so an evaluation that was stopped goes on where it was.

  marker-lm evaluate --config=configs/mix.py --arm=markers=/tmp/mix/markers \\
      --arm=baseline=/tmp/mix/baseline --out=/tmp/mix/report
"""

import shlex
import sys

from marker_lm.cli.common import ConfigError, add_config, load_config


def add_arguments(parser) -> None:
    add_config(parser, workdir=False)
    parser.add_argument(
        "--arm", action="append", required=True, metavar="NAME=WORKDIR", help="a finished run"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--atlas", metavar="DIR", help="folder with the rows of the Atlas")


def run(args) -> None:
    config = load_config(args.config, args.overrides)
    for arm in args.arm:
        if "=" not in arm:
            raise ConfigError(f"--arm={arm} is not NAME=WORKDIR, such as markers=/tmp/run.")
    arms = dict(arm.split("=", 1) for arm in args.arm)
    if "markers" not in arms:
        raise ConfigError("--arm=markers=WORKDIR is missing; the other arms are compared with it.")
    evaluate_and_report(config, arms, args.out, args.atlas)


def evaluate_and_report(config, arms, out, atlas=None, seconds=None, rows=None) -> None:
    """Runs the evaluation, writes the report to `out` and prints the short table."""
    from rich.console import Console

    from marker_lm.evaluation.atlas import atlas_benchmark
    from marker_lm.evaluation.report import terminal_table, write_report
    from marker_lm.evaluation.rows import rows_benchmark
    from marker_lm.evaluation.run import evaluate

    benchmark = atlas_benchmark(atlas, config.eval.rows) if atlas else rows_benchmark(config)
    # Of other rows than the Atlas there is no split that settings may be chosen on.
    dev = atlas_benchmark(atlas, config.eval.rows, ("dev",)) if atlas else None
    results = evaluate(benchmark, arms, config, f"{out}/answers", dev=dev)
    meta = results["meta"]
    meta["command"] = shlex.join(["marker-lm", *sys.argv[1:]])
    meta["rows"] |= rows or {}
    meta["seconds"] = {**(seconds or {}), "evaluate": results.pop("seconds")}
    page = write_report(results, out)
    Console().print(terminal_table(results))
    print(f"report: {page}")
