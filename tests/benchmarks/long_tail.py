"""Rows a second and memory of `marker-lm stats`, for growing numbers of made-up rows.

python tests/benchmarks/long_tail.py [most rows]
"""

import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

WORDS_A_ROW = 75  # about 430 characters: what rows of instruction data have


def write_rows(folder: Path, count: int) -> None:
    import json

    import numpy as np

    from tests.tiny import TAXONOMY

    draw = np.random.default_rng(0)
    words = np.array([f"w{number:x}" for number in draw.integers(16**3, 16**6, 50_000)])
    (folder / "taxonomy.yaml").write_text(TAXONOMY, encoding="utf-8")
    with (folder / "train.jsonl").open("w") as file:
        for i in range(count):
            text = " ".join(words[draw.integers(0, len(words), WORDS_A_ROW)])
            markers = {"lang": ("en", "de", "ja")[draw.choice(3, p=(0.7, 0.27, 0.03))]}
            markers |= {"task": "Answer", "words": WORDS_A_ROW}
            row = {"id": str(i), "prompt": "Say it.", "completion": text, "markers": markers}
            file.write(json.dumps(row) + "\n")


def anonymous_megabytes() -> float:
    """Memory of this process without the pages of files, which the kernel can give back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(folder: Path, search: bool) -> None:
    """Prints one line of the table; a process of its own."""
    from marker_lm.annotate.stats import make_statistics
    from tests.tiny import tiny_config

    config = tiny_config(folder).unlock()
    config.data.tasks.rows.heldout = ""
    before, highest, done = anonymous_megabytes(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.02):
            highest[0] = max(highest[0], anonymous_megabytes())

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    stats = make_statistics(
        config, folder / "data", threshold=0.05, workers=1, search=search, log=lambda line: None
    )
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    rows = stats["splits"]["train"]["rows"]
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in spent)
    print(
        f"{rows:>9,} {'yes' if search else 'no':>10} {seconds:>8.1f} {rows / seconds:>8,.0f} "
        f"{1e6 * cpu / rows:>11,.0f} {highest[0] - before:>10,.0f}",
        flush=True,
    )


def main() -> None:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    print(
        f"{'rows':>9} {'duplicates':>10} {'seconds':>8} {'rows/s':>8} {'CPU us/row':>11} {'MB':>10}"
    )
    for count in (most // 10, most):
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder), count)
            for search in ("yes", "no"):
                command = [sys.executable, __file__, "measure", folder, search]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), sys.argv[3] == "yes")
    else:
        main()
