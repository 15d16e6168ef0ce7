"""Writes report.html again from a report.json, and prints its short table.

marker-lm report --results=/tmp/run/report/report.json --out=/tmp/page
marker-lm report --results=/tmp/run/report/report.json --markdown
"""

import json

from etils import epath


def add_arguments(parser) -> None:
    parser.add_argument("--results", required=True, metavar="FILE", help="a report.json")
    parser.add_argument("--out", metavar="DIR", help="where report.html goes; none if not given")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def run(args) -> None:
    from rich.console import Console

    from marker_lm.evaluation.report import markdown_table, terminal_table, write_report

    path = epath.Path(args.results)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; `marker-lm evaluate` writes one.")
    results = json.loads(path.read_text())
    if args.markdown:
        print(markdown_table(results))
    else:
        Console().print(terminal_table(results))
    if args.out:
        print(f"report: {write_report(results, args.out)}")
