"""Log-likelihoods of completions, and posteriors over the values of a category.

ROWS is a JSONL or Parquet file of rows {"prompt", "completion", "markers"}, or {"messages",
"completion", "markers"}. Each line of the output has nats and tokens per span kind: the completion
is scored after its own list of markers. --shown names the categories that stand on the prompt side
too; with --tokens each line has every token as well, with its text, kind and nats.

  marker-lm score --workdir=/tmp/run --rows=dev.jsonl --out=scores.jsonl --tokens

With --posterior=CATEGORY each line has the probability of every value given the prompt, or, with
--given-completion, given the prompt and its answer. --given names the categories of which the row's
own value is known; the model infers the others. --prior divides out how frequent a value is, in the
training rows, in a file, or as the model has it (the mean over the prompts):

  marker-lm score --workdir=/tmp/run --rows=dev.jsonl --posterior=lang
  marker-lm score --workdir=/tmp/run --rows=dev.jsonl --posterior=quality --given-completion \\
      --prior=training

With --calibration=CATEGORY the likeliest value is compared with that of the row: are the ones that
the model is 90 % sure of right 9 times of 10? A table says so, and --plot=FILE.html draws it.

  marker-lm score --workdir=/tmp/run --rows=dev.jsonl --calibration=task --out=task.jsonl

A row that can't be scored gets an "error", and the others are done. Killed at any time, the same
command goes on with --out where it was.
"""

import dataclasses
import shlex
import sys
import time

from marker_lm.cli.common import add_workdir, find_step


