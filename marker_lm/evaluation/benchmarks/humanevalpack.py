"""HumanEvalPack: programs in six languages, run against their tests in a sandbox."""

import dataclasses
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from marker_lm.data.example import RowError
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.engine import Engine
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmarks.base import (
    Answer,
    Benchmark,
    Item,
    Line,
    Row,
    Scores,
    Skip,
    by_group,
    text_of,
)
from marker_lm.evaluation.benchmarks.humanevalpack_rows import (
    TASKS,
    check_row,
    code_to_go_on,
    language_pairs,
    prompt,
)
from marker_lm.evaluation.benchmarks.records import Record
from marker_lm.evaluation.checked_programs import checked_program
from marker_lm.evaluation.code_answers import LANGUAGE_NAMES, LANGUAGES, extract_program, name_in
from marker_lm.evaluation.pass_at_k import pass_at_k
from marker_lm.evaluation.sandbox import (
    Limits,
    Outcome,
    SandboxError,
    check_sandbox,
    run_sandboxed,
)
from marker_lm.evaluation.statistics import mean_interval
from marker_lm.evaluation.toolchains import MissingToolchain, has_header, toolchain
from marker_lm.markers.category import mend
from marker_lm.progress import Progress

# Wall time that compiling and running may take each, in seconds: the official harness's.
SECONDS = {"python": 10, "js": 10, "java": 10, "go": 20, "cpp": 60, "rust": 300}


