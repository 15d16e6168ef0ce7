"""Says what a run needs on a pod before anyone pays for it, on any machine, without a TPU.

The compiler for TPUs (pip install 'marker-lm[tpu]') compiles the very train step and decode step
for the topology: v5e:4x4, v6e:4x4, v5p:2x2x4, tpu7x:2x2x4, v5e:16x16*2 for two slices. No data and
no weights are needed: `init_from` may be one of configs/architectures.

  marker-lm plan --config=configs/llama31_8b_v6e16.py
  marker-lm plan --config=my.py --topology=v5e:4x4 --json=plan.json
  marker-lm plan --config=my.py --topology=v5e:4x4 --search
  marker-lm plan --config=my.py --topologies=v5e:4x4,v5e:8x8,v6e:4x4 --price v5e=1.2 --price v6e=2.7

Printed are: whether it fits, with how much to spare; memory by what it is for; what is sent between
chips, loops counted as often as they run; the operations, attention counted causally; and lower
bounds of a step's time from public peaks of the chip. A real step takes longer than every bound.

Compiling takes minutes; --quick stops when the memory is laid out, which is all that fitting needs.
--search looks for the mesh, the pieces of the batch, remat, ff_blocks and loss_blocks that fit with
the least bound, leaves the batch itself as it is, and prints the overrides to use.
--topologies compares pods and names the cheapest that fits.

Exit code: 0 it fits with the spare, 1 it does not, 2 the config or the command is wrong.
"""

import json

from marker_lm.cli.common import ConfigError, add_config, load_config


def add_arguments(parser) -> None:
    add_config(parser, workdir=False)
    parser.add_argument("--topology", default="", help="the pod; the config's by default")
    parser.add_argument("--topologies", metavar="A,B,...", help="pods to compare")
    parser.add_argument("--search", action="store_true", help="look for a layout that fits best")
    parser.add_argument("--tries", type=int, default=8, help="layouts that a search compiles")
    parser.add_argument("--quick", action="store_true", help="memory only, in seconds")
    parser.add_argument("--no-decode", action="store_true", help="leave out the decode step")
    parser.add_argument(
        "--spare", type=float, default=0.05, help="part of the memory to leave free; default: 0.05"
    )
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="CHIP=PRICE",
        help="of a chip-hour, for --topologies; only ratios count by default",
    )
    parser.add_argument("--json", metavar="FILE", help="write all of it, bytes per chip")


def run(args) -> int:
    config = load_config(args.config, args.overrides)
    if not 0 <= args.spare < 1:
        raise ConfigError(f"--spare={args.spare:g} must be a share from 0 to 1, like 0.05.")
    if args.tries < 1:
        raise ConfigError(f"--tries={args.tries} must be 1 or more.")
    if args.topologies and (args.search or args.topology):
        raise ConfigError("--topologies compares pods; leave out --search and --topology.")
    from marker_lm.plan.topology import parse_topology, prepare_environment

    pods = [parse_topology(name) for name in (args.topologies or "").split(",") if name]
    prices = read_prices(args.price)
    prepare_environment()
    from rich.console import Console

    console = Console()
    if pods:
        from marker_lm.plan.compare import compare, print_comparison

        found = compare(config, pods, args.spare, prices)
        print_comparison(found, console)
        content, fits = [row.to_dict() for row in found], any(row.fits for row in found)
    elif args.search:
        from marker_lm.plan.plan import find_topology
        from marker_lm.plan.search import print_search, search

        tried = search(config, find_topology(config, args.topology), args.spare, args.tries)
        print_search(tried, console)
        content, fits = [t.to_dict() for t in tried], any(t.fits for t in tried)
    else:
        from marker_lm.plan.plan import plan
        from marker_lm.plan.report import print_plan

        made = plan(config, args.topology, not args.no_decode, args.quick, args.spare)
        print_plan(made, console)
        content, fits = made.to_dict(), made.fits
    if args.json:
        from etils import epath

        from marker_lm.data.whole_files import write_whole

        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        write_whole(epath.Path(args.json), text.encode())
    return 0 if fits else 1


def read_prices(given: list[str]) -> dict[str, float]:
    """chip -> price of an hour, of CHIP=PRICE arguments. Raises ConfigError."""
    from marker_lm.plan.topology import CHIPS

    prices = {}
    for item in given:
        chip, _, price = item.partition("=")
        try:
            prices[chip] = float(price)
        except ValueError:
            prices[chip] = 0.0
        if chip not in CHIPS or not prices[chip] > 0:
            raise ConfigError(
                f"--price={item} is not CHIP=PRICE, such as v5e=1.2 ({', '.join(CHIPS)})."
            )
    return prices
