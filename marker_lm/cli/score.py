"""Log-likelihoods of completions, and posteriors over the values of a category.

FILE is a JSONL file of rows {"prompt", "completion", "markers"}. Without --posterior each line of
the output has nats and tokens per span kind; the completion is scored after its own list of
markers, and --shown names the categories that stand on the prompt side too. With
--posterior=CATEGORY only the prompt is needed and each line has the probability of every value. A
row that is too long for the model gets an "error" instead.

  marker-lm score --workdir=/tmp/run --rows=dev.jsonl --out=scores.jsonl
  marker-lm score --workdir=/tmp/run --rows=dev.jsonl --posterior=lang
"""

import json
import sys

from etils import epath

from marker_lm.cli.common import add_workdir

CHUNK = 256  # rows scored between two lines of progress


def add_arguments(parser) -> None:
    add_workdir(parser)
    parser.add_argument("--rows", required=True, metavar="FILE", help="JSONL file of rows")
    parser.add_argument(
        "--out", metavar="FILE", help="JSONL file to write; the terminal if not given"
    )
    parser.add_argument("--posterior", metavar="CATEGORY", help="over the values of this category")
    parser.add_argument(
        "--shown", action="append", default=[], metavar="CATEGORY", help="stands in the prompt too"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint; the newest by default")


def run(args) -> None:
    from marker_lm.decoding.engine import TooLongError
    from marker_lm.decoding.load import load_engine
    from marker_lm.decoding.rows import read_rows
    from marker_lm.decoding.scoring import Scorer
    from marker_lm.progress import Progress

    needed = ("prompt",) if args.posterior else ("prompt", "completion")
    rows = list(read_rows(args.rows, needed))
    scorer = Scorer(load_engine(args.workdir, args.step)[0])
    for category in args.shown:
        scorer.engine.taxonomy.category(category)
    out = epath.Path(args.out).open("w") if args.out else sys.stdout
    errors = 0

    def records(chunk: list[dict]) -> list[dict]:
        prompts = [row["prompt"] for row in chunk]
        try:
            if args.posterior:
                return [{"posterior": p} for p in scorer.posterior(prompts, args.posterior)]
            completions = [row["completion"] for row in chunk]
            markers = [row["markers"] for row in chunk]
            scores = scorer.score(prompts, completions, markers, args.shown)
            return [{"nats": s.nats, "tokens": s.tokens} for s in scores]
        except TooLongError as error:
            if len(chunk) == 1:
                return [{"error": str(error)}]
            half = len(chunk) // 2
            return records(chunk[:half]) + records(chunk[half:])

    with Progress("score", len(rows)) as progress:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for row, record in zip(chunk, records(chunk), strict=True):
                errors += "error" in record
                line = {"prompt": row["prompt"], **record}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            progress.update(start + len(chunk))
    if args.out:
        out.close()
        print(f"{len(rows) - errors} rows scored, {errors} errors: {args.out}")
