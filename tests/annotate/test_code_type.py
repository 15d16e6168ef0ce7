import gzip
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.annotate import code_type
from marker_lm.annotate.annotator import Annotator
from marker_lm.annotate.settings import SettingsError
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy

ROOT = Path(__file__).resolve().parents[2]
HELDOUT = ROOT.parent / "shared" / "data" / "mix" / "heldout-dev.jsonl.gz"
PAPER = load_taxonomy("paper")

PYTHON = """import os

def sizes(folder):
    \"\"\"The sizes of all files in a folder.\"\"\"
    return {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)}


if __name__ == "__main__":
    print(sizes("."))
"""
GO = """package main

import "fmt"

func add(left int, right int) int {
\treturn left + right
}

func main() {
\tfmt.Println(add(1, 2))
}
"""
SQL = "SELECT name, count(*) FROM people\nWHERE age > 30 GROUP BY name\nORDER BY name;\n"
PROSE = "The library is closed on Sundays (and on holidays), so we went to the park; it was cold."


def example(completion):
    return Example("1", "?", completion, {}, {})


def fenced(label, code):
    return f"```{label}\n{code}```\n"


def found(annotator, completion):
    return {k: v.value for k, v in annotator.annotate([example(completion)])[0].items()}


@pytest.fixture(scope="module")
def labels():
    return code_type.make({}, PAPER)


@pytest.fixture(scope="module")
def detector():
    pytest.importorskip("magika")
    return code_type.make({"detector": "magika"}, PAPER)


def test_is_an_annotator(labels):
    assert isinstance(labels, Annotator)
    assert labels.categories == ("code_type",)


@pytest.mark.parametrize("value", PAPER.category("code_type").values)
def test_every_value_of_the_paper_is_a_label(labels, value):
    assert found(labels, f"Try this:\n\n{fenced(value, 'x')}") == {"code_type": value}


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("py", "python"), ("Python3", "python"), ("js", "javascript"), ("jsx", "javascript"),
        ("c++", "cpp"), ("cc", "cpp"), ("cs", "csharp"), ("C#", "csharp"), ("sh", "shell"),
        ("bash", "shell"), ("zsh", "shell"), ("console", "shell"), ("golang", "go"), ("rs", "rust"),
        ("kt", "kotlin"), ("rb", "ruby"), ("hs", "haskell"), ("ts", "typescript"),
        ("postgresql", "sql"), ("python title=sizes.py", "python"), ("{.python}", "python"),
        ("python:sizes.py", "python"), ("cob", "cobol"),
    ],
)  # fmt: skip
def test_aliases(labels, label, value):
    assert found(labels, fenced(label, "x")) == {"code_type": value}


@pytest.mark.parametrize(
    "text",
    [
        PROSE, PYTHON, fenced("", PYTHON), fenced("scala", "val x = 1\n"), fenced("json", "{}\n"),
        fenced("text", "python\n"), fenced("nonsense", "x\n"), "", "Write ```python in a line.",
        "python", "`python`",
    ],
)  # fmt: skip
def test_without_a_label_of_the_taxonomy_there_is_no_marker(labels, text):
    assert found(labels, text) == {}


def test_the_language_with_most_code_counts(labels):
    text = fenced("python", "x\n" * 9) + fenced("js", "x\n") + fenced("output", "x\n" * 99)
    result = labels.annotate([example(text)])[0]["code_type"]
    assert result.value == "python"
    assert result.confidence == pytest.approx(19 / 22)
    # Mostly in a language that the taxonomy has not.
    assert found(labels, fenced("python", "x\n") + fenced("scala", "x\n" * 9)) == {}
    # No language has half of the code.
    assert found(labels, "".join(fenced(label, "x\n") for label in ("py", "js", "go"))) == {}


def test_fences_in_lists_and_unclosed_ones(labels):
    assert found(labels, "1. Do this:\n\n   ```go\n   x := 1\n   ```\n") == {"code_type": "go"}
    assert found(labels, "~~~ruby\nputs 1") == {"code_type": "ruby"}


