"""Asks a judge behind an OpenAI-compatible endpoint, with the client that annotation uses."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.annotate.endpoint import Endpoint
from marker_lm.annotate.endpoint_config import EndpointConfig, RefusedError

UNREADABLE = "the judge's answer can't be read"


def ask_judge(
    endpoint: Mapping[str, Any], questions: Sequence[str], pattern: str, max_tokens: int
) -> list[str | RefusedError | None]:
    """What each of the judge's answers says last of what the pattern's group finds.

    Args:
      endpoint: settings of annotate/endpoint_config.py.
      questions: one user message each.
      pattern: regular expression with one group.
      max_tokens: of a judge's answer.

    Returns:
      The text of the group; None where it isn't found; the error of a request that was refused.

    Raises EndpointError and BudgetError, as Endpoint does.
    """
    config = EndpointConfig.from_config(endpoint)
    bodies = [
        {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0.0,
            "max_tokens": max_tokens,
        }
        for question in questions
    ]
    with Endpoint(config) as client:
        answers = client.ask_all(bodies)
    found: list[str | RefusedError | None] = []
    for answer in answers:
        if isinstance(answer, RefusedError):
            found.append(answer)
        else:
            said = re.findall(pattern, answer.text)
            found.append(said[-1] if said else None)
    return found


def why_none(verdict: str | RefusedError | None) -> str:
    """Why there is no verdict, to be counted under; '' where there is one."""
    if isinstance(verdict, RefusedError):
        return f"the judge refused: {verdict}"
    return UNREADABLE if verdict is None else ""


def same_model(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two endpoints' settings name one model at one address; without an address in one of
    them, the model's name decides."""

    def address(endpoint: Mapping[str, Any]) -> str:
        return str(endpoint.get("url", "")).rstrip("/").casefold().removesuffix("/chat/completions")

    def model(endpoint: Mapping[str, Any]) -> str:
        return str(endpoint.get("model", "")).strip().casefold()

    unknown = not (a.get("url") and b.get("url"))
    return model(a) == model(b) and (unknown or address(a) == address(b))
