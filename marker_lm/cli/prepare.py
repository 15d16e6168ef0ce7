"""Reads rows, checks them and tokenizes them into a cache under WORKDIR/data.

Bad rows go to WORKDIR/data/rejects.SPLIT.jsonl with file, line and reason. Run again with the same
config and files, it finds that nothing is to be done.

  marker-lm prepare --config=configs/default.py --workdir=/tmp/run \\
      --config.data.tasks.rows.train='data/train-*.jsonl' \\
      --config.data.tasks.rows.heldout=data/dev.jsonl
"""

from marker_lm.cli.common import add_config, load_config


def add_arguments(parser) -> None:
    add_config(parser)


def run(args) -> None:
    config = load_config(args.config, args.overrides)
    # JAX takes seconds to import; help and slips in the config should not wait for it.
    from marker_lm.data.prepare import prepare
    from marker_lm.training.loop import data_folder

    prepare(config, data_folder(config, args.workdir))
