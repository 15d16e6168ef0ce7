"""What the benchmarks of data share: a config for the mix, clocks and memory."""

import resource
import time
from pathlib import Path

from ml_collections import ConfigDict

from configs import mix

ROOT = Path(__file__).resolve().parents[2]
MIX = ROOT.parent / "shared" / "data" / "mix"


def mix_config(folder: Path, share: float, tokenizer: str = "train") -> ConfigDict:
    """configs/mix.py on a share of the rows, in sequences of 2,048."""
    if not MIX.is_dir():
        raise SystemExit(f"{MIX} is not there; the benchmark needs its rows")
    config = mix.get_config(f"markers,{MIX}").unlock()
    config.data.share = share
    config.data.tasks.mix.heldout = ""
    config.data.tokenizer = tokenizer
    config.data.prepared = str(folder)
    config.train.update(length=2048, batch=32)
    return config


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self):
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.monotonic() - self.wall, time.process_time() - self.cpu


def peak_gigabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
