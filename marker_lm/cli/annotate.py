"""Fills in the markers that rows lack, and writes beside each where it comes from and how sure.

Rows are read from JSONL, JSONL.gz or Parquet and written to OUT/rows; bad ones go to
OUT/rejects.jsonl, counts to OUT/manifest.json. Killed at any time, the same command goes on.

  marker-lm annotate --config=configs/annotate.py --out=/tmp/annotated --dry-run \\
      --config.files='data/*.jsonl.gz' --config.quality.field=score
  marker-lm annotate --config=configs/annotate.py:data --out=gs://bucket/annotated \\
      --beam --runner=DataflowRunner --project=mine --region=europe-west4 ...

Training then reads OUT/rows, with `--config.data.rows.trust.lang=0.9` only what is sure enough.
"""

from marker_lm.cli.common import add_beam, add_config, load_config

DRY_ROWS = 200


def add_arguments(parser) -> None:
    add_config(parser, workdir=False)
    parser.add_argument("--out", metavar="DIR", help="where the rows go, local or gs://")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help=f"annotate about the first {DRY_ROWS} rows, show what came out and write nothing",
    )
    add_beam(parser)


def run(args) -> None:
    from rich.console import Console

    from marker_lm.annotate import report
    from marker_lm.annotate.pipeline import annotate_files, try_out
    from marker_lm.annotate.plan import make_plan
    from marker_lm.annotate.registry import AnnotateError

    config = load_config(args.config, args.overrides)
    if not args.out and not args.dry_run:
        raise AnnotateError("nothing says where the rows go; give --out, or --dry-run")
    plan = make_plan(config)
    console = Console()
    for line in report.plan_lines(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if args.dry_run:
        tally, lines, rejects = try_out(plan, DRY_ROWS)
        report.print_tried(console, plan, tally, lines, rejects)
        return
    if args.beam:
        from marker_lm.annotate.beam import annotate_with_beam

        manifest = annotate_with_beam(plan, args.out, args.rest)
    else:
        manifest = annotate_files(plan, args.out)
    report.print_manifest(console, manifest, args.out)
