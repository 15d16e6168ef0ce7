"""Prints the packed batch of a training step: people find mask bugs by looking.

Each line is a span of tokens of one kind and one loss weight: [completion w=1 n=12] and the text.
Kinds have colours, markers that dropout took from the prompt side are struck out, and an example
whose inputs, targets, positions or lists contradict each other is marked as a fault. The batch is
the very one that `train` uses; the data is prepared first where that was not done.

  marker-lm show --config=configs/mix.py:markers,/data/mix --workdir=/tmp/mix --step=3
  marker-lm show --config=configs/mix.py:markers,/data/mix --workdir=/tmp/mix --rows=1 --tokens \\
      --no-color | grep dropped
"""

from marker_lm.cli.common import ConfigError, add_config, load_config


def add_arguments(parser) -> None:
    add_config(parser)
    parser.add_argument("--step", type=int, default=0, help="of the training; 0 is the first")
    parser.add_argument("--rows", type=int, default=2, help="sequences of the batch that are shown")
    parser.add_argument("--tokens", action="store_true", help="mark where each token ends by ·")
    parser.add_argument("--no-color", action="store_true", help="plain text, for grep and files")
    parser.add_argument("--html", metavar="FILE", help="write a page with the rows there")


def run(args) -> None:
    config = load_config(args.config, args.overrides)
    if args.rows < 1:
        raise ConfigError(f"--rows={args.rows} must be 1 or more.")

    from etils import epath
    from rich.console import Console

    from marker_lm.convert.checkpoint import config_tokenizer
    from marker_lm.data.batch_print import head_line, lines, page
    from marker_lm.data.batch_view import Reader, summary
    from marker_lm.data.cache import Cache
    from marker_lm.data.prepare import check_cache, prepare
    from marker_lm.data.setup import data_folder, make_setup, train_batches
    from marker_lm.data.tokenizers.load import load_tokenizer
    from marker_lm.data.whole_files import write_whole
    from marker_lm.markers.taxonomy import load_taxonomy

    folder = data_folder(config, args.workdir)
    taxonomy = load_taxonomy(config.taxonomy)
    prepare(config, folder, pretrained=config_tokenizer(config))
    setup = make_setup(config, taxonomy, load_tokenizer(folder / "tokenizer"))
    cache = Cache(folder / "train")
    check_cache(cache.manifest, taxonomy, setup.tokenizer, config.template)
    batches = train_batches(config, setup, cache, slice(None))
    if not 0 <= args.step < len(batches):
        raise ConfigError(f"--step={args.step} is outside the training, 0 to {len(batches) - 1}.")
    batch = batches[args.step]
    reader = Reader(setup.layout, setup.codec, setup.tokenizer)
    sequences = [reader.sequence(batch, row) for row in range(len(batch["tokens"]))]
    about = head_line(args.step, len(batches), batch, summary(batch, sequences))
    shown = sequences[: args.rows]
    if args.html:
        path = epath.Path(args.html)
        title = f"Training batch {args.step}, arm {config.arm}"
        text = page(title, about, shown, args.tokens)
        write_whole(path, text.encode("utf-8"))
        print(f"{about}\nbatch: {path}")
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in [
        about,
        *(line for row, one in enumerate(shown) for line in lines(row, one, args.tokens)),
    ]:
        if args.no_color:
            print(line if isinstance(line, str) else line.plain)
        else:
            console.print(line, markup=False)
