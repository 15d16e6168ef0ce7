"""Rate and memory of `marker-lm prepare` on rows of the mix, with a tokenizer trained before.

    python tests/benchmarks/prepare.py [--shares 0.02 0.2] [--workers 0]

Each share is prepared in a process of its own, so that its peak memory is seen. With two shares the
cost of rows beyond the fixed cost of starting is their difference.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from marker_lm.data.prepare import prepare
from marker_lm.data.tokenizer_training import train_sentencepiece
from tests.benchmarks.mix import MIX, mix_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.2])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--one", nargs=2, metavar=("FILE", "FOLDER"), help="used by itself")
    args = parser.parse_args()
    if args.one:
        prepare_one(Path(args.one[0]), Path(args.one[1]), args.workers)
        return
    print("rows      tokens     seconds  cpu seconds  tokens/s  peak MB here  peak MB of a worker")
    with tempfile.TemporaryDirectory() as folder:
        lines = read_lines()
        texts = (line.decode() for line in lines[:20_000])
        train_sentencepiece(texts, 8192).save(Path(folder) / "tokenizer")
        for share in args.shares:
            # Rows of a file of that size: reading all rows to take a share would be timed too.
            file = Path(folder) / "rows.jsonl"
            file.write_bytes(b"".join(lines[:: round(1 / share)]))
            command = [sys.executable, __file__, "--workers", str(args.workers)]
            subprocess.run([*command, "--one", str(file), folder], check=True)


def read_lines() -> list[bytes]:
    import gzip

    if not MIX.is_dir():
        raise SystemExit(f"{MIX} is not there; the benchmark needs its rows")
    return [
        line
        for path in sorted(MIX.glob("train-*"))
        for line in gzip.decompress(path.read_bytes()).splitlines(True)
    ]


def prepare_one(file: Path, folder: Path, workers: int) -> None:
    config = mix_config(folder / "prepared", 1.0, tokenizer=str(folder / "tokenizer"))
    config.data.tasks.mix.train = str(file)
    config.data.workers = workers
    began = time.monotonic()
    manifest = prepare(config, folder / "prepared", lambda line: None)["train"]
    seconds = time.monotonic() - began
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cpu = sum(u.ru_utime + u.ru_stime for u in (own, children))
    tokens = sum(manifest["tokens"].values())
    print(
        f"{manifest['rows']:8}  {tokens:9}  {seconds:7.1f}  {cpu:11.1f}  {tokens / seconds:8.0f}  "
        f"{own.ru_maxrss / 1e3:12.0f}  {children.ru_maxrss / 1e3:19.0f}",
        flush=True,
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
