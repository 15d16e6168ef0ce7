"""The program in an answer: fences, whole programs, continuations, stops."""

import pytest

from marker_lm.evaluation.code_answers import cut_body, extract_program, fenced, name_in

PYTHON = "import math\n\ndef helper(x):\n    return x\n\ndef area(r: float) -> float:\n"
JS = "const area = (r) => {\n"
JAVA = "import java.util.*;\n\nclass Solution {\n    public double area(double r) {\n"
CPP = "#include<math.h>\nusing namespace std;\ndouble area(double r){\n"
RUST = "fn main(){}\nuse std::f64::consts::PI;\n\nfn area(r: f64) -> f64 {\n"
GO = "func Area(r float64) float64 {\n"


def program(text, declaration=PYTHON, language="python", name="area"):
    return extract_program(text, declaration, name, language)


def value(text):
    names = {}
    exec(program(text), names)
    return names["area"](2)


@pytest.mark.parametrize(
    "text",
    [
        "\n    return helper(r) * 3\n",
        "    return helper(r) * 3",
        "return helper(r) * 3",  # trimmed
        "x = 3\n    return helper(r) * x",  # only the first line was
        "\n    return helper(r) * 3\n\nprint(area(7) / 0)\n",
        "\n    return helper(r) * 3\n# done\nsome words",
        "```python\n    return helper(r) * 3\n```",
        "```\nx = 3\nreturn helper(r) * x\n```",
        "Here it is:\n\n```python\ndef area(r):\n    return helper(r) * 3\n```\n\nIt multiplies.",
        "Try `area`:\n~~~py\ndef area(r):\n    return helper(r) * 3\n~~~",
        "```python\ndef area(r):\n    return helper(r) * 3",  # cut off by the length limit
        "```sh\npip install x\n```\n```python\ndef area(r):\n    return helper(r) * 3\n```",
        "1. Write\n   ```python\n   def area(r):\n       return helper(r) * 3\n   ```",
        "def area(r):\n    return helper(r) * 3",
        # One that brings its own helper gets no second one over it.
        "```python\ndef area(r):\n    return helper(r) * 3\ndef helper(x):\n    return x\n```",
    ],
)
def test_python_answers(text):
    assert value(text) == 6


def test_a_local_variable_of_the_functions_name_is_no_program():
    body = "  let area = (r + 1) * 2\n  return area\n}"
    assert program(body, JS, "js") == JS + body + "\n"


@pytest.mark.parametrize(
    "declaration, language, body",
    [
        (JS, "js", "  return r\n}"),
        (JAVA, "java", "        return r;\n    }\n}"),
        (CPP, "cpp", "    return r;\n}"),
        (RUST, "rust", "    r\n}"),
    ],
)
def test_a_continuation_ends_with_its_braces(declaration, language, body):
    more = "\n\nmore() {}\n"
    assert program("\n" + body + more, declaration, language) == declaration + body + "\n"
    assert program(f"```\n{body}{more}```", declaration, language) == declaration + body + "\n"


def test_go_continuations_end_at_another_function():
    assert program("    return r\n}\n\nfunc main() {}\n", GO, "go", "Area") == (
        GO + "    return r\n}\n"
    )


def test_java_is_closed_where_a_model_forgot_to():
    assert cut_body("\n  return r;\n  }\n", "java").count("}") == 2
    assert cut_body("\n  return r;", "java").count("}") == 2
    main = "\n  return r;\n  }\n  public static void main(String[] a) { "
    assert "main" not in cut_body(main, "java")


def test_a_whole_program_gets_the_imports_it_lacks():
    java = program("```java\npublic double area(double r) {\n    return r;\n}\n```", JAVA, "java")
    assert java.startswith("import java.util.*;") and java.count("class Solution") == 1
    assert java.count("{") == java.count("}")
    java = program("class Solution {\n    double area(double r) {\n return r; }\n}", JAVA, "java")
    assert java.count("class Solution") == 1 and "import java.util.*;" in java
    rust = program("use std::f64::consts::PI;\nfn area(r: f64) -> f64 { PI * r }", RUST, "rust")
    assert rust.count("use std::f64::consts::PI;") == 1
    cpp = program("double area(double r) {\n return r; }", CPP, "cpp")
    assert cpp.startswith("#include<math.h>\nusing namespace std;\n") and cpp.count("area") == 1


def test_fences():
    assert fenced("no code", "area", "python") is None
    assert fenced("````md\n```\nx\n```\n````", "area", "python") == "```\nx\n```\n"


@pytest.mark.parametrize(
    "signature, name",
    [
        (
            "has_close_elements(numbers: List[float], threshold: float) -> bool",
            "has_close_elements",
        ),
        ("const hasCloseElements = (numbers, threshold)", "hasCloseElements"),
        ("public boolean hasCloseElements(List<Double> numbers)", "hasCloseElements"),
        ("func HasCloseElements(numbers []float64) bool", "HasCloseElements"),
    ],
)
def test_names_in_signatures(signature, name):
    assert name_in(signature) == name


def test_a_signature_without_a_function():
    with pytest.raises(ValueError, match="names no function"):
        name_in("x = 3")
