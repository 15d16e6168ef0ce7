"""Log-likelihoods of completions, and posteriors over the values of a category.

FILE is a JSONL file of rows {"prompt", "completion", "markers"}. Without --posterior each line of
the output has nats and tokens per span kind; the completion is scored after its own list of
markers, and --shown names the categories that stand on the prompt side too. With
--posterior=CATEGORY only the prompt is needed and each line has the probability of every value.

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
    with Progress("score", len(rows)) as progress:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            prompts = [row["prompt"] for row in chunk]
            markers = [row["markers"] for row in chunk]
            if args.posterior:
                records = [{"posterior": p} for p in scorer.posterior(prompts, args.posterior)]
            else:
                scores = scorer.score(
                    prompts, [r["completion"] for r in chunk], markers, args.shown
                )
                records = [{"nats": s.nats, "tokens": s.tokens} for s in scores]
            for prompt, record in zip(prompts, records, strict=True):
                out.write(json.dumps({"prompt": prompt, **record}, ensure_ascii=False) + "\n")
            progress.update(start + len(chunk))
    if args.out:
        out.close()
        print(f"{len(rows)} rows scored: {args.out}")
