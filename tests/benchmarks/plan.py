"""Time, memory and fill of the plan of an epoch.

    python tests/benchmarks/plan.py [--rows 3000000] [--prepared FOLDER] [--arms 1]

The index is drawn, row by row, from that of prepared rows of the mix (a share of 5 % is prepared in
FOLDER where there is none), so it has their lengths.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from marker_lm.data.cache import Cache, is_cache
from marker_lm.data.mixture import make_mixture
from marker_lm.data.plan import Planner, PlanSummary
from marker_lm.data.prepare import prepare
from marker_lm.data.setup import make_dropout, make_setup
from marker_lm.data.spans import Index
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.taxonomy import load_taxonomy
from tests.benchmarks.mix import Clock, mix_config, peak_gigabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--prepared", type=Path, default=Path("/tmp/marker_lm_benchmark"))
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--arms", type=int, default=1, help="arms that share the plan, 1 to 3")
    args = parser.parse_args()
    config = mix_config(args.prepared, share=0.05)
    config.plan_arms = config.plan_arms[: args.arms]
    if not is_cache(args.prepared / "train"):
        prepare(config, args.prepared)
    tokenizer = load_tokenizer(args.prepared / "tokenizer")
    setup = make_setup(config, load_taxonomy(config.taxonomy), tokenizer)
    index = larger(Cache(args.prepared / "train").index, args.rows)
    before = peak_gigabytes()
    clock = Clock()
    planner = Planner(
        index=index,
        mixture=make_mixture([len(index)], [1.0]),
        layouts=setup.plan_layouts,
        dropout=make_dropout(config),
        seed=0,
        epochs=2,
        length=args.length,
    )
    summary, plans = PlanSummary(args.length), []
    for window in range(planner.windows(0)):
        plans.append(planner.plan(0, window))
        summary.add(plans[-1])
    wall, cpu = clock.read()
    print(f"{args.rows} rows, {len(setup.plan_layouts)} layout(s)")
    print(f"planned in {wall:.1f} s wall, {cpu:.1f} s of one core")
    print(f"peak memory {peak_gigabytes():.2f} GB, of which {before:.2f} GB before the plan")
    print(f"index: {sum(c.nbytes for c in index.columns().values()) / len(index):.0f} bytes a row")
    for line in summary.lines():
        print(line)


def larger(index: Index, rows: int) -> Index:
    """An index of so many rows, drawn from those of `index`, with hashes that all differ."""
    random = np.random.default_rng(0)
    columns = index.take(random.integers(0, len(index), rows)).columns()
    columns["example_hash_N"] = random.integers(0, 2**63, rows).astype(np.uint64)
    return Index(index.categories, **columns)


if __name__ == "__main__":
    main()
