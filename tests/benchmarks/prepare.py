"""Rate and memory of `marker-lm prepare`, and whether cost grows with the rows and memory does not.

    python tests/benchmarks/prepare.py [--rows=30000] [--times=10] [--workers=2]

The rows are those of the mix, repeated under new ids, and the tokenizer was trained before. Each
run is a process of its own, so its memory is its own. The cost of a further row is told apart from
that of starting by a short first run.
"""

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from marker_lm.data.cache_writer import ROWS_PER_SHARD
from marker_lm.data.prepare import prepare
from marker_lm.data.tokenizers.training import train_sentencepiece
from tests.benchmarks.mix import MIX, mix_config

START = 3 * ROWS_PER_SHARD  # rows of the first run: a shard of one of two workers, and one more


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("FILE", "FOLDER"), help="used by itself")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(prepare_one(Path(args.one[0]), Path(args.one[1]), args.workers)))
        return
    print(f"{args.workers} workers on {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()}")
    print("rows     tokens     seconds  CPU s  tokens/s  peak MB here  peak MB of a worker")
    with tempfile.TemporaryDirectory() as folder:
        lines = read_lines()
        train_sentencepiece(map(bytes.decode, lines[:20_000]), 8192).save(
            Path(folder) / "tokenizer"
        )
        used = []
        for rows in (min(START, args.rows // 2), args.rows, args.rows * args.times):
            one = measure(Path(folder), lines, rows, args.workers)
            used.append((one["rows"], one["cpu"]))
            print(
                f"{one['rows']:7}  {one['tokens']:9}  {one['seconds']:7.1f}  {one['cpu']:5.1f}  "
                f"{one['tokens'] / one['seconds']:8.0f}  {one['here']:12.0f}  {one['worker']:8.0f}",
                flush=True,
            )
    start, few, many = used
    a_row = (many[1] - few[1]) / (many[0] - few[0])
    first = (few[1] - start[1]) / (few[0] - start[0])
    print(f"without the start of the program: {1e6 * a_row:.0f} us of CPU a row,")
    print(f"a row costs {a_row / first:.2f} times as much as up to {few[0]} rows")


def read_lines() -> list[bytes]:
    """The rows of the mix, shuffled, so that the first so many of them are the mix too."""
    if not MIX.is_dir():
        raise SystemExit(f"{MIX} is not there; the benchmark needs its rows")
    files = [gzip.decompress(path.read_bytes()) for path in sorted(MIX.glob("train-*"))]
    lines = [line for text in files for line in text.splitlines(True)]
    random.Random(0).shuffle(lines)
    return lines


def measure(folder: Path, lines: list[bytes], rows: int, workers: int) -> dict[str, float]:
    """What `prepare_one` gives of so many rows, in a process of its own."""
    file = folder / "rows.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for i in range(rows):
            row = json.loads(lines[i % len(lines)]) | {"id": str(i)}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    command = [sys.executable, __file__, f"--workers={workers}", "--one", str(file), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def prepare_one(file: Path, folder: Path, workers: int) -> dict[str, float]:
    """Prepares the rows of a file; what it took, the peaks of memory in MB."""
    config = mix_config(folder / "prepared", 1.0, tokenizer=str(folder / "tokenizer"))
    config.data.tasks.mix.train = str(file)
    config.data.workers = workers
    began = time.monotonic()
    manifest = prepare(config, folder / "prepared", lambda line: None)["train"]
    own, workers_used = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "rows": manifest["rows"],
        "tokens": sum(manifest["tokens"].values()),
        "seconds": time.monotonic() - began,
        "cpu": sum(used.ru_utime + used.ru_stime for used in (own, workers_used)),
        "here": own.ru_maxrss / 1e3,
        "worker": workers_used.ru_maxrss / 1e3,
    }


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
