"""Reads rows, checks them and tokenizes them into a cache under WORKDIR/data.

Bad rows go to WORKDIR/data/rejects.SPLIT.jsonl with file, line and reason. Killed at any time, the
same command goes on; run again with the same config and files, it finds that nothing is to be done.

  marker-lm prepare --config=configs/default.py --workdir=/tmp/run \\
      --config.data.tasks.rows.train='data/train-*.jsonl' \\
      --config.data.tasks.rows.heldout=data/dev.jsonl
  marker-lm prepare --config=configs/default.py --workdir=gs://bucket/run \\
      --beam --runner=DataflowRunner --project=mine --region=europe-west4 ...
"""

from marker_lm.cli.common import add_beam, add_config, load_config


def add_arguments(parser) -> None:
    add_config(parser)
    add_beam(parser)


def run(args) -> None:
    config = load_config(args.config, args.overrides)
    # Help and slips in the config should not wait for what takes seconds to import.
    from marker_lm.convert.checkpoint import config_tokenizer
    from marker_lm.data.prepare import prepare
    from marker_lm.data.setup import data_folder

    prepare(
        config,
        data_folder(config, args.workdir),
        beam=args.rest if args.beam else None,
        pretrained=config_tokenizer(config),
    )
