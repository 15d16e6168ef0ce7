"""Runs arms and seeds of an experiment in turn, and writes results.json and a report.

Before the first run WORKDIR/registered.json fixes what is tail, the test rows and the comparisons;
it is never changed. Then short runs choose each arm's learning rate on dev rows, and seed by seed
all arms are trained and measured on the same test rows. Killed, the same command goes on; more
seeds, and arms that need no other packing, can be added later. {arm} in an override is the arm's
name: with --config.init_from=/models/{arm} each goes on from an earlier model of its own.

  marker-lm experiment --config=configs/experiment.py:small,/data/mix --workdir=/tmp/small
  marker-lm experiment --config=configs/experiment.py:/data/mix --workdir=/tmp/experiment \\
      --arms=baseline,markers,shuffled,completion_only --seeds=0,1,2 --dry-run
"""

import shlex
import sys

from marker_lm.cli.common import ConfigError, add_config, load_config


def add_arguments(parser) -> None:
    add_config(parser)
    parser.add_argument("--arms", default="", metavar="A,B", help="those of the config by default")
    parser.add_argument("--seeds", default="", metavar="0,1", help="those of the config by default")
    parser.add_argument(
        "--dry-run", action="store_true", help="print all runs, their hours and their commands"
    )


def run(args) -> None:
    from marker_lm.experiment.design import make_design
    from marker_lm.experiment.runner import plan_lines

    arms = [arm for arm in args.arms.split(",") if arm]
    try:
        seeds = [int(seed) for seed in args.seeds.split(",") if seed]
    except ValueError:
        raise ConfigError(f"--seeds={args.seeds} must be whole numbers, like 0,1,2.") from None
    design = make_design(load_config, args.config, args.overrides, arms, seeds, args.workdir)
    if args.dry_run:
        print("\n".join(plan_lines(design)))
        return
    run_experiment(design)


def run_experiment(design) -> None:
    """All runs of a design, then the report."""
    from rich.console import Console

    from marker_lm.evaluation.report import terminal_table, write_report
    from marker_lm.experiment.registration import choose, make_registration, register
    from marker_lm.experiment.results import collect, make_results, write_table
    from marker_lm.experiment.runner import Runner, call

    # Strata are counted in the tokens of prepared rows.
    call(design.prepare_command(design.templates[0]), "prepare")
    registration = register(make_registration(design), design.workdir)
    print(f"registered as {registration['hash']}: {design.workdir / 'registered.json'}")
    dev, test = choose(design, registration["strata"])
    runner = Runner(design, dev, test, registration)
    runner.run_all()

    records = collect(design, registration["hash"])
    results = make_results(design, registration, test, records, runner.samples())
    results["meta"]["command"] = shlex.join(["marker-lm", *sys.argv[1:]])
    report = design.workdir / "report"
    page = write_report(results, report)
    write_table(results, report / "table.md")
    Console().print(terminal_table(results))
    print(f"results: {design.workdir / 'results.json'}")
    print(f"report: {page}")
