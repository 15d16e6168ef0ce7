"""HumanEvalPack: prompts, programs in the sandbox, kinds of failure, pass@k."""

import json

import pytest

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmarks import humanevalpack
from marker_lm.evaluation.benchmarks.base import Row
from marker_lm.evaluation.benchmarks.humanevalpack import HumanEvalPack
from marker_lm.evaluation.benchmarks.run import read_items, score_answers
from marker_lm.evaluation.sandbox import SandboxError, check_sandbox
from marker_lm.evaluation.toolchains import MissingToolchain, toolchain
from tests.data.small import shared_data

PATIENT = 6.0  # other tests may run beside these


def pack():
    return shared_data() / "eval" / "humanevalpack.jsonl.gz"


@pytest.fixture
def contained():
    try:
        check_sandbox()
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def needs(language):
    if isinstance(reason := toolchain(language), MissingToolchain):
        pytest.skip(str(reason))


def problem(language="python", **fields):
    row = {
        "task_id": "Python/0",
        "language": language,
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "declaration": "def double(x):\n",
        "canonical_solution": "    return 2 * x\n",
        "buggy_solution": "    return x\n",
        "test": "assert double(2) == 4\n",
        "entry_point": "double",
        "signature": "double(x)",
        "instruction": "Write a Python function `double(x)`.\n",
    }
    return row | fields


def items_of(benchmark, tmp_path, *rows):
    path = tmp_path / "pack.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_items(benchmark, [path])


JS = problem(
    "js",
    task_id="JavaScript/0",
    prompt="// Twice x.\nconst double = (x) => {\n",
    declaration="const double = (x) => {\n",
    canonical_solution="  return 2 * x;\n}\n",
    test="console.assert(double(2) === 4)\n",
    signature="const double = (x)",
)


@pytest.mark.parametrize(
    "task, prompt",
    [
        (
            "synthesize",
            'Write a Python function `double(x)`.\n\ndef double(x):\n    """Twice x."""',
        ),
        (
            "repair",
            "def double(x):\n    return x\n\nassert double(2) == 4\n\nFix bugs in double.\n\n"
            "def double(x):",
        ),
        (
            "repair_docs",
            'def double(x):\n    """Twice x."""\n    return x\n\nFix bugs in double.\n\n'
            'def double(x):\n    """Twice x."""',
        ),
    ],
)
def test_prompts_are_the_official_ones(task, prompt, tmp_path):
    items, bad = items_of(HumanEvalPack(task=task), tmp_path, problem())
    assert [item.prompt for item in items] == [prompt] and not bad
    assert items[0].groups == ["Python"]


def test_translation_goes_from_each_language_to_each_other(tmp_path):
    items, _ = items_of(HumanEvalPack(task="translate"), tmp_path, problem(), JS)
    assert [(item.id, item.groups[0]) for item in items] == [
        ("JavaScript/0 from python", "Python to JavaScript"),
        ("Python/0 from js", "JavaScript to Python"),
    ]
    assert items[0].prompt == (
        "def double(x):\n    return 2 * x\nTranslate this Python code to JavaScript.\n\n"
        "const double = (x) => {"
    )


def test_the_published_file_has_all_problems_and_pairs():
    for task, count in [("synthesize", 6 * 164), ("repair", 6 * 164), ("translate", 30 * 164)]:
        items, bad = read_items(HumanEvalPack(task=task), [pack()])
        assert len(items) == len({item.id for item in items}) == count and not bad
    items, _ = read_items(HumanEvalPack(task="repair", languages=("rust",)), [pack()])
    assert all("fn main(){}" in item.prompt for item in items) and len(items) == 164


