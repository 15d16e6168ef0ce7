import json
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.annotate import format as formats
from marker_lm.annotate.annotator import Annotator
from marker_lm.annotate.settings import SettingsError
from marker_lm.data.atlas import render, rows
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy


def example(completion, prompt="Say it."):
    return Example("1", prompt, completion, {}, {})


def kind(completion, prompt="Say it."):
    """The kind that is sure enough to be marked."""
    found = formats.recognise(prompt, completion)
    return found[0] if found and found[1] >= 0.5 else None


def taxonomy(*values):
    category = {
        "name": "format", "type": "closed", "definition": "Format.", "origin": "computed",
        "describes": "completion", "values": [[value, "A format."] for value in values],
    }  # fmt: skip
    return Taxonomy.from_dict({"name": "test", "categories": [category]})


WORDS = st.text(st.characters(categories=["Lu", "Ll", "Lo"]), min_size=1, max_size=8)
SENTENCES = st.lists(WORDS, min_size=2, max_size=6).map(lambda words: " ".join(words) + ".")


def test_all_rows_of_the_atlas_are_right():
    splits = rows.generate(6000)
    annotator = formats.make({}, load_taxonomy("atlas"))
    counts = Counter()
    for row in (row for split in splits.values() for row in split):
        found = annotator.annotate([example(row["completion"], row["prompt"])])[0]
        assert found["format"].value == row["markers"]["format"], row
        counts[found["format"].value] += 1
    assert set(counts) == set(render.FORMATS)


@settings(max_examples=100, deadline=None)
@given(
    content=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    format=st.sampled_from(list(render.FORMATS)),
)
def test_what_the_atlas_renders_is_recognised(content, format):
    text = render.FORMATS[format](content, "English")
    if format == "Plain" and text.isdecimal():
        return
    assert kind(text) == format


@settings(max_examples=50, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, list | dict)),
    indent=st.sampled_from([None, 2]),
    ascii=st.booleans(),
)
def test_any_json(value, indent, ascii):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert kind(text) == "JSON"
    assert kind(f"```json\n{text}\n```") == "JSON"
    assert kind(text[:-1]) != "JSON"


@settings(max_examples=50, deadline=None)
@given(names=st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1), text=SENTENCES)
def test_any_xml(names, text):
    root = ElementTree.Element(names[0], {"id": text})
    for name in names[1:]:
        ElementTree.SubElement(root, name).text = text
    root.text = text
    document = ElementTree.tostring(root, encoding="unicode")
    assert kind(document) == "XML"
    assert kind(f'<?xml version="1.0" encoding="UTF-8"?>\n{document}') == "XML"
    assert kind(f"{document}\n{document}") == "XML"
    assert kind(document[:-1]) != "XML"


@settings(max_examples=50, deadline=None)
@given(
    items=st.lists(SENTENCES, min_size=2, max_size=6), sign=st.sampled_from(["-", "*", "+", "•"])
)
def test_any_enumeration(items, sign):
    bullets = "\n".join(f"{sign} {item}" for item in items)
    numbers = "\n".join(f"{i}) {item}" for i, item in enumerate(items, 1))
    for text in (bullets, numbers, f"Here:\n\n{bullets}", f"Here:\n\n{numbers}\n\nOk."):
        assert kind(text) == "Enumeration"


@settings(max_examples=50, deadline=None)
@given(title=WORDS, texts=st.lists(SENTENCES, min_size=1, max_size=4))
def test_any_markdown(title, texts):
    body = "\n\n".join(texts)
    for text in (
        f"## {title}\n\n{body}",
        f"{body}\n\n**{title}** {body}",
        f"{body}\n\n```python\nprint(1)\n```\n\n{body}",
        f"{body} See [{title}](https://example.org).",
        f"{body} Use `{title}` or `{title}`.",
    ):
        assert kind(text) == "Markdown"


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(2, 4).flatmap(
        lambda n: st.lists(
            st.lists(WORDS, min_size=n, max_size=n, unique=True), min_size=3, max_size=5
        )
    ),
    sign=st.sampled_from(["\t", ",", ";"]),
)
def test_any_separated_table(rows, sign):
    assert kind("\n".join(sign.join(row) for row in rows)) == "Tabular"