def add_arguments(parser) -> None:
    add_workdir(parser)
    parser.add_argument("--rows", required=True, metavar="FILE", help="file of rows")
    parser.add_argument(
        "--out", metavar="FILE", help="JSONL file to write; the terminal if not given"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin --out anew")
    parser.add_argument(
        "--tokens", action="store_true", help="also every token with its text, kind and nats"
    )
    parser.add_argument(
        "--shown", action="append", default=[], metavar="CATEGORY", help="stands in the prompt too"
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--posterior", metavar="CATEGORY", help="over the values of this category")
    asked.add_argument(
        "--calibration", metavar="CATEGORY", help="are its probabilities right so often?"
    )
    parser.add_argument(
        "--given", action="append", default=[], metavar="CATEGORY", help="is known of each row"
    )
    parser.add_argument(
        "--given-completion", action="store_true", help="the completion is known, too"
    )
    parser.add_argument(
        "--prior",
        metavar="FILE|training|mean",
        help="divide it out: JSON of value -> share or the strata of `marker-lm stats`, the shares "
        "in training, or the mean posterior of some hundred of the prompts",
    )
    parser.add_argument("--bins", type=int, default=15, help="of the calibration; default: 15")
    parser.add_argument(
        "--equal", choices=("mass", "width"), default="mass", help="what the bins have in common"
    )
    parser.add_argument("--plot", metavar="FILE", help="HTML page of the calibration")
    parser.add_argument("--step", type=int, help="of the checkpoint; the newest by default")
    for name in ("weights", "cache"):
        parser.add_argument(
            f"--{name}",
            choices=["int8"],
            default="",
            help=f"say what {name} in 8 bits change in the score; the lines stay as they are",
        )


def run(args) -> None:
    check_options(args)
    # JAX takes seconds to import; a slip in the arguments should not wait for it.
    from marker_lm.decoding.job import Job, hash_rows
    from marker_lm.decoding.load import load_model
    from marker_lm.decoding.rows import read_rows
    from marker_lm.decoding.score_lines import ScoreLines
    from marker_lm.decoding.scoring import Scorer
    from marker_lm.progress import Progress

    category = args.posterior or args.calibration or ""
    answered = args.given_completion or not category
    rows = list(read_rows(args.rows, ("prompt", "completion") if answered else ("prompt",)))
    step = find_step(args)
    loaded = load_model(args.workdir, step)
    engine = loaded.engine()
    for name in [*args.shown, *args.given]:
        engine.taxonomy.category(name)
    scorer = Scorer(engine)
    if category:
        scorer.check_posterior(category)
    asked = ScoreLines(
        scorer,
        category,
        given=args.given,
        answered=answered,
        compare=bool(args.calibration),
        shown=args.shown,
        tokens=args.tokens,
    )
    prior = read_prior(args, asked, rows)
    asked = dataclasses.replace(asked, prior=prior)
    options = ("posterior", "calibration", "given", "given_completion", "shown", "tokens")
    settings = {
        "workdir": args.workdir,
        "step": step,
        **{name: getattr(args, name) for name in options},
        "prior": "mean" if args.prior == "mean" else prior,
        "rows": hash_rows(row for _, row in rows),
    }
    chunk = 8 * engine.batch
    with Job(args.out, settings, len(rows), args.overwrite) as job:
        left, before, began = job.left(), job.done, time.monotonic()
        with Progress("score", len(rows), before) as progress:
            for start in range(0, len(left), chunk):
                numbers = left[start : start + chunk]
                lines = asked.lines([rows[number - 1] for number in numbers])
                for number, line in zip(numbers, lines, strict=True):
                    job.add(number, line)
                rate = (job.done - before) / max(time.monotonic() - began, 1e-9)
                progress.update(job.done, f"{rate:.1f} rows/s, {job.errors} errors")
    if args.out:
        print(f"{job.done - job.errors} rows scored, {job.errors} errors: {args.out}")
    if args.calibration:
        report_calibration(args, job)
    if args.weights or args.cache:
        report_quantization(args, loaded, scorer, [row for row in rows if isinstance(row[1], dict)])


def check_options(args) -> None:
    """Raises ValueError for options that don't go together."""
    if args.calibration and not args.out:
        raise ValueError("--calibration needs --out=FILE: its table is made of the lines there.")
    if args.prior and not args.posterior:
        raise ValueError("--prior is divided out of a posterior; add --posterior=CATEGORY.")
    if (args.given or args.given_completion) and not (args.posterior or args.calibration):
        raise ValueError("--given and --given-completion are for --posterior and --calibration.")
    if (args.tokens or args.shown) and (args.posterior or args.calibration):
        raise ValueError(
            "--tokens and --shown are for log-likelihoods; leave them out, or leave out "
            "--posterior and --calibration."
        )
    if (args.weights or args.cache) and (args.posterior or args.calibration):
        raise ValueError(
            "--weights and --cache compare the scores of completions; leave them out, or leave out "
            "--posterior and --calibration."
        )
    if args.plot and not args.calibration:
        raise ValueError("--plot draws a calibration; add --calibration=CATEGORY.")
    if args.bins < 1:
        raise ValueError(f"--bins={args.bins} must be 1 or more.")


def read_prior(args, asked, rows) -> dict[str, float] | None:
    """The prior that is divided out, value -> share; None without --prior."""
    from marker_lm.decoding import priors

    engine = asked.scorer.engine
    if args.prior is None:
        return None
    if args.prior == "mean":
        return asked.mean_prior(rows)
    if args.prior != "training":
        return priors.read_prior(args.prior, args.posterior, engine.taxonomy)
    if engine.seen is None:
        raise ValueError(
            f"{args.workdir} does not say how often training had each value; give --prior=mean, or "
            "a JSON file of value -> share."
        )
    return engine.seen.get(args.posterior, {})


def report_quantization(args, loaded, scorer, rows) -> None:
    """Prints what int8 changes in the score of lists and completions, and in memory."""
    import numpy as np

    from marker_lm.data.assembly import Kind
    from marker_lm.decoding.quantization import compare_quantized

    wanted, pairs = (Kind.COMPLETION_MARKERS, Kind.COMPLETION), []
    for _, row in rows:
        try:
            markers = loaded.taxonomy.check_all(row["markers"])
            sequence = scorer.sequence(row["prompt"], row["completion"], markers, args.shown)
            scorer.check_length(sequence[0], len(sequence[0]))
        except ValueError:
            continue  # its line has the reason
        pairs.append((sequence[0], np.isin(sequence[1], wanted)))
    model = loaded.params, loaded.model, loaded.mesh
    print(compare_quantized(*model, pairs, args.weights, args.cache))


def report_calibration(args, job) -> None:
    """Prints the table of the lines in --out, and writes the page."""
    from etils import epath
    from rich.console import Console

    from marker_lm.data.whole_files import write_whole
    from marker_lm.evaluation import calibration

    lines = [line for line in job.results() if "error" not in line]
    if not lines:
        raise ValueError(f"no row of {args.rows} could be compared; see the errors in {args.out}.")
    found = calibration.calibrate(
        [line["probability"] for line in lines],
        [line["inferred"] == line["true"] for line in lines],
        args.bins,
        args.equal,
    )
    Console().print(calibration.terminal_table(found))
    print(found.summary())
    if args.plot:
        command = shlex.join(["marker-lm", *sys.argv[1:]])
        title = f"How sure the model is of '{args.calibration}', and how right"
        write_whole(epath.Path(args.plot), calibration.page(found, title, command).encode())
        print(f"plot: {args.plot}")
