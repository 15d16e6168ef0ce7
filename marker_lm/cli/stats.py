"""Shows the long tail of a config's rows before training, and fixes the strata to evaluate on.

Reads the same rows as `prepare` and writes stats.html and stats.json to WORKDIR/stats: counts of
every category, head and tail, which categories go together, what markers cost in tokens under both
templates, near duplicates, and tail strata with the difference that their held-out rows could show.
Tokens are those of the run's tokenizer where `prepare` has been run, else bytes.

  marker-lm stats --config=configs/mix.py:markers,/data/mix --workdir=/tmp/mix --freeze

With --freeze the strata of --category go to WORKDIR/stats/strata.json, which is never replaced;
`--config.eval.strata=/tmp/mix/stats/strata.json` makes `evaluate` use them.
"""

import json
import os
import shlex
import sys

from marker_lm.cli.common import ConfigError, add_config, load_config


def add_arguments(parser) -> None:
    add_config(parser)
    parser.add_argument("--out", metavar="DIR", help="where it goes; WORKDIR/stats by default")
    parser.add_argument(
        "--threshold",
        type=float,
        help="values with a smaller share of the training rows are tail; default: eval.tail_share",
    )
    parser.add_argument("--category", help="whose strata are frozen; eval.tail_category by default")
    parser.add_argument(
        "--freeze",
        nargs="?",
        const="",
        metavar="FILE",
        help="fix the strata of the category in a file; DIR/strata.json by default",
    )
    parser.add_argument(
        "--no-duplicates", action="store_true", help="do not look for near duplicates"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that count beside the one that reads; all cores but one by default",
    )


def run(args) -> None:
    config = load_config(args.config, args.overrides)
    threshold = config.eval.tail_share if args.threshold is None else args.threshold
    if not 0 < threshold < 1:
        raise ConfigError(f"--threshold={threshold:g} must be a share between 0 and 1, like 0.05.")
    workers = max(1, (os.cpu_count() or 2) - 1) if args.workers is None else args.workers
    if workers < 0:
        raise ConfigError(f"--workers={workers} must be 0 or more.")
    category = args.category or config.eval.tail_category

    from etils import epath
    from rich.console import Console

    from marker_lm.annotate.stats import make_statistics
    from marker_lm.annotate.stats_page import render
    from marker_lm.annotate.stats_summary import summary, terminal_tables
    from marker_lm.annotate.strata import freeze, make_strata
    from marker_lm.data.setup import data_folder
    from marker_lm.data.whole_files import write_whole
    from marker_lm.markers.taxonomy import load_taxonomy

    taxonomy = load_taxonomy(config.taxonomy)
    if args.freeze is not None:
        taxonomy.category(category)  # a slip should not wait for the counting
    stats = make_statistics(
        config,
        data_folder(config, args.workdir),
        threshold=threshold,
        workers=workers,
        search=not args.no_duplicates,
    )
    out = epath.Path(args.out or epath.Path(args.workdir) / "stats")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(stats, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    pages = {
        "stats.json": text,
        "stats.html": render(stats, shlex.join(["marker-lm", *sys.argv[1:]])),
    }
    for name, content in pages.items():
        write_whole(out / name, content.encode("utf-8", "backslashreplace"))
    console = Console()
    for table in terminal_tables(stats):
        console.print(table)
        console.print()
    for line in summary(stats):
        print(line)
    print(f"statistics: {out / 'stats.html'}")
    if args.freeze is not None:
        values = {n: c["values"] for n, c in stats["categories"].items() if "values" in c}
        heldout = stats["categories"][category].get("heldout", {})
        train = stats["splits"]["train"]
        rows = {"count": train["rows"], "hash": train["hash"]}
        strata = make_strata(category, values, heldout, threshold, taxonomy, rows)
        path = epath.Path(args.freeze or out / "strata.json")
        new = freeze(strata, path)
        print(f"strata: {path}" if new else f"strata: {path} holds the same ones already")