FORMULAS = (
    r"\frac{a}{b}", "x^2 + y^2 = z^2", r"\sum_{i=1}^n i", r"\alpha \le \beta", "a_1",
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(text=SENTENCES, formula=st.sampled_from(FORMULAS))
def test_any_latex(text, formula):
    for left, right in (("$", "$"), ("$$", "$$"), (r"\(", r"\)"), (r"\[", r"\]")):
        assert kind(f"{text} {left}{formula}{right} {text}") == "Latex"
    for name in ("equation", "align*", "tabular"):
        document = f"\\begin{{{name}}}\n{formula}\n\\end{{{name}}}"
        assert kind(document) == "Latex"
        assert kind(document.replace("\\end", "\\begin")) != "Latex"
    assert kind(f"\\section{{A}} {text} \\emph{{b}}") == "Latex"
    assert kind(f"\\documentclass{{article}}\n\\begin{{document}}\n{text}\n\\end{{document}}") == (
        "Latex"
    )


@settings(max_examples=50, deadline=None)
@given(
    options=st.lists(
        WORDS.map(lambda w: f"{w} {w}"), min_size=2, max_size=5, unique_by=str.casefold
    ),
    data=st.data(),
)
def test_any_choice(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    label, text = "ABCDE"[index], options[index]
    lettered = "\n".join(
        f"{name}. {option}" for name, option in zip("ABCDE", options, strict=False)
    )
    inline = " ".join(f"({name}) {option}" for name, option in zip("ABCDE", options, strict=False))
    named = "Options: " + "; ".join(options)
    for prompt in (f"Which?\n{lettered}", f"Which? {inline}"):
        for answer in (
            label,
            f"({label})",
            f"{label}.",
            f"{label}. {text}",
            f"Answer: {label}",
            text,
        ):
            assert kind(answer, prompt) == "MCQAnswer"
    assert kind(text, f"Which?\n{named}") == "MCQAnswer"
    for prompt in (f"Which?\n{lettered}", f"Which?\n{named}", "Which one?"):
        assert kind("No such option.", prompt) == "Plain"
    assert kind(text, "Which one?") == "Plain"
    assert kind("F", f"Which?\n{lettered}") == "Plain"


def test_a_number_is_no_choice_of_a_numbered_step():
    prompt = "Count the apples.\n1. Read the text.\n2. Count.\n3. Answer.\nTom has 2 apples."
    assert kind("2", prompt) == "Plain"
    assert kind("2. Count.", prompt) == "MCQAnswer"


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.integers(1, 999), min_size=2, max_size=5))
def test_any_chain_of_thought(numbers):
    total, lines = 0, []
    for number in numbers:
        lines.append(f"With the next box there are {total} + {number} = {total + number} apples.")
        total += number
    for end in (f"#### {total}", f"So the answer is {total}.", f"Final answer: {total}"):
        assert kind("\n".join([*lines, end])) == "ChainOfThought"
    assert kind(" ".join([*lines, f"Therefore, the answer is {total}."])) == "ChainOfThought"
    assert kind("\n".join(lines)) != "ChainOfThought"
    assert kind(f"The answer is {total}.") == "Plain"
    assert kind(f"#### {total}") == "Markdown"


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.text(alphabet="#*_-`|<>[]{}()$\\^.,:;=\"' \t\n1ab\0\ud800", max_size=80))
def test_any_text_is_taken(text):
    found = formats.recognise(text, text)
    assert found is None or (found[0] in formats.KINDS and 0 < found[1] <= 1)