def test_a_bad_row_is_counted_and_the_others_are_done(tmp_path):
    row = problem()
    del row["test"]
    for task in ("synthesize", "translate"):
        items, bad = items_of(
            HumanEvalPack(task=task),
            tmp_path,
            problem(task_id="Python/1"),
            problem(task_id="Python/2"),
            JS | {"task_id": "JavaScript/1"},
            row,
            row | {"task_id": "JavaScript/0"},
        )
        assert len(items) == (3 if task == "synthesize" else 2)
        assert len(bad) == 2 and "no text 'test'" in bad[0]


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict(task="repare"), "no task 'repare'"),
        (dict(languages=("perl",)), "no language 'perl'"),
        (dict(k=(0,)), "k has 0"),
        (dict(samples=0), "samples has 0"),
        (dict(slowness=0.0), "slowness is 0.0"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        HumanEvalPack(**settings)


class Echo:
    """An engine that answers with the prompt's beginning and the seed it was given."""

    def generate(self, prompts, controls, sampling):
        assert len(prompts) == len(controls)
        return [Said({"text": f"{prompt[:5]} {sampling.seed}"}) for prompt in prompts]


class Said(dict):
    def to_dict(self):
        return dict(self)


def test_each_sample_of_an_item_is_drawn_with_its_own_seed(tmp_path):
    benchmark = HumanEvalPack(samples=2)
    items, _ = items_of(benchmark, tmp_path, problem(), JS)
    assert [item.id for item in items] == ["Python/0", "JavaScript/0"] * 2
    mixed = [items[0], items[2], items[3]]
    answers = benchmark.answer(Echo(), mixed, [Controls()] * 3, Sampling(seed=5))
    assert [answer["text"][-2:] for answer in answers] == ["10", "11", "11"]
    pairs, _ = items_of(HumanEvalPack(samples=3, task="translate"), tmp_path, problem(), JS)
    assert len(pairs) == 6 and len({item.id for item in pairs}) == 2


def kinds(benchmark, row, answers, tmp_path):
    items, _ = items_of(benchmark, tmp_path, row)
    result = score_answers(benchmark, [(items[0], {"text": text}) for text in answers])
    assert not result.skipped
    return [row.scores["kind"] for row in result.rows]


def test_kinds_of_python_failures(tmp_path, contained):
    answers = {
        "    return 2 * x": "passed",
        "```python\nimport numpy\ndef double(x):\n    return np.add(x, x)\n```": "passed",
        "    return x": "wrong",
        "    raise SystemExit(0)": "wrong",  # ends early, without an error
        "    return 2 * (": "compile error",
        "    return bytearray(10**10)": "out of memory",
        "    import socket\n    socket.create_connection(('1.1.1.1', 80))": "contained: network",
        "    open('/etc/x', 'w')": "contained: files",
    }
    found = kinds(HumanEvalPack(slowness=PATIENT), problem(), answers, tmp_path)
    assert dict(zip(answers, found, strict=True)) == answers
    loop = ["    while True: pass"]
    assert kinds(HumanEvalPack(slowness=0.1), problem(), loop, tmp_path) == ["timed out"]


def test_kinds_of_javascript_failures(tmp_path, contained):
    needs("js")
    answers = {
        "  return 2 * x\n}": "passed",
        "  console.log(x)\n  return 2 * x\n}": "passed",
        "  return x\n}": "wrong",
        "  process.exit(0)\n}": "wrong",
        "  return 2 * )\n}": "compile error",
    }
    found = kinds(HumanEvalPack(slowness=PATIENT), JS, answers, tmp_path)
    assert dict(zip(answers, found, strict=True)) == answers


def test_a_cpp_program_that_does_not_compile(tmp_path, contained):
    needs("cpp")
    row = problem(
        "cpp",
        declaration="int twice(int x){\n",
        signature="int twice(int x)",
        test="#include<assert.h>\nint main(){ assert(twice(2) == 4); }\n",
    )
    answers = {
        "  return 2 * x;\n}": "passed",
        "  return x;\n}": "wrong",
        "  return y;\n}": "compile error",
    }
    row["prompt"] = row["declaration"]
    found = kinds(HumanEvalPack(slowness=PATIENT), row, answers, tmp_path)
    assert dict(zip(answers, found, strict=True)) == answers


def test_what_a_machine_lacks_is_skipped_with_its_reason(tmp_path, contained, monkeypatch):
    missing = MissingToolchain("no Rust here: 'rustc' is not installed")
    monkeypatch.setattr(humanevalpack, "toolchain", lambda language: missing)
    items, _ = items_of(HumanEvalPack(), tmp_path, problem())
    result = score_answers(HumanEvalPack(), [(items[0], {"text": "x"})])
    assert result.skipped == {"no Rust here: 'rustc' is not installed": 1}


def test_no_program_runs_where_it_cannot_be_contained(tmp_path, monkeypatch):
    def refuse():
        raise SandboxError("code can't be contained")

    monkeypatch.setattr(humanevalpack, "check_sandbox", refuse)
    items, _ = items_of(HumanEvalPack(), tmp_path, problem())
    with pytest.raises(SandboxError):
        score_answers(HumanEvalPack(), [(items[0], {"text": "    return 2 * x"})])
    benchmark = HumanEvalPack(unsafe=True, slowness=PATIENT, k=(1,))
    result = score_answers(benchmark, [(items[0], {"text": "    return 2 * x"})])
    assert result.lines[0].metrics["pass@1"].mean == 1
    assert "Programs ran without a sandbox." in result.notes


def test_pass_at_k_is_a_mean_over_problems(tmp_path):
    benchmark = HumanEvalPack(k=(1, 2, 5))
    items, _ = items_of(benchmark, tmp_path, problem(), problem(task_id="Python/1"))
    right = {items[0].id: 1, items[1].id: 4}  # of four samples each
    rows = [
        Row(item, {}, {"passed": float(n < right[item.id]), "kind": "?", "said": ""})
        for item in items
        for n in range(4)
    ]
    metrics = benchmark.lines(rows)[0].metrics
    # Of the six pairs of the first item's samples three hold the right one.
    assert metrics["pass@1"].mean == pytest.approx((1 / 4 + 1) / 2)
    assert metrics["pass@2"].mean == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["pass@2"].n == 2 and "pass@5" not in metrics
    assert any("pass@5 needs 5 samples" in note for note in benchmark.notes(rows))


def solved(benchmark, field, items):
    answers = [(item, {"text": item.facts["problem"][field]}) for item in items]
    return score_answers(benchmark, answers)


@pytest.mark.parametrize("language", ["python", "js", "java", "go", "cpp", "rust"])
def test_a_few_published_solutions(language, contained):
    needs(language)
    benchmark = HumanEvalPack(languages=(language,), slowness=PATIENT, k=(1,))
    items, _ = read_items(benchmark, [pack()])
    chosen = [items[i] for i in (0, 40)]
    assert solved(benchmark, "canonical_solution", chosen).lines[0].metrics["pass@1"].mean == 1
    assert solved(benchmark, "buggy_solution", chosen).lines[0].metrics["pass@1"].mean == 0


@pytest.mark.slow
@pytest.mark.parametrize("language", ["python", "js"])
def test_all_published_solutions_pass_and_all_wrong_ones_fail(language, contained):
    needs(language)
    benchmark = HumanEvalPack(languages=(language,), slowness=PATIENT)
    items, _ = read_items(benchmark, [pack()])
    result = solved(benchmark, "canonical_solution", items)
    assert len(result.rows) == 164 and not result.skipped
    assert [row.item.id for row in result.rows if row.scores["kind"] != "passed"] == []
    benchmark = HumanEvalPack(task="repair", languages=(language,))
    items, _ = read_items(benchmark, [pack()])
    result = solved(benchmark, "buggy_solution", items)
    assert len(result.rows) == 164 and not result.skipped
    assert [row.item.id for row in result.rows if row.scores["kind"] == "passed"] == []
    # Not for want of time or of something of the sandbox.
    assert sum(row.scores["kind"] in ("wrong", "compile error") for row in result.rows) > 150
