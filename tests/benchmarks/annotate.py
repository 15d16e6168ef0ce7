"""Rows a second of annotation, and whether time grows with the rows and memory does not.

    python tests/benchmarks/annotate.py [--rows=20000] [--workers=2] [--times=10]

The rows are those of the development data, repeated under new ids. Metadata, lengths, lang, format
and quality run; code detection does not. Each run is a fresh program, so its memory is its own.
"""

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIX = Path(os.environ.get("MARKER_LM_DATA", ROOT.parent / "shared" / "data")) / "mix"

CONFIG = """
from configs import annotate

def get_config(arg=""):
    c = annotate.get_config(arg).unlock()
    with c.rows.ignore_type():
        c.rows.update(prompt=("instruction", "input"), completion="output")
        c.rows.markers = {"domain": "domain[0]", "task": "task[0]"}
    c.rows.cut_at = {"domain": " -> ", "task": " -> "}
    c.rows.value_maps = {"domain": {"Medicine": "Medical", "Mathematics": "Math"}}
    c.annotators = {"code_type": (), "domain": (), "task": ()}
    c.quality.field = "words"
    return c.lock()
"""


def write_rows(path: Path, count: int) -> None:
    """`count` rows of the mix, every second one of each file, ids made unique."""
    files = [gzip.open(MIX / f"{name}.jsonl.gz", "rt") for name in ("train-ni", "train-other")]
    own = list(itertools.islice(itertools.chain(*zip(*files, strict=False)), 20_000))
    with path.open("w") as out:
        for i in range(count):
            row = json.loads(own[i % len(own)])
            out.write(json.dumps(row | {"id": f"{i}"}, ensure_ascii=False) + "\n")


def resident(pid: int) -> int:
    """Bytes that a process and its children hold in memory, together."""
    import psutil

    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(process.memory_info().rss for process in family)
    except psutil.NoSuchProcess:
        return 0


def measure(folder: Path, rows: int, workers: int) -> tuple[float, float, int]:
    """(seconds of the whole command, seconds of CPU, most bytes in memory at once)."""
    data = folder / f"{rows}.jsonl"
    write_rows(data, rows)
    command = [sys.executable, "-m", "marker_lm", "annotate"]
    command += [f"--config={folder / 'config.py'}:{data}", f"--out={folder / f'out-{rows}'}"]
    command += [f"--config.workers={workers}", "--config.shard_rows=8192"]
    before, start = os.times(), time.monotonic()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        most, done = 0, threading.Event()

        def watch():
            nonlocal most
            while not done.wait(0.05):
                most = max(most, resident(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        process.wait()
        done.set()
        watcher.join()
    seconds, after = time.monotonic() - start, os.times()
    if process.returncode:
        raise SystemExit((folder / "log").read_text())
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return seconds, cpu, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(
        f"{args.workers} processes on {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()}"
    )
    print("rows        seconds  rows/s  CPU s  CPU us/row  most memory")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.py").write_text(CONFIG)
        used = []
        for rows in (2_000, args.rows, args.rows * args.times):
            seconds, cpu, most = measure(folder, rows, args.workers)
            print(
                f"{rows:<10} {seconds:8.1f} {rows / seconds:7.0f} {cpu:6.1f}"
                f" {1e6 * cpu / rows:11.0f} {most / 2**20:8.0f} MiB",
                flush=True,
            )
            used.append((rows, cpu))
        start, few, many = used
        a_row = (many[1] - few[1]) / (many[0] - few[0])
        print(f"without the start of the program: {1e6 * a_row:.0f} us of CPU a row,")
        print(f"{args.workers / a_row:.0f} rows/s on {args.workers} cores of their own,")
        first = (few[1] - start[1]) / (few[0] - start[0])
        print(f"a row costs {a_row / first:.2f} times as much as up to {few[0]} rows")


if __name__ == "__main__":
    main()