@settings(max_examples=50, deadline=None)
@given(text=st.lists(SENTENCES, min_size=1, max_size=5).map(" ".join))
def test_running_text_is_plain(text):
    assert kind(text) == "Plain"


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.", "-7", "22. Dezember 2021", "a < b and b > c", "3 * 4 * 5", "A",
        "See, e.g., Smith (2020), Jones, and others.\nThey say so, too.\nThat is it, then.",
        "Set $foo_bar or $baz_1 to 5.", "Use ${foo_bar} and ${baz_1} now.", "They cost $5 or 6$.",
        "He said: no.\nShe said: yes.", "snake_case_name", "50%", "C:\\temp\\new",
    ],
)  # fmt: skip
def test_plain_in_spite_of_signs(text):
    assert kind(text) == "Plain"


@pytest.mark.parametrize(
    "text",
    [
        "- Yes.", "*sighs*", '["a", "b"', "<p>a", "|a|b|\n------\n|c|d|", "**a", "[1]: see",
        "\\begin{equation} x", "text\n---\ntext", "", " \n", "> quoted",
        "Then ```never``` and ```", "x \\end{equation}", "an \\emph{a}",
    ],
)  # fmt: skip
def test_what_may_be_one_or_the_other_is_left_out(text):
    assert kind(text) is None


def test_bare_programs_are_code_and_not_markdown():
    program = (
        "# Sizes of files.\nimport os\n\n\ndef sizes(folder):\n    return os.listdir(folder)\n"
    )
    assert kind(program) == "Code"
    assert kind(f"```python\n{program}```") == "Code"
    assert kind(f"Do this:\n\n```python\n{program}```") == "Markdown"
    paper = formats.make({}, load_taxonomy("paper"))
    assert paper.annotate([example(program)]) == [{}]
    assert paper.annotate([example(f"```python\n{program}```")])[0]["format"].value == "Markdown"


def test_is_an_annotator_that_marks_what_the_taxonomy_has():
    paper = formats.make({}, load_taxonomy("paper"))
    assert isinstance(paper, Annotator)
    assert paper.categories == ("format",)
    assert paper.annotate([example("Just text."), example("[1]")])[0] == {}
    mix = formats.make({"values": {"XML": "markup"}}, taxonomy("json", "markup"))
    found = mix.annotate([example("[1]"), example("<a>b</a>"), example("- a\n- b")])
    assert [each["format"].value for each in found if each] == ["json", "markup"]


def test_threshold():
    careful = formats.make({"threshold": 0.9}, load_taxonomy("paper"))
    assert careful.annotate([example("a\tb\n1\t2\n3\t4"), example("[1]")])[0] == {}
    eager = formats.make({"threshold": 0.2}, load_taxonomy("paper"))
    assert eager.annotate([example("- Yes.")])[0]["format"].value == "Enumeration"


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"value": {}}, SettingsError, "there is no key 'value'; did you mean 'values'"),
        ({"threshold": 7}, SettingsError, "threshold is 7; it must be in 0..1"),
        (
            {"values": {"Json": "JSON"}},
            SettingsError,
            "values has 'Json'; its keys are kinds: JSON",
        ),
        ({"values": {"JSON": "Jason"}}, MarkerError, "format='Jason' is not a value"),
        ({"category": "form"}, MarkerError, "unknown category 'form'"),
    ],
)
def test_bad_config(config, error, message):
    with pytest.raises(error, match=message):
        formats.make(config, load_taxonomy("paper"))


def test_a_taxonomy_without_any_kind():
    with pytest.raises(SettingsError, match="format has none of the values JSON, XML"):
        formats.make({}, taxonomy("poem", "song"))


@pytest.mark.parametrize("part", ["[", ">", "- ", "<a>", "`", "$", "*a ", "{", "\\(", "(A) "])
def test_deep_and_long_texts_are_taken(part):
    assert kind(part * 5000, part * 5000) in (None, "Plain", "Markdown", "Code")
    assert kind("[" * 500 + "]" * 500) == "JSON"
