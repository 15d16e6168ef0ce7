"""Writes report.html again from a report.json, and prints its short table.

Nothing is measured again: all figures are those that `marker-lm evaluate` or `demo` wrote.

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
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a report.json: {error}") from None
    if not isinstance(results, dict):
        raise ValueError(f"{path} is not a report.json: it holds no object.")
    if args.markdown:
        print(markdown_table(results))
    else:
        Console().print(terminal_table(results))
    if args.out:
        print(f"report: {write_report(results, args.out)}")
