"""Fine-tunes a model; prepares the data first where that was not done.

Stopped at any moment and started again with the same command, it goes on from the newest checkpoint
in WORKDIR/checkpoints and ends with the same parameters. Metrics: `tensorboard --logdir WORKDIR`.

  marker-lm train --config=configs/default.py --workdir=/tmp/run \\
      --config.data.tasks.rows.train=rows.jsonl --config.train.epochs=3
"""

from marker_lm.cli.common import add_config, load_config
from marker_lm.progress import clock


def add_arguments(parser) -> None:
    add_config(parser)


def run(args) -> None:
    config = load_config(args.config, args.overrides)
    # JAX takes seconds to import; help and slips in the config should not wait for it.
    from marker_lm.training.loop import train

    facts = train(config, args.workdir)
    if not facts["stopped"]:
        print(f"trained to step {facts['steps']} in {clock(facts['seconds'])}: {args.workdir}")
