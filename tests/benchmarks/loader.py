"""Rate of packed batches from a cache of the mix, in one process.

    python tests/benchmarks/loader.py [--prepared FOLDER] [--share 0.05] [--batches 60]

Tokens are used slots; padding is not counted. Every batch is read anew from the shards.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from marker_lm.data.cache import Cache, is_cache
from marker_lm.data.loader import iterate
from marker_lm.data.prepare import prepare
from marker_lm.data.setup import make_setup, train_batches
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.taxonomy import load_taxonomy
from tests.benchmarks.mix import Clock, mix_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, default=Path("/tmp/marker_lm_benchmark"))
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--batches", type=int, default=60)
    args = parser.parse_args()
    config = mix_config(args.prepared, args.share)
    if not is_cache(args.prepared / "train"):
        prepare(config, args.prepared)
    tokenizer = load_tokenizer(args.prepared / "tokenizer")
    cache = Cache(args.prepared / "train")
    print(f"{len(cache)} rows; batches of {config.train.batch} x {config.train.length}")
    print("arm         threads  tokens/s  tokens a second of one core")
    for arm in ("markers", "baseline", "shuffled"):
        config.arm = arm
        setup = make_setup(config, load_taxonomy(config.taxonomy), tokenizer)
        batches = train_batches(config, setup, cache, slice(None))
        stop = min(args.batches, len(batches))
        for threads in (0, 1, 2, 4):
            clock = Clock()
            tokens = 0
            if threads:
                for batch in iterate(batches, 0, stop, threads):
                    tokens += int((batch["segment_ids"] > 0).sum())
            else:
                for step in range(stop):
                    tokens += int((batches[step]["segment_ids"] > 0).sum())
            wall, cpu = clock.read()
            print(f"{arm:10s}  {threads or 'none':7}  {tokens / wall:8.0f}  {tokens / cpu:8.0f}")


if __name__ == "__main__":
    main()
