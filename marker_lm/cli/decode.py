"""Answers prompts with a trained model; markers are levers.

PROMPTS is a JSONL file of rows {"prompt": ..., "markers": {category: value}, "ban": [category]},
or with "messages": [{"role", "content"}, ...] for a model that was trained with a chat template;
the markers of a row are pinned, over those of --pin, and all other categories are the model's to
infer. Of a category that allows several values, a row gives a list, and --pin is repeated. Each
line of the output has the prompt, the text, the markers, which were pinned, and the probability of
the inferred ones. A row that can't be answered gets an "error" instead of a text.

  marker-lm decode --workdir=/tmp/run --prompts=prompts.jsonl --out=answers.jsonl --pin=lang=German
  marker-lm decode --workdir=/tmp/run --prompt='Tell me about Japan.' --pin=length_bucket=long
"""

import dataclasses
import json
import sys

from etils import epath

from marker_lm.cli.common import add_workdir


def add_arguments(parser) -> None:
    add_workdir(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", metavar="FILE", help="JSONL file of rows with a prompt")
    source.add_argument("--prompt", metavar="TEXT", help="a single prompt")
    parser.add_argument(
        "--out", metavar="FILE", help="JSONL file to write; the terminal if not given"
    )
    add_pins(parser)
    parser.add_argument("--step", type=int, help="of the checkpoint; the newest by default")
    parser.add_argument("--taxonomy", help="refuse a checkpoint that was trained with another one")
    parser.add_argument("--temperature", type=float, help="0 is greedy; the config's by default")
    parser.add_argument("--top-k", type=int, help="keep the k likeliest tokens; 0 keeps all")
    parser.add_argument("--top-p", type=float, help="keep the nucleus of this probability")
    parser.add_argument("--max-tokens", type=int, help="of an answer")
    parser.add_argument("--batch", type=int, help="rows decoded together")
    parser.add_argument("--seed", type=int, default=0)


def add_pins(parser) -> None:
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


def read_pins(args) -> dict[str, str | list[str]]:
    """--pin as a mapping, to a list where a category is named more than once; raises ValueError for
    one without '='."""
    pins: dict[str, list[str]] = {}
    for pin in args.pin:
        if "=" not in pin:
            raise ValueError(f"--pin={pin} is not CATEGORY=VALUE, such as --pin=lang=German.")
        category, value = pin.split("=", 1)
        pins.setdefault(category, []).append(value)
    return {c: values if len(values) > 1 else values[0] for c, values in pins.items()}


def run(args) -> None:
    # JAX takes seconds to import; a slip in the arguments should not wait for it.
    pins = read_pins(args)
    from marker_lm.decoding.controls import Controls, check_controls
    from marker_lm.decoding.load import load_engine
    from marker_lm.decoding.request import Request
    from marker_lm.decoding.rows import read_prompts
    from marker_lm.decoding.sampling import Sampling, row_seed
    from marker_lm.markers.taxonomy import load_taxonomy
    from marker_lm.progress import Progress

    taxonomy = load_taxonomy(args.taxonomy) if args.taxonomy else None
    engine, config = load_engine(args.workdir, args.step, taxonomy, args.batch)
    given = {
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "max_tokens": args.max_tokens,
    }
    settings = config.decode.to_dict() | {k: v for k, v in given.items() if v is not None}
    settings.pop("batch")
    sampling = Sampling(**settings, seed=args.seed)
    everywhere = Controls(pins, frozenset(args.ban), frozenset(args.ask))
    check_controls(everywhere, engine.taxonomy, engine.layout.completion_side)
    rows = read_prompts(args.prompts, everywhere) if args.prompts else [(args.prompt, everywhere)]
    requests = [
        Request(*row, dataclasses.replace(sampling, seed=row_seed(args.seed, number)))
        for number, row in enumerate(rows)
    ]
    ended: dict = {}
    out = epath.Path(args.out).open("w") if args.out else sys.stdout
    errors = 0
    with Progress("decode", len(rows)) as progress:
        for number, result in engine.run(requests):
            errors += isinstance(result, str)
            ended[number] = {"error": result} if isinstance(result, str) else result.to_dict()
            while progress.done in ended:  # in the order of the rows
                record = ended.pop(progress.done)
                # A prompt that is no text (half a surrogate pair) can be shown escaped only.
                line = {"prompt": rows[progress.done][0], **record}
                out.write(json.dumps(line, ensure_ascii="error" in record) + "\n")
                progress.update(progress.done + 1)
    if args.out:
        out.close()
        print(f"{len(rows) - errors} answers, {errors} errors: {args.out}")