def test_values_and_labels_of_the_users_taxonomy():
    values = [[value, "Code."] for value in ("bash", "shell", "html", "Query")]
    category = {
        "name": "code", "type": "closed", "definition": "Code.", "origin": "computed",
        "describes": "completion", "values": values,
    }  # fmt: skip
    taxonomy = Taxonomy.from_dict({"name": "test", "categories": [category]})
    annotator = code_type.make(
        {"category": "code", "labels": {"Query": ["sql", "kusto"]}}, taxonomy
    )
    for label, value in (("bash", "bash"), ("shell", "shell"), ("sh", "bash"), ("html", "html"),
                         ("kusto", "Query"), ("mysql", "Query")):  # fmt: skip
        assert found(annotator, fenced(label, "x")) == {"code": value}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"detecter": "magika"}, "there is no key 'detecter'; did you mean 'detector'"),
        ({"detector": "pygments"}, "detector is 'pygments'; it must be 'magika' or 'none'"),
        ({"threshold": -1.0}, "threshold is -1.0; it must be in 0..1"),
        ({"labels": ["py"]}, "labels is \\['py'\\], a list"),
    ],
)
def test_bad_config(config, message):
    with pytest.raises(SettingsError, match=message):
        code_type.make(config, PAPER)


def test_bad_values():
    with pytest.raises(MarkerError, match="pyton"):
        code_type.make({"labels": {"pyton": "py"}}, PAPER)
    with pytest.raises(MarkerError, match="unknown category 'code'"):
        code_type.make({"category": "code"}, PAPER)


def test_a_missing_detector_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "magika", None)
    with pytest.raises(SettingsError, match=r"install marker-lm\[code\] or set detector to 'none'"):
        code_type.make({"detector": "magika"}, PAPER)


@pytest.mark.extra
@pytest.mark.parametrize(
    ("code", "value"), [(PYTHON, "python"), (GO, "go"), (SQL, "sql")], ids=["python", "go", "sql"]
)
def test_code_without_a_label(detector, code, value):
    for text in (code, fenced("", code), f"{PROSE}\n\n{fenced('', code)}\n{PROSE}\n"):
        result = detector.annotate([example(text)])[0]["code_type"]
        assert result.value == value
        assert 0.5 <= result.confidence <= 1


@pytest.mark.extra
@pytest.mark.parametrize(
    "text",
    [
        PROSE, "Update your browser first.", "let it be", '{"a": [1, 2, 3], "b": {"c": null}}',
        "<list><i>a</i><i>b</i></list>", "|1|2|\n|-|-|\n|a|b|", "2 * 3 + 4 * 5 = 26",
        "\\begin{equation}\n\\frac{1}{2} + \\sqrt{x} = y\n\\end{equation}",
        fenced("", PROSE + "\n"), "name[Strada], eatType[pub], food[French], near[the river]",
        fenced("json", '{"a": 1}\n'), "# Heading\n\n- one (1)\n- two [2]\n- three {3}\n",
    ],
)  # fmt: skip
def test_what_is_no_program_gets_no_marker(detector, text):
    assert found(detector, text) == {}


@pytest.mark.extra
def test_a_label_is_believed_before_the_detector(detector):
    assert detector.annotate([example(fenced("ruby", PYTHON))])[0]["code_type"].value == "ruby"
    assert found(detector, fenced("scala", PYTHON)) == {}


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(alphabet="ab`~\n #{};=().é", max_size=80), min_size=1, max_size=4))
def test_any_text_alone_or_among_others(labels, texts):
    examples = [example(text) for text in texts]
    assert labels.annotate(examples) == [labels.annotate([each])[0] for each in examples]


@pytest.mark.extra
@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=200) | st.text(alphabet="ab(){};=\n\0`", min_size=8, max_size=80))
def test_the_detector_takes_any_text(detector, text):
    first, second = detector.annotate([example(text), example(text)])
    assert first == second
    assert not first or 0.5 <= first["code_type"].confidence <= 1


def exercism_rows():
    if not HELDOUT.exists():
        pytest.skip(f"there is no {HELDOUT}")
    with gzip.open(HELDOUT, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if '"source": "exercism"' in line]
    for row in rows:
        row["code_language"] = {"bash": "shell"}.get(row["code_language"], row["code_language"])
    return rows


def right_and_wrong(annotator, rows, text_of):
    """Share of the paper's languages that is right; how many other rows are marked."""
    values = PAPER.category("code_type").values
    right, others = [], 0
    for row in rows:
        value = found(annotator, text_of(row["output"])).get("code_type")
        if row["code_language"] in values:
            right.append(value == row["code_language"])
        else:
            others += value is not None
    assert len(right) == 80
    return sum(right) / len(right), others


def test_exercism_by_labels(labels):
    assert right_and_wrong(labels, exercism_rows(), lambda text: text) == (1.0, 0)


@pytest.mark.extra
def test_exercism_without_fences(detector):
    def bare(text):
        return "\n".join(line for line in text.split("\n") if not line.startswith("```"))

    share, others = right_and_wrong(detector, exercism_rows(), bare)
    assert share >= 0.9
    assert others <= 2
