"""Fine-tunes a model; prepares the data first where that was not done.

Stopped at any moment and started again with the same command, it goes on from the newest checkpoint
in WORKDIR/checkpoints and ends with the same parameters. Metrics: `tensorboard --logdir WORKDIR`.

  marker-lm train --config=configs/default.py --workdir=/tmp/run \\
      --config.data.tasks.rows.train=rows.jsonl --config.train.epochs=3

A run of several processes is the same command on every host, with --distributed on TPU pods, GKE
and SLURM, or elsewhere with --coordinator=HOST:PORT --processes=N --process=I. They train as one;
where one fails, all end and say why. A SIGTERM to any of them saves and stops all; the exit code
is 143 then, by which launch/run.sh knows that the run has to go on.

A checkpoint whose files are damaged is named, and the one before it is used. A file
WORKDIR/profile_now asks for a profile of the next steps.
"""

import signal

from marker_lm.cli.common import add_config, load_config
from marker_lm.progress import clock


def add_arguments(parser) -> None:
    add_config(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be trained, on what and from where on, and write nothing",
    )
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="one of a run's processes; which, TPU pod, GKE, SLURM or Open MPI says",
    )
    group.add_argument(
        "--coordinator", default="", metavar="HOST:PORT", help="where process 0 listens"
    )
    group.add_argument("--processes", type=int, default=0, metavar="N", help="how many there are")
    group.add_argument(
        "--process", type=int, default=-1, metavar="I", help="which one this is, from 0"
    )


def run(args) -> int:
    config = load_config(args.config, args.overrides)
    # JAX takes seconds to import; help and slips in the config should not wait for it.
    from marker_lm.training.distributed import is_main, joined
    from marker_lm.training.dry_run import dry_run
    from marker_lm.training.host_memory import keep_memory, run_in_this_thread
    from marker_lm.training.loop import train

    run_in_this_thread()
    with joined(args.distributed, args.coordinator, args.processes, args.process):
        keep_memory()
        if args.dry_run:
            dry_run(config, args.workdir)
            return 0
        facts = train(config, args.workdir)
        if facts["stopped"]:
            return 128 + signal.SIGTERM
        if is_main():
            print(f"trained to step {facts['steps']} in {clock(facts['seconds'])}: {args.workdir}")
    return 0
