"""Rows of a file as requests; of a row that can't be used, the reason.

A row is {"prompt"} or {"messages"}, and may have
  markers: {category: value} to pin
  ban, ask: [category]
  sampling: {temperature, top_k, top_p, repetition_penalty, marker_temperature, max_tokens, seed,
    stop}
  guidance: a weight, or {weight, categories: [category], against: {markers, ban, ask}}
  id: copied to its answer
What it says goes before what holds for all rows, category by category and setting by setting.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from marker_lm.data.example import RowError, short
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.levers import pinned_too, sweep_values
from marker_lm.decoding.request import Request
from marker_lm.decoding.rows import read_rows
from marker_lm.decoding.sampling import Sampling, row_seed
from marker_lm.markers.category import mend

# Category -> what counts it in a text, of all numbers that answers can be held to.
Counters = Mapping[str, Callable[[str], int]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """One row of a job.

    Attributes:
      about: what its line of the output begins with, such as id and prompt.
      request: None where there is none.
      error: why; '' where there is one.
    """

    about: Mapping[str, Any]
    request: Request | None
    error: str = ""

    def said(self) -> list:
        """All that its answer depends on, JSON-able."""
        request = self.request and json.loads(
            json.dumps(dataclasses.asdict(self.request), default=sorted)  # sets have no order
        )
        return [self.about, request, self.error]


def read_requests(path: epath.PathLike, everywhere: Request) -> list[Asked]:
    """All rows of JSONL or Parquet: a file, a glob or a folder.

    Args:
      path: of the rows.
      everywhere: what holds for all rows; its prompt is not looked at. Every row has a seed of its
        own, from that of `everywhere` and the row's number.

    Raises:
      SourceError: there is no such file, or it is empty or damaged.
    """
    asked: list[Asked] = []
    for place, row in read_rows(path, ("prompt",)):
        seed = row_seed(everywhere.sampling.seed, len(asked))
        own = dataclasses.replace(everywhere.sampling, seed=seed)
        asked.append(_asked(row, dataclasses.replace(everywhere, sampling=own), place))
    return asked


def sweep(rows: Sequence[Asked], category: str, engine) -> list[Asked]:
    """Every row once with each value of a category pinned, and its line says so.

    Raises MarkerError where the model does not write it, or its values are no closed set.
    """
    return [
        dataclasses.replace(
            row,
            about={**row.about, "sweep": {category: value}},
            request=row.request and pinned_too(row.request, {category: value}),
        )
        for row in rows
        for value in sweep_values(engine, category)
    ]


def hold(rows: Sequence[Asked], category: str, engine, counters: Counters) -> list[Asked]:
    """The rows with their answers held to the number that they pin, see `lengths.hold`.

    Args:
      rows: of a job. One that does not pin the category, and can't be answered so, gets an error.
      category: of the number.
      engine: that answers.
      counters: of the engine's taxonomy.

    Raises ValueError where the category is not one of these.
    """
    if category not in counters:
        raise ValueError(f"hold={category}: nothing counts that; {mend(category, counters)}")
    engine.measure(category, counters[category])
    return [_held(row, category, engine) for row in rows]


def _held(row: Asked, category: str, engine) -> Asked:
    if row.request is None:
        return row
    try:
        number = engine.check(row.request.controls).pinned.get(category, 0)
        if number < 1:
            raise ValueError(f"hold={category}: it is not pinned to a number over 0.")
    except ValueError as error:
        return Asked(row.about, None, str(error))
    sampling = dataclasses.replace(row.request.sampling, length=number)
    return dataclasses.replace(row, request=dataclasses.replace(row.request, sampling=sampling))


def _asked(row: dict | RowError, everywhere: Request, place: str) -> Asked:
    if isinstance(row, RowError):
        return Asked({}, None, f"{place}: {row}")
    about = {key: row[key] for key in ("id", "prompt") if row.get(key) is not None}
    controls, sampling, guidance = everywhere.controls, everywhere.sampling, everywhere.guidance
    try:
        request = Request(
            row["prompt"],
            _controls(row, controls),
            _sampling(row.get("sampling"), sampling),
            _guidance(row.get("guidance"), guidance, controls.allow_unseen),
        )
    except RowError as error:
        return Asked(about, None, f"{place}: {error}")
    return Asked(about, request)


def _controls(row: Mapping, everywhere: Controls) -> Controls:
    markers = row.get("markers") or {}
    banned, asked = (_names(row, key) for key in ("ban", "ask"))
    others = everywhere.without({*markers, *banned, *asked})
    return dataclasses.replace(
        others,
        pinned={**others.pinned, **markers},
        banned=others.banned | banned,
        asked=others.asked | asked,
    )


def _names(row: Mapping, key: str) -> frozenset[str]:
    names = row.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RowError(f"{key} is {short(names)}, not a list of categories", f"bad {key}")
    return frozenset(names)


_NUMBERS = {
    "temperature": (int, float),
    "top_k": int,
    "top_p": (int, float),
    "repetition_penalty": (int, float),
    "marker_temperature": (int, float),
    "max_tokens": int,
    "seed": int,
}


def _sampling(given: Any, everywhere: Sampling) -> Sampling:
    given = _object(given, "sampling", (*_NUMBERS, "stop"))
    for key, value in given.items():
        if key == "stop":
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise RowError(f"sampling.stop is {short(value)}, not a list of texts", "bad stop")
            given[key] = tuple(texts)
        elif not isinstance(value, _NUMBERS[key]) or isinstance(value, bool):
            kind = "an integer" if _NUMBERS[key] is int else "a number"
            raise RowError(f"sampling.{key} is {short(value)}, not {kind}", "bad sampling")
    try:
        return dataclasses.replace(everywhere, **given)
    except ValueError as error:
        raise RowError(f"sampling: {error}", "bad sampling") from None


def _guidance(given: Any, everywhere: Guidance | None, allow_unseen: bool) -> Guidance | None:
    if given is None:
        return everywhere
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = {"weight": given}
    given = _object(given, "guidance", ("weight", "categories", "against"))
    weight, against = given.get("weight"), given.get("against")
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise RowError(f"guidance.weight is {short(weight)}, not a number", "bad guidance")
    if against is not None:
        against = _object(against, "guidance.against", ("markers", "ban", "ask"))
        against["markers"] = _object(against.get("markers"), "guidance.against.markers")
        against = _controls(against, Controls(allow_unseen=allow_unseen))
    try:
        return Guidance(float(weight), against, _names(given, "categories"))
    except ValueError as error:
        raise RowError(f"guidance: {error}", "bad guidance") from None


def _object(given: Any, name: str, keys: tuple[str, ...] | None = None) -> dict:
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise RowError(f"{name} is {short(given)}, not an object", f"bad {name}")
    for key in given:
        if keys is not None and key not in keys:
            raise RowError(f"{name} has no '{key}'; {mend(key, keys)}", f"bad {name}")
    return dict(given)
