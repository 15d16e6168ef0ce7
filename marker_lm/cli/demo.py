"""The whole loop on the embedded default, on two CPU cores in about ten minutes.

Writes the Atlas (instructions from Unicode CLDR in 32 languages), trains a small model with markers
and one without on the same rows, order, steps and seed, decodes held-out rows with every lever, and
ends with a short table and WORKDIR/report/report.html. Stopped and started again, it goes on where
it was.

  marker-lm demo --workdir=/tmp/marker_lm_demo
  marker-lm demo --workdir=/tmp/marker_lm_demo --shuffled
"""

import json
import multiprocessing
import time

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
    parser.add_argument("--rows", type=int, default=28_000, help="how many rows the Atlas gets")


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
    for arm in arms:
        config = arm_config(args, arm, atlas, workdir)
        # A process of its own for each arm: the evaluation starts with the memory free again.
        facts = timed(f"train {arm}", in_process, train_arm, config, workdirs[arm])
        if facts["stopped"]:
            return
    from marker_lm.cli.evaluate import evaluate_and_report

    config = arm_config(args, "markers", atlas, workdir)
    evaluate_and_report(
        config, workdirs, str(workdir / "report"), str(atlas), seconds, summary["rows"]
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
        "heldout": str(atlas / "heldout.jsonl"),
        "rate": 1.0,
    }
    config.data.tasks = {"atlas": task}
    config.data.prepared = str(workdir / "data")
    return config.lock()


def train_arm(config, workdir: str) -> dict:
    from marker_lm.training.loop import train

    return train(config, workdir)


def in_process(function, *arguments):
    """Calls a function in a fresh process and returns its result; its exceptions come through."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)
