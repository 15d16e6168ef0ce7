import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate.prose import LOOKED_AT, count_letters, prose


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Just text, so it stays.", "Just text, so it stays."),
        ("Before\n```python\nx = 1\n```\nafter", "Before after"),
        ("Before\n~~~\nx = 1\nnever closed", "Before"),
        ("Run `make all` or ``a`` now", "Run or now"),
        ('{"key": "Wert", "n": 3, "l": ["eins", null, true]}', "Wert eins"),
        ('{"key": "Wert", "cut": "of', '"Wert", "of'),
        ('["\\u0434\\u0430"]', "да"),
        ("<p class='x'>Eins &amp; zwei<!-- three --></p>", "Eins & zwei"),
        (
            "See https://example.org/a?b=c or www.example.org, or me@example.org now",
            "See or or now",
        ),
        ("Let $x^2 + y$ be \\frac{a}{b} and $$z$$ so", "Let be and so"),
        ("It costs $5 and $6 more", "It costs $5 and $6 more"),
        ("call foo_bar() with --quiet and /usr/local/bin here", "call with and here"),
        ("и/или and/or well-known -- yes", "и/или and/or well-known -- yes"),
        ("", ""),
    ],
)
def test_what_is_left(text, expected):
    assert prose(text) == expected


@given(st.text())
def test_any_text(text):
    assert len(prose(text)) <= LOOKED_AT


def test_letters():
    assert count_letters("a1_é 日", 9) == 3
    assert count_letters("abcdef", 2) == 2
    assert count_letters("123 _ ?!", 1) == 0
