"""Rows, a taxonomy and a config of annotation for the tests of this folder."""

from pathlib import Path

from configs import annotate
from marker_lm.annotate.pipeline import annotate_files
from marker_lm.annotate.plan import make_plan
from tests.data.small import write_rows

TAXONOMY = """\
name: made
categories:
  lang:
    type: closed
    definition: The language.
    origin: metadata
    describes: completion
    values:
      en: English
      de: German
      ja: Japanese
  score:
    type: number
    definition: How good the completion is.
    origin: classified
    describes: completion
    unit: points
  score_bucket:
    type: bucket
    definition: Half of the scores of a language.
    origin: computed
    describes: completion
    of: score
    quantiles_per: lang
    values:
      low: The worse half.
      high: The better half.
  words:
    type: integer
    definition: Words of the completion.
    origin: computed
    describes: completion
    unit: words (UAX 29)
  size:
    type: bucket
    definition: Size class of the completion.
    origin: computed
    describes: completion
    of: words
    edges: [3]
    values:
      short: One or two words.
      long: Three words or more.
"""


def make_rows(count: int) -> list[dict]:
    """Rows with fields of many kinds; the language is a field, now and then there is no score."""
    return [
        {
            "id": f"row-{i}",
            "prompt": f"say {i}",
            "completion": " ".join(["ja", "nein", "東京"][: 1 + i % 3]),
            "language": ("English", "German", "Klingon")[i % 7 % 3],
            "rating": None if i % 11 == 0 else round((i * 7919 % 1000) / 100, 2),
            "notes": {"by": "Ann", "list": [1, i, None]},
        }
        for i in range(count)
    ]


def make_config(folder: Path, files, **settings):
    """A config that annotates `files` with the taxonomy above."""
    path = folder / "taxonomy.yaml"
    path.write_text(TAXONOMY, encoding="utf-8")
    c = annotate.get_config().unlock()
    with c.ignore_type():
        c.files = tuple(map(str, files)) if isinstance(files, list | tuple) else str(files)
    c.taxonomy = str(path)
    with c.rows.ignore_type():
        c.rows.markers = {"lang": "language"}
    c.rows.value_maps = {"lang": {"English": "en", "German": "de"}}
    c.annotators = {"lang": ()}
    c.quality.update(field="rating", min_rows=2)
    c.update(shard_rows=100, workers=1)
    c.update(settings)
    return c.lock()


def run(folder: Path, files, name: str = "out", **settings):
    """Annotates and returns (folder of the output, manifest)."""
    plan = make_plan(make_config(folder, files, **settings))
    return folder / name, annotate_files(plan, folder / name)


def write_parquet(path: Path, rows: list[dict], row_group_size: int = 70) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def shards(out: Path) -> dict[str, bytes]:
    """Name -> bytes of every file of rows."""
    return {path.name: path.read_bytes() for path in sorted((out / "rows").iterdir())}


__all__ = ["make_config", "make_rows", "run", "shards", "write_parquet", "write_rows"]
