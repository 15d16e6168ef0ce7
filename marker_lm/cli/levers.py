"""Options that `decode` and `chat` share: levers, sampling, guidance, and how a model is loaded."""

from marker_lm.cli.common import add_workdir, find_step

SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "marker_temperature",
    "max_tokens",
)


def add_engine(parser) -> None:
    """Adds --workdir and what else Engine.load takes."""
    add_workdir(parser)
    parser.add_argument("--step", type=int, help="of the checkpoint; the newest by default")
    parser.add_argument("--taxonomy", help="refuse a checkpoint that was trained with another one")
    parser.add_argument("--slots", type=int, help="rows decoded side by side")
    for name, what in (("weights", "parameters"), ("cache", "keys and values of what was read")):
        parser.add_argument(
            f"--{name}", choices=["int8"], default="", help=f"the {what} in 8 bits, with a scale"
        )


def load(args):
    """The Engine of these options, the config of its run, and the step (None of an exported model).

    Raises ValueErrors of one sentence: a checkpoint that is not there or damaged, another taxonomy.
    """
    from marker_lm.decoding.load import load_engine
    from marker_lm.markers.taxonomy import load_taxonomy

    if args.slots is not None and args.slots < 1:
        raise ValueError(f"--slots={args.slots} must be 1 or more.")
    taxonomy = load_taxonomy(args.taxonomy) if args.taxonomy else None
    step = find_step(args)
    economy = {name: getattr(args, name) for name in ("weights", "cache") if getattr(args, name)}
    engine, config = load_engine(args.workdir, step, taxonomy, args.slots, **economy)
    return engine, config, step


def add_levers(parser) -> None:
    """Adds --pin, --ban, --ask and --allow-unseen."""
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="CATEGORY=VALUE",
        help="pin it for all prompts; once for each value where a category allows several",
    )
    parser.add_argument(
        "--ban", action="append", default=[], metavar="CATEGORY", help="may not be written"
    )
    parser.add_argument(
        "--ask", action="append", default=[], metavar="CATEGORY", help="must be written, any value"
    )
    parser.add_argument(
        "--allow-unseen", action="store_true", help="pin values too that no training row had"
    )


def add_guidance(parser) -> None:
    """Adds --guidance and --guide."""
    parser.add_argument(
        "--guidance", type=float, metavar="W", help="strengthens what is pinned; 1 is plain"
    )
    parser.add_argument(
        "--guide", action="append", default=[], metavar="CATEGORY", help="guidance on this one only"
    )


def read_controls(args):
    """The Controls of these options; raises ValueError for a --pin without '='."""
    from marker_lm.decoding.controls import Controls

    pins: dict[str, list[str]] = {}
    for pin in args.pin:
        if "=" not in pin:
            raise ValueError(f"--pin={pin} is not CATEGORY=VALUE, such as --pin=lang=German.")
        category, value = pin.split("=", 1)
        pins.setdefault(category, []).append(value)
    pinned = {c: values if len(values) > 1 else values[0] for c, values in pins.items()}
    return Controls(pinned, frozenset(args.ban), frozenset(args.ask), args.allow_unseen)


def read_guidance(args):
    """The Guidance of these options, None without --guidance."""
    from marker_lm.decoding.guidance import Guidance

    if args.guidance is None:
        if args.guide:
            raise ValueError(f"--guide={args.guide[0]} needs a weight; add --guidance=2.")
        return None
    return Guidance(args.guidance, categories=frozenset(args.guide))


def add_sampling(parser) -> None:
    """Adds --temperature and the like; what is not given is as the config of the run says."""
    parser.add_argument("--temperature", type=float, help="0 is greedy; the config's by default")
    parser.add_argument("--top-k", type=int, help="keep the k likeliest tokens; 0 keeps all")
    parser.add_argument("--top-p", type=float, help="keep the nucleus of this probability")
    parser.add_argument(
        "--repetition-penalty", type=float, metavar="P", help="against repeated tokens; 1 is none"
    )
    parser.add_argument("--marker-temperature", type=float, help="of the list of markers")
    parser.add_argument("--max-tokens", type=int, help="of an answer")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends an answer; not part of it"
    )
    parser.add_argument("--seed", type=int, default=0)


def read_sampling(args, defaults):
    """The Sampling of these options.

    Args:
      defaults: the section `decode` of the run's config.
    """
    from marker_lm.decoding.sampling import Sampling

    asked = {name: getattr(args, name) for name in SAMPLING}
    given = {name: value for name, value in asked.items() if value is not None}
    return Sampling.from_config(defaults, **given, seed=args.seed, stop=tuple(args.stop))
