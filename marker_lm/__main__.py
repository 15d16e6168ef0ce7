"""`marker-lm VERB ...`: one short file in cli/ a verb."""

import argparse
import importlib
import os
import sys

VERBS = {
    "annotate": "fill in the markers that rows lack, and say how sure each is",
    "stats": "the long tail of the rows before training: counts, costs, duplicates, strata",
    "prepare": "read rows, check them, tokenize them into a cache",
    "show": "print packed training batches: kinds, weights, borders, dropped markers",
    "plan": "what a run needs on a TPU pod, compiled on a machine without one",
    "train": "fine-tune a model on prepared rows",
    "decode": "answer prompts from a file, with markers as levers",
    "chat": "talk with a model in the terminal, with markers as levers",
    "score": "log-likelihoods of completions, posteriors over a category's values",
    "evaluate": "measure trained arms on held-out rows",
    "benchmark": "score answers to a public benchmark by its official definition",
    "experiment": "arms and seeds in turn: rates, training, measurement, statistics, report",
    "convert": "Hugging Face folders and GGUF files in, trained models out",
    "report": "write the HTML report of an evaluation",
    "demo": "the whole loop on the embedded Atlas: data, training, evaluation, report",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; bad input ends with one sentence on stderr and exit code 2."""
    # TensorFlow is loaded by `prepare` only, and has much to say about GPUs that nobody asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="marker-lm",
        description="Fine-tune language models with markers, and pull the markers as levers.",
        epilog="`marker-lm VERB --help` shows the verb's options and an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((a for a in argv if a in VERBS), None)
    for verb, summary in VERBS.items():
        # Only the chosen verb is imported: `--help` should not wait for JAX.
        module = importlib.import_module(f"marker_lm.cli.{verb}") if verb == chosen else None
        sub = verbs.add_parser(
            verb,
            help=summary,
            description=module.__doc__ if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module:
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    args, rest = parser.parse_known_args(argv)
    # Overrides belong to a config; anything else unknown is a slip.
    args.overrides = [a for a in rest if a.startswith("--config.")] if "config" in args else []
    args.rest = [a for a in rest if a not in args.overrides]
    # Options of a Beam runner are not known here; Beam warns of those that no runner knows.
    for unknown in () if getattr(args, "beam", False) else args.rest:
        parser.error(f"unknown argument {unknown!r}; `marker-lm {args.verb} --help` lists them all")
    try:
        return args.run(args) or 0
    except (ValueError, OSError) as error:
        # What a user can mend is a ValueError of ours with one sentence, or a path.
        if os.environ.get("MARKER_LM_TRACEBACK"):
            raise
        print(f"marker-lm {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it can", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
