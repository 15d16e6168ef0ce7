"""The whole loop on the embedded default, on two CPU cores in about ten minutes.

Writes the Atlas (instructions from Unicode CLDR in 26 languages), trains a small model with markers
and one without on the same rows, order, steps and seed, decodes held-out rows with every lever, and
ends with a short table and WORKDIR/report/report.html. Stopped and started again, it goes on where
it was.

  marker-lm demo --workdir=/tmp/marker_lm_demo
  marker-lm demo --workdir=/tmp/marker_lm_demo --shuffled
"""

import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

from etils import epath

from marker_lm.cli.common import add_workdir, load_config


def add_arguments(parser) -> None:
    add_workdir(parser)
    parser.add_argument(
        "--config", default="configs/atlas.py", metavar="FILE", help="configs/atlas.py by default"
    )
    parser.add_argument(
        "--shuffled", action="store_true", help="a third arm: the right markers on the wrong rows"
    )
    parser.add_argument("--rows", type=int, default=60_000, help="how many rows the Atlas gets")


def run(args) -> None:
    workdir = epath.Path(args.workdir)
    seconds: dict[str, float] = {}

    def timed(phase: str, function, *arguments):
        began = time.monotonic()
        result = function(*arguments)
        seconds[phase] = time.monotonic() - began
        return result

    atlas = workdir / f"atlas-{args.rows}"
    summary = timed("write the Atlas", write_atlas, atlas, args.rows)
    print(f"the Atlas: {summary['rows']} rows in {atlas}")
    arms = ["markers", "baseline", *(["shuffled"] if args.shuffled else [])]
    workdirs = {arm: str(workdir / arm) for arm in arms}
    configs = {arm: arm_config(args, arm, atlas, workdir) for arm in arms}
    timed("prepare", prepare_data, configs["markers"], str(workdir / "data"))
    facts = timed("train", train_arms, configs, workdirs)
    if any(fact["stopped"] for fact in facts):
        return
    from marker_lm.cli.evaluate import evaluate_and_report

    evaluate_and_report(
        configs["markers"], workdirs, str(workdir / "report"), str(atlas), seconds, summary["rows"]
    )


def write_atlas(folder: epath.Path, rows: int) -> dict:
    """Writes the Atlas, or finds it written; returns its summary."""
    from marker_lm.data.atlas.rows import write

    done = folder / "summary.json"
    if not done.exists():
        summary = write(folder, rows)
        done.write_text(json.dumps(summary, ensure_ascii=False))
    return json.loads(done.read_text())


def arm_config(args, arm: str, atlas: epath.Path, workdir: epath.Path):
    config = load_config(f"{args.config}:{arm}", args.overrides).unlock()
    task = {
        "train": str(atlas / "train.jsonl"),
        # For the learning curve; the report is about rows that nothing was chosen by.
        "heldout": str(atlas / "dev.jsonl"),
        "rate": 1.0,
    }
    config.data.tasks = {"atlas": task}
    config.data.prepared = str(workdir / "data")
    return config.lock()


def prepare_data(config, folder: str) -> None:
    """Prepares in a process of its own: TensorFlow's memory is free again afterwards."""
    # Not a Pool: its processes may not have children, and prepare has some for many rows.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_prepare, config, folder).result()


def _prepare(config, folder: str) -> None:
    from marker_lm.data.prepare import prepare

    prepare(config, folder)


def train_arms(configs: dict, workdirs: dict[str, str]) -> list[dict]:
    """Trains the arms side by side, each on its part of the cores.

    A model this small keeps one core busy better than several: on two cores, two arms at once take
    less time than the two in turn.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    workers = min(len(configs), len(cores))
    context = multiprocessing.get_context("spawn")
    shares = context.SimpleQueue()
    for worker in range(workers):
        shares.put(cores[worker::workers])
    jobs = [(config, workdirs[arm]) for arm, config in configs.items()]
    with context.Pool(workers, _take_cores, (shares,)) as pool:
        return pool.starmap(_train, jobs, chunksize=1)


def _take_cores(shares) -> None:
    """Keeps a worker to its cores; before JAX starts, which sizes its thread pool by them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, shares.get())


def _train(config, workdir: str) -> dict:
    from marker_lm.training.loop import train

    return train(config, workdir)
