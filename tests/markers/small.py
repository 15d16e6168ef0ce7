"""A small taxonomy file for the tests, and its loading."""

from marker_lm.markers.taxonomy import load_taxonomy

SMALL = """\
name: small
categories:
  words:
    type: integer
    definition: Words of the completion.
    origin: computed
    describes: completion
    unit: words
  score:
    type: number
    definition: A score.
    origin: classified
    describes: completion
    unit: points
  lang:
    type: closed
    definition: The language.
    origin: metadata
    describes: completion
    values:
      English: In English.
      'no': In Norwegian.
  size:
    type: bucket
    definition: Size class.
    origin: computed
    describes: completion
    of: words
    edges: [10, 20.5]
    values:
      small: Few words.
      middle: Some words.
      big: Many words.
"""


def load(tmp_path, text, name="own.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_taxonomy(str(path))