@dataclasses.dataclass(frozen=True)
class HumanEvalPack(Benchmark):
    """HumanEvalPack (Muennighoff et al. 2023, arXiv 2308.07124): pass@k per language.

    The data is the published humanevalpack.jsonl. Prompts are the official 'instruct' ones: what is
    given, what is asked, a blank line and the code to go on from. 'synthesize' asks for a function
    by its description; 'repair' gives a wrong one and its tests (HumanEvalFixTests), 'repair_docs'
    a wrong one and its description; 'translate' gives a right one in another language, for all
    ordered pairs of the languages that the data has. Each answer to an item is one sample; pass@k
    needs k and more, drawn at a temperature (OctoPack: 20 at 0.2).

    task: 'synthesize', 'repair', 'repair_docs' or 'translate'
    languages: those to answer in, of python, js, java, go, cpp and rust
    samples: answers that a model gives to each item
    k: of pass@k; those with fewer samples for some item are left out
    workers: programs that run side by side; 0 is one a core
    slowness: factor on the time that a program may take, over 1 for a slow or busy machine
    memory_mib: memory that a program may use, in MiB
    unsafe: run programs without a sandbox, where the machine has none: only in one to throw away
    """

    task: str = "synthesize"
    languages: tuple[str, ...] = LANGUAGES
    samples: int = 1
    k: tuple[int, ...] = (1, 10)
    workers: int = 0
    slowness: float = 1.0
    memory_mib: int = 2048
    unsafe: bool = False

    name = "humanevalpack"

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(
                f"humanevalpack: there is no task {self.task!r}; {mend(self.task, TASKS)}"
            )
        for language in self.languages:
            if language not in LANGUAGES:
                raise ValueError(
                    f"humanevalpack: there is no language {language!r}; {mend(language, LANGUAGES)}"
                )
        for setting, values in (("k", self.k), ("samples", (self.samples,))):
            for value in values:
                if not isinstance(value, int) or value < 1:
                    raise ValueError(
                        f"humanevalpack: {setting} has {value!r}, not a whole number over 0."
                    )
        if self.slowness <= 0:
            raise ValueError(f"humanevalpack: slowness is {self.slowness}; it must be over 0.")

    def join(self, files: Sequence[Iterator[Record]]) -> Iterator[Record]:
        """The rows; of 'translate' one for each ordered pair of languages of a problem. For several
        samples all rows come as often, one round after the other."""
        rows = list(super().join(files))
        rows = list(language_pairs(rows)) if self.task == "translate" else rows
        yield from rows
        good = [(place, row) for place, row in rows if not isinstance(row, RowError)]
        for sample in range(1, self.samples):
            yield from ((place, {**row, "sample": sample}) for place, row in good)

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        check_row(row)
        if "source" in row:
            check_row(row["source"])
        language = row["language"]
        if language not in self.languages:
            return
        name = LANGUAGE_NAMES[language]
        groups = [name]
        if "source" in row:
            id += f" from {row['source']['language']}"
            source = LANGUAGE_NAMES[row["source"]["language"]]
            groups = [f"{source} to {name}", f"to {name}", f"from {source}"]
        yield Item(id, prompt(self.task, row), {"problem": row}, groups)

    def answer(
        self,
        engine: Engine,
        items: Sequence[Item],
        controls: Sequence[Controls],
        sampling: Sampling,
    ) -> list[Answer]:
        """A model's answers; each sample of an item is drawn with a seed of its own."""
        rounds: dict[int, list[int]] = {}
        for i, item in enumerate(items):
            rounds.setdefault(item.facts["problem"].get("sample", 0), []).append(i)
        found: list[Answer] = [{}] * len(items)
        for sample, chosen in rounds.items():
            own = dataclasses.replace(sampling, seed=sampling.seed * self.samples + sample)
            asked = [items[i] for i in chosen], [controls[i] for i in chosen]
            for i, answer in zip(chosen, super().answer(engine, *asked, own), strict=True):
                found[i] = answer
        return found

    def score(self, pairs: Sequence[tuple[Item, Answer]]) -> list[Scores | Skip]:
        """Runs the programs side by side, each in a sandbox of its own.

        Raises SandboxError where this machine can't contain them, unless told to be unsafe.
        """
        if not self.unsafe:
            check_sandbox()
        found: list[Scores | Skip] = [{}] * len(pairs)
        # Threads do: each waits for a process of its own.
        workers = self.workers or len(os.sched_getaffinity(0))
        with (
            ThreadPoolExecutor(workers) as pool,
            Progress(f"run {self.name}", len(pairs)) as progress,
        ):
            futures = {pool.submit(self._score, *pair): i for i, pair in enumerate(pairs)}
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    found[futures[future]] = future.result()
                    progress.update(done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return found

    def _score(self, item: Item, answer: Answer) -> Scores | Skip:
        try:
            return self.score_one(item, answer)
        except Skip as skip:
            return skip

    def score_one(self, item: Item, answer: Answer) -> Scores:
        """'passed' (1 or 0), 'kind' (passed, wrong, compile error, timed out, out of memory or
        contained: what) and 'said': the end of what the program or compiler had to say."""
        problem = item.facts["problem"]
        code = extract_program(
            text_of(answer), code_to_go_on(self.task, problem), _name(problem), problem["language"]
        )
        kind, said = self.run(problem, code)
        return {"passed": float(kind == "passed"), "kind": kind, "said": said[-400:]}

    def run(self, problem: Mapping[str, Any], code: str) -> tuple[str, str]:
        """Runs a whole program against a problem's tests: its kind and what it said.

        Raises Skip where the machine lacks what the language needs.
        """
        language = problem["language"]
        tools = toolchain(language)
        if isinstance(tools, MissingToolchain):
            raise Skip(str(tools))
        for header in _LIBRARIES.findall(problem["declaration"]) if language == "cpp" else ():
            if not has_header(header):
                raise Skip(f"no {header} here, which some C++ programs include")
        end = secrets.token_hex(8)  # printed after the tests: a program that ends early is wrong
        try:
            outcomes = run_sandboxed(
                {tools.file: checked_program(problem, code, end), **tools.extra},
                tools.steps(SECONDS[language] * self.slowness),
                Limits(memory_mib=self.memory_mib),
                tools.mounts,
                tools.env,
                self.unsafe,
            )
        except SandboxError as error:  # of this program alone, such as one larger than its folder
            raise Skip(str(error)) from None
        kind = _kind(outcomes, language, bool(tools.compile), end)
        return kind, outcomes[-1].stderr or outcomes[-1].stdout

    def lines(self, rows: Sequence[Row]) -> list[Line]:
        """pass@k over items, with intervals over items."""
        return [Line(group, self._metrics(chosen)) for group, chosen in by_group(rows).items()]

    def _metrics(self, rows: Sequence[Row]) -> dict[str, Any]:
        samples: dict[str, list[float]] = {}
        for row in rows:
            samples.setdefault(row.item.id, []).append(row.scores["passed"])
        metrics = {}
        for k in self.k:
            if all(len(own) >= k for own in samples.values()):
                metrics[f"pass@{k}"] = mean_interval(
                    [pass_at_k(len(own), int(sum(own)), k) for own in samples.values()]
                )
        return metrics

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        scored = [row for row in rows if not row.skipped]
        kinds = Counter(row.scores["kind"] for row in scored)
        if kinds:
            counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
            yield f"Of {len(scored)} programs: {counts}."
        samples = Counter(row.item.id for row in scored)
        few = min(samples.values(), default=0)
        for k in self.k:
            if few and k > few:
                yield f"pass@{k} needs {k} samples of each item, and one has {few}."
        if self.unsafe:
            yield "Programs ran without a sandbox."


def _name(row: Mapping[str, Any]) -> str:
    """The function's name: some rows have another in 'entry_point' than in their code."""
    return name_in(row["signature"])


_LIBRARIES = re.compile(r"#\s*include\s*<((?:boost|openssl)/[\w./]+)>")
_SYNTAX = {
    "python": r"^(?:SyntaxError|IndentationError|TabError): ",
    "js": r"^SyntaxError: ",
}


def _kind(outcomes: Sequence[Outcome], language: str, compiled: bool, end: str) -> str:
    last = outcomes[-1]
    if last.kind == "contained":
        return f"contained: {last.which}"
    if last.kind in ("timed out", "out of memory"):
        return last.kind
    if last.kind == "failed":
        if compiled and len(outcomes) == 1:
            return "compile error"
        syntax = language in _SYNTAX and re.search(_SYNTAX[language], last.stderr, re.M)
        return "compile error" if syntax else "wrong"
    if language in ("python", "js") and end not in last.stdout:
        return "wrong"
    # console.assert says what failed and goes on.
    return "wrong" if language == "js" and "Assertion failed" in last.stderr else "passed"
