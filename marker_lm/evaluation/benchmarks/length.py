"""Length: how far answers are from a limit or a target, in the benchmark's own unit."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from marker_lm.annotate.lengths import UNITS, Counter
from marker_lm.annotate.lengths import Settings as UnitSettings
from marker_lm.data.example import RowError
from marker_lm.evaluation.benchmarks.base import Answer, Benchmark, Item, Row, Skip, text_of
from marker_lm.evaluation.benchmarks.records import Record
from marker_lm.markers.category import mend

ALPACA_EVAL_LI = "words (NLTK)"  # the unit of AlpacaEval-LI
# How AlpacaEval-LI asks (arXiv 2406.17744, section 3.1).
_LIMITED = "Answer the following instruction using {limit} words or less.\n\n{instruction}"
_NEAR = 0.2  # share of the asked length
# Units that measure how long a text is; sentences and paragraphs are other questions.
_OF_TEXT = [unit for unit in UNITS if not unit.startswith(("sentences", "paragraphs"))]


@dataclasses.dataclass(frozen=True)
class Length(Benchmark):
    """Answers under a limit (AlpacaEval-LI: Yuan et al. 2024, arXiv 2406.17744), or of a length.

    A row has a prompt or instruction, and either `max_len` (a limit) or `target` (a length). Given
    several --data files of answers to the same instructions, as AlpacaEval publishes its models',
    the limit of each is its shortest answer and the prompt asks for it; AlpacaEval-LI is made of
    gpt4_1106_preview, claude-3-opus-20240229 and mistral-large-2402.

    Metrics: `violation` (longer than a limit; none for targets), `signed_error` and
    `absolute_error` in the unit, the same as shares of what was asked, and `near`: within 20 % of
    it. Under a limit a short answer is no violation, so read the errors beside it.

    unit: what is counted, as taxonomies name it
    tokenizer: of the unit 'model tokens'
    marker: category that is pinned to the limit or target where a model decodes; '' for none
    """

    unit: str = ALPACA_EVAL_LI
    tokenizer: str = ""
    marker: str = ""

    name = "length"
    percent = (
        "violation",
        "signed_error_share",
        "absolute_error_share",
        "near",
    )

    def __post_init__(self):
        if self.unit not in UNITS:
            raise ValueError(f"length: there is no unit {self.unit!r}; {mend(self.unit, UNITS)}")

    @functools.cached_property
    def _counter(self) -> Counter:
        return UNITS[self.unit](UnitSettings(self.tokenizer))

    def count(self, text: str) -> int:
        """The length of a text in the unit."""
        return self._counter([text])[0]

    def shortest(self, texts: Sequence[str]) -> int:
        """The limit that AlpacaEval-LI makes of published answers: the length of the shortest."""
        return min(self._counter(texts))

    def join(self, files: Sequence[Iterator[Record]]) -> Iterator[Record]:
        """Rows of one file; of several, one row an instruction, with the limit they make."""
        if len(files) == 1:
            yield from files[0]
            return
        answers: dict[str, dict[int, str]] = {}
        places: dict[str, str] = {}
        for number, records in enumerate(files):
            for place, row in records:
                instruction = row.get("instruction") if isinstance(row, Mapping) else None
                if not isinstance(instruction, str) or not isinstance(row.get("output"), str):
                    reason = RowError("the row has no text 'instruction' and 'output'", "no answer")
                    yield place, row if isinstance(row, RowError) else reason
                    continue
                answers.setdefault(instruction, {})[number] = row["output"]
                places.setdefault(instruction, place)
        for instruction, own in answers.items():
            if len(own) < len(files):
                reason = f"only {len(own)} of {len(files)} files answer this instruction"
                yield places[instruction], RowError(reason, "no answer")
                continue
            limit = self.shortest(list(own.values()))
            prompt = _LIMITED.format(limit=limit, instruction=instruction)
            yield places[instruction], {"prompt": prompt, "max_len": limit}

    def items(self, id: str, row: Mapping[str, Any]) -> Iterable[Item]:
        prompt = row.get("prompt", row.get("instruction"))
        if not isinstance(prompt, str):
            raise RowError("the row has no text 'prompt' or 'instruction'", "missing field")
        limit, target = (_number(row, field) for field in ("max_len", "target"))
        if (limit is None) == (target is None):
            raise RowError("the row needs one of 'max_len' and 'target'", "no limit")
        asked = target if limit is None else limit
        pins = {self.marker: asked} if self.marker else {}
        own = {"text": row["output"]} if isinstance(row.get("output"), str) else None
        yield Item(id, prompt, {"max_len": limit, "asked": asked}, pins=pins, answer=own)

    def score_one(self, item: Item, answer: Answer) -> dict[str, float]:
        text = text_of(answer)
        if not text.strip():
            raise Skip("the answer is empty")  # no limit is ever broken by saying nothing
        asked, limit = item.facts["asked"], item.facts["max_len"]
        length = self.count(text)
        error = length - asked
        scores = {} if limit is None else {"violation": float(length > limit)}
        return scores | {
            "length": float(length),
            "signed_error": float(error),
            "absolute_error": float(abs(error)),
            "signed_error_share": error / asked,
            "absolute_error_share": abs(error) / asked,
            "near": float(abs(error) <= _NEAR * asked),
        }

    def notes(self, rows: Sequence[Row]) -> Iterable[str]:
        yield f"Lengths are in {self.unit}."

    def warnings(self, taxonomy, pinned: Mapping[str, Any]) -> Iterable[str]:
        """Marker and benchmark must count the same: numbers copied from one unit to another make
        slack, and slack looks like obedience."""
        numbers = [name for name, value in pinned.items() if isinstance(value, int)]
        if numbers and taxonomy is None:
            yield (
                f"the answers were decoded with {', '.join(numbers)} pinned, in a unit that is not "
                f"known here; give --taxonomy to have it compared with {self.unit}"
            )
        for name in pinned if taxonomy else ():
            category = taxonomy.categories.get(name)
            while category and category.of:  # a bucket has the unit of its number
                category = taxonomy.categories[category.of]
            meant = category and (name == self.marker or category.unit in _OF_TEXT)
            if meant and category.unit != self.unit:
                yield (
                    f"the marker '{name}' counts {category.unit}, but this benchmark counts "
                    f"{self.unit}: a number means another length in each, so neither violations "
                    f"nor errors measure obedience; set unit={category.unit!r}, or train a marker "
                    f"in {self.unit}"
                )


def _number(row: Mapping[str, Any], field: str) -> int | None:
    value = row.get(field)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)  # of a CSV file
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RowError(f"'{field}' is {value!r}, not a whole number over 0", "bad limit")
    return value
