"""Rows for the tests of this folder."""

import random

from marker_lm.annotate.tally import Row

WORDS = [
    "".join(random.Random(i).choices("abcdefghijklmnoprstuvw", k=random.Random(i).randint(3, 9)))
    for i in range(3000)
]


def row(id, prompt="say yes", completion="yes", info=None, **markers):
    return Row(id, prompt, completion, markers, info)


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words))


def changed(draw: random.Random, words: str, count: int) -> str:
    """The text with `count` of its words replaced."""
    parts = words.split()
    for place in draw.sample(range(len(parts)), count):
        parts[place] = draw.choice(WORDS)
    return " ".join(parts)
