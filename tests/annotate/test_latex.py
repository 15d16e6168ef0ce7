import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.annotate.latex import Latex, scan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("As $x^2$ grows", Latex(False, 0, 1, 0, 5)),
        ("$$\\frac{a}{b}$$", Latex(False, 0, 1, 0, 15)),
        ("\\(a_1\\) and \\[a_2\\]", Latex(False, 0, 2, 0, 14)),
        ("It costs $5, not $6, but $a_1$ is one", Latex(False, 0, 1, 0, 5)),
        ("One costs $5.\n\nBut $a_1$ is one", Latex(False, 0, 1, 0, 5)),
        ("\\begin{a}\\begin{b*}$x^2$\\end{b*}\\end{a}", Latex(False, 2, 1, 0, 39)),
        ("\\begin{document}x\\end{document}", Latex(True, 1, 0, 0, 31)),
        ("\\documentclass{article}", Latex(True, 0, 0, 1, 0)),
        ("\\section{A} and \\emph{b}", Latex(False, 0, 0, 2, 0)),
    ],
)
def test_what_a_text_has(text, expected):
    assert scan(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "no signs", "$5 and $6", "\\$5_000 and \\$6_000", "$a$", "\\alpha", "C:\\temp",
        "\\begin{a}", "\\end{a}", "\\begin{a}\\begin{b}\\end{a}\\end{b}", "\\[x^2", "\\(x\n\ny\\)",
        "$foo_bar and $baz", "${foo_bar} and ${baz}", "",
    ],
)  # fmt: skip
def test_none_or_broken(text):
    assert scan(text) is None


@given(st.text(alphabet="\\$()[]{}^_ \nabegind", max_size=60))
def test_any_text_is_scanned(text):
    found = scan(text)
    assert found is None or 0 <= found.characters <= len(text)
