"""Answers prompts with a trained model; markers are levers.

PROMPTS is a JSONL file of rows {"prompt": ...}, or {"messages": [{"role", "content"}, ...]} for a
model that was trained with a chat template. A row may have "markers" {category: value} to pin,
"ban" and "ask" [category], "sampling" {"temperature", "seed", "stop", ...} and "guidance" (a
weight); what it says goes before the options. All other categories are the model's to infer, or
those of an annotator with --annotate. Each line of the output has the prompt, the text, the
markers, which were pinned, and the probability of the inferred ones. A row that can't be answered
gets an "error" instead of a text, and the others are done. Killed at any time, the same command
goes on.

  marker-lm decode --workdir=/tmp/run --prompts=prompts.jsonl --out=answers.jsonl --pin=lang=German
  marker-lm decode --workdir=/tmp/run --prompts=prompts.jsonl --dry-run
  marker-lm decode --workdir=/tmp/run --prompt='Tell me about Japan.' --sweep=length_bucket
  marker-lm decode --workdir=/tmp/run --prompts=prompts.jsonl --out=answers.jsonl --annotate=lang
  marker-lm decode --workdir=/tmp/run --prompts=prompts.jsonl --out=answers.jsonl --best-of=8 \\
      --temperature=1 --by=quality_bucket=high
  marker-lm decode --workdir=/tmp/run --prompt='Tell me about Japan.' --pin=length_tokens=80 \\
      --hold=length_tokens
"""

from marker_lm.cli.levers import (
    add_engine,
    add_guidance,
    add_levers,
    add_sampling,
    load,
    read_controls,
    read_guidance,
    read_sampling,
)


def add_arguments(parser) -> None:
    add_engine(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", metavar="FILE", help="JSONL file of rows with a prompt")
    source.add_argument("--prompt", metavar="TEXT", help="a single prompt")
    parser.add_argument(
        "--out", metavar="FILE", help="JSONL file to write; the terminal if not given"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin --out anew")
    parser.add_argument(
        "--dry-run", action="store_true", help="say which rows are refused, and the memory needed"
    )
    add_levers(parser)
    add_guidance(parser)
    add_sampling(parser)
    parser.add_argument(
        "--sweep", metavar="CATEGORY", help="answer every prompt with each value of it"
    )
    parser.add_argument(
        "--best-of", type=int, metavar="N", help="sample N answers to each prompt, keep the best"
    )
    parser.add_argument(
        "--by",
        default="likelihood",
        metavar="RANKING",
        help="of --best-of: likelihood (per token), total_likelihood, pins: how far an answer has "
        "what is pinned, as programs can tell (language, format, words), or CATEGORY=VALUE: how "
        "probable it is that an answer is of that value",
    )
    parser.add_argument(
        "--hold",
        metavar="CATEGORY",
        help="hold answers to the number that is pinned of it, such as of words: they don't end "
        "before, and more easily then",
    )
    parser.add_argument(
        "--annotate",
        metavar="CONFIG|NAME",
        help="pin what an annotator (lang, llm) or a config of annotation finds in the prompt",
    )


def run(args) -> None:
    # JAX takes seconds to import; a slip in the arguments should not wait for it.
    controls, guidance = read_controls(args), read_guidance(args)

    from marker_lm.annotate.checks import make_counters
    from marker_lm.cli.tagging import tagging
    from marker_lm.data.sources import find_files
    from marker_lm.decoding.answering import answer_rows
    from marker_lm.decoding.job import Job, hash_rows
    from marker_lm.decoding.request import Request
    from marker_lm.decoding.requests import Asked, hold, read_requests, sweep

    if args.prompts:
        find_files(args.prompts)  # a slip there should not wait for the parameters either
    engine, config, step = load(args)
    engine.check(controls)
    sampling = read_sampling(args, config.decode)
    everywhere = Request(args.prompt or "", controls, sampling, guidance)
    if args.prompts:
        rows = read_requests(args.prompts, everywhere)
    else:
        rows = [Asked({"prompt": args.prompt}, everywhere)]
    if args.sweep:
        rows = sweep(rows, args.sweep, engine)
    if args.hold:
        rows = hold(rows, args.hold, engine, make_counters(engine.taxonomy))
    best = _best(args, engine, sampling)
    if args.dry_run:
        _dry_run(engine, rows, args)
        return
    _check_memory(engine, rows, args)
    about = {
        name: getattr(args, name) for name in ("weights", "cache", "annotate", "best_of", "by")
    }
    about |= {"workdir": args.workdir, "step": step}
    settings = about | {"rows": hash_rows(row.said() for row in rows)}
    with Job(args.out, settings, len(rows), args.overwrite) as job:
        with tagging(args.annotate, engine) as tag:
            answer_rows(engine, rows, job, tag, best)
    if args.out:
        print(f"{job.done - job.errors} answers, {job.errors} errors: {args.out}")


def _best(args, engine, sampling):
    """How the best answer is found, None without --best-of."""
    from marker_lm.annotate.checks import make_checks
    from marker_lm.decoding.answering import Best
    from marker_lm.decoding.levers import Pins, check_ranking

    if args.best_of is None:
        return None
    if args.best_of < 1:
        raise ValueError(f"--best-of={args.best_of} must be 1 or more.")
    if not sampling.temperature:
        raise ValueError(
            f"--best-of={args.best_of}: at temperature 0 all answers are one; add --temperature=1."
        )
    by = tuple(args.by.split("=", 1)) if "=" in args.by else args.by
    if by == "pins":
        by = Pins(make_checks(engine.taxonomy))
    return Best(args.best_of, check_ranking(engine, by))


def _check_memory(engine, rows, args) -> None:
    """Raises ValueError where the job would not fit; rows that are refused don't count."""
    from marker_lm.decoding.memory import check_memory, find_job

    answers = _answers(engine, rows, refused={})
    check_memory(engine.config, engine.mesh, find_job(engine, answers, args.weights, args.cache))


def _dry_run(engine, rows, args) -> None:
    from marker_lm.decoding.memory import find_job, job_memory

    refused: dict[int, str] = {}
    job = find_job(engine, _answers(engine, rows, refused), args.weights, args.cache)
    for number, reason in refused.items():
        print(f"row {number}: {reason}")
    print(f"{len(rows)} rows, {len(refused)} of them refused")
    memory = job_memory(engine.config, engine.mesh, job)
    print(f"memory: for {job.rows} rows of up to {job.size} tokens {memory}")


def _answers(engine, rows, refused: dict[int, str]):
    """What the engine makes of the rows, one at a time; `refused` gets why the others are none."""
    from marker_lm.progress import Progress

    with Progress("check", len(rows)) as progress:
        for number, row in enumerate(rows, 1):
            progress.update(number)
            if row.request is None:
                refused[number] = row.error
                continue
            try:
                yield engine.answer(number, row.request)
            except ValueError as error:
                refused[number] = str(error)
