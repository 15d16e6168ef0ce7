"""How well the offline classifier learns the domains and tasks of data/mix, and how fast it is.

    python tests/benchmarks/classifier.py [FOLDER] [ROWS]

It learns from ROWS (20,000) rows of FOLDER/train*.jsonl.gz that the learner itself chooses by the
hash of their ids, and is tested on FOLDER/heldout*.jsonl.gz with the labels hidden. It sees texts
only: first the prompt as configs/mix.py makes it (instruction and input), then, since instructions
repeat within a source and give it away, the input alone. Time is that of the processor.
"""

import dataclasses
import itertools
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from configs import mix  # noqa: E402
from marker_lm.annotate.classifier import make  # noqa: E402
from marker_lm.data.sources import Rejects, read_examples  # noqa: E402
from marker_lm.evaluation.statistics import expected_calibration_error, wilson_interval  # noqa: E402
from marker_lm.markers.taxonomy import load_taxonomy  # noqa: E402

CATEGORIES = ("domain", "task")
THRESHOLDS = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99)


def examples(files, taxonomy, without_instruction):
    """Rows as configs/mix.py reads them; a value that the taxonomy lacks is left out."""
    config = mix.get_config()
    fields = {**config.data.rows.to_dict(), "unknown_values": "leave_out"}
    if without_instruction:
        fields["prompt"] = ("input",)
    with Rejects(None, max_share=1.0) as rejects:
        yield from read_examples(files, taxonomy, fields, rejects)


def measure(folder, taxonomy, rows, without_instruction):
    learner = make({"categories": CATEGORIES, "rows": rows, "threshold": 0.0}, taxonomy)
    start, n_train = time.process_time(), 0
    for example in examples(sorted(folder.glob("train*.jsonl.gz")), taxonomy, without_instruction):
        learner.add(example)
        n_train += 1
    read = time.process_time()
    annotator = learner.finish()
    trained = time.process_time()
    held = list(examples(sorted(folder.glob("heldout*.jsonl.gz")), taxonomy, without_instruction))
    hidden = [dataclasses.replace(example, markers={}) for example in held]
    start_found = time.process_time()
    found = [
        one for i in range(0, len(hidden), 512) for one in annotator.annotate(hidden[i : i + 512])
    ]
    seconds = time.process_time() - start_found
    print(
        f"{n_train} rows read and seen in {read - start:.0f} s, trained in "
        f"{trained - read:.0f} s, "
        f"{len(hidden) / seconds:.0f} rows/s of one core for {' and '.join(CATEGORIES)}"
    )
    for category in CATEGORIES:
        report(category, held, found)


def report(category, held, found):
    pairs = [
        (e.markers[category], f[category])
        for e, f in zip(held, found, strict=True)
        if category in e.markers
    ]
    right_N = np.array([guess.value == true for true, guess in pairs])
    confidence_N = np.array([guess.confidence for _, guess in pairs])
    share = wilson_interval(int(right_N.sum()), len(right_N))
    error = expected_calibration_error(confidence_N, right_N)
    print(
        f"  {category}: accuracy {share.mean:.4f} [{share.low:.4f} {share.high:.4f}] of "
        f"{len(right_N)} rows, expected calibration error {error:.4f}"
    )
    print("    threshold   covered   abstains   accuracy of the covered")
    for threshold in THRESHOLDS:
        sure_N = confidence_N >= threshold
        print(
            f"    {threshold:9.2f}   {sure_N.mean():7.4f}   {1 - sure_N.mean():8.4f}   "
            f"{right_N[sure_N].mean():.4f}"
        )


def main():
    argument = dict(itertools.zip_longest(("folder", "rows"), sys.argv[1:3]))
    folder = Path(argument["folder"] or ROOT.parent / "shared" / "data" / "mix")
    rows = int(argument["rows"] or 20_000)
    taxonomy = load_taxonomy(str(ROOT / "configs" / "mix.yaml"))
    for without_instruction in (False, True):
        print("\nwithout the instruction" if without_instruction else "whole prompts")
        measure(folder, taxonomy, rows, without_instruction)


if __name__ == "__main__":
    main()
