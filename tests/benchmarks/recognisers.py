"""Measures the annotators of programming language and format on held-out rows and on the Atlas.

    python tests/benchmarks/recognisers.py [ROWS.jsonl.gz]

code_type is judged on the Exercism rows whose language the paper's taxonomy has: as they are, with
the labels of the fences taken away, and without fences. What rows of other languages and other
sources are marked is counted, too. format is put beside the rule that made the rows' own field,
which knows no chosen options, steps of thought, XML or LaTeX. Time is that of the processor.
"""

import collections
import gzip
import json
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from marker_lm.annotate import code_type  # noqa: E402
from marker_lm.annotate import format as formats  # noqa: E402
from marker_lm.annotate.settings import SettingsError  # noqa: E402
from marker_lm.data.atlas import rows as atlas  # noqa: E402
from marker_lm.data.example import Example  # noqa: E402
from marker_lm.markers.taxonomy import load_taxonomy  # noqa: E402

ROWS = ROOT.parent / "shared" / "data" / "mix" / "heldout-dev.jsonl.gz"
FENCE = re.compile(r"^```.*$", re.MULTILINE)
TEXTS = {
    "as they are": lambda text: text,
    "fences without labels": lambda text: FENCE.sub("```", text),
    "without fences": lambda text: FENCE.sub("", text).strip(),
}


def annotate(annotator, examples):
    """(value or None for each example, rows a second of a core)"""
    start = time.process_time()
    found = annotator.annotate(examples)
    seconds = time.process_time() - start
    name = annotator.categories[0]
    return [f[name].value if name in f else None for f in found], len(examples) / seconds


def measure_code(rows):
    paper = load_taxonomy("paper")
    values = paper.category("code_type").values
    print("detector  rows of                      rows  right  left out  wrong   rows/s of a core")
    for detector in code_type.DETECTORS:
        try:
            annotator = code_type.make({"detector": detector}, paper)
        except SettingsError as error:
            print(f"{detector:9} {error}")
            continue
        exercism = [row for row in rows if row["source"] == "exercism"]
        for title, text_of in TEXTS.items():
            examples = [Example(r["id"], "?", text_of(r["output"]), {}, {}) for r in exercism]
            found, rate = annotate(annotator, examples)
            # Exercism calls its shell track bash.
            wanted = [
                {"bash": "shell"}.get(r["code_language"], r["code_language"]) for r in exercism
            ]
            pairs = list(zip(wanted, found, strict=True))
            known = [(w, f) for w, f in pairs if w in values]
            right = sum(w == f for w, f in known)
            out = sum(f is None for _, f in known)
            print(
                f"{detector:9} Exercism, {title:21} {len(known):5} {right:6} {out:9} "
                f"{len(known) - right - out:6} {rate:18.0f}"
            )
            others = [f for w, f in pairs if w not in values]
            print(f"{detector:9} other languages {'':15} {len(others):5} {'':6} "
                  f"{others.count(None):9} {len(others) - others.count(None):6}")  # fmt: skip
        rest = [row for row in rows if row["source"] != "exercism"]
        found, rate = annotate(
            annotator, [Example(r["id"], "?", r["output"], {}, {}) for r in rest]
        )
        marked = collections.Counter(
            row["source"].split("/")[0] for row, f in zip(rest, found, strict=True) if f
        )
        print(f"{detector:9} other sources: {len(rest)} rows, marked {dict(marked)} {rate:12.0f}")


def measure_format(rows):
    taxonomy = load_taxonomy("atlas")
    splits = atlas.generate(34_000)
    made = [row for split in splits.values() for row in split]
    found, rate = annotate(
        formats.make({}, taxonomy),
        [Example(r["id"], r["prompt"], r["completion"], {}, {}) for r in made],
    )
    right = sum(f == r["markers"]["format"] for f, r in zip(found, made, strict=True))
    print(f"\nAtlas: {right} of {len(made)} rows right, {rate:.0f} rows/s of a core")
    prompts = ["\n\n".join(t for t in (r["instruction"], r["input"]) if t.strip()) for r in rows]
    start = time.process_time()
    kinds = [
        formats.recognise(prompt, row["output"]) for prompt, row in zip(prompts, rows, strict=True)
    ]
    rate = len(rows) / (time.process_time() - start)
    names = [found[0] if found and found[1] >= 0.5 else "(left out)" for found in kinds]
    columns = [k for k in (*formats.KINDS, "(left out)") if k in names]
    counts = collections.Counter((r["format"], n) for r, n in zip(rows, names, strict=True))
    print(f"{len(rows)} held-out rows, {rate:.0f} rows/s of a core; by the rows' own rule:")
    print(f"{'':12}" + "".join(f"{column:>16}" for column in columns))
    for rule in sorted({row["format"] for row in rows}):
        print(f"{rule:12}" + "".join(f"{counts[rule, column]:16}" for column in columns))


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    if not path.exists():
        sys.exit(f"there is no {path}; name a file of rows with instruction, input and output")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    measure_code(rows)
    measure_format(rows)


if __name__ == "__main__":
    main()
