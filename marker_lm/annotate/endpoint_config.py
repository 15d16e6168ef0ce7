"""Settings of an endpoint, checked."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from marker_lm.annotate.settings import settings_from


class EndpointError(ValueError):
    """An endpoint that can't be used, or not now; one sentence. What was answered is kept."""


class RefusedError(EndpointError):
    """One request that the endpoint does not want; others may be answered."""


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """Where to ask, how fast, and for how much money.

    url: base of the API, such as 'https://api.openai.com/v1' or 'http://127.0.0.1:8000/v1'
    model: the model's name there
    key_env: environment variable that holds the API key; '' for an endpoint without one
    cache: local file that keeps the answers, for resuming and for the budget; '' for none
    concurrency: requests under way at once
    timeout: seconds for a whole answer, however slowly it trickles in
    attempts: of one request, before the work stops
    backoff: seconds before its second attempt, at most; doubled for each further one, up to 60
    longest_wait: seconds; an endpoint that asks for a longer one (Retry-After) stops the work
    requests_per_minute, tokens_per_minute: 0 for no limit
    price_in, price_out: of a million tokens of requests and of answers
    budget: money for all that is stored in `cache`, in the currency of the prices; 0 for no limit
    body: further fields of every request, such as {'reasoning_effort': 'low'}; None removes one
    """

    url: str = ""
    model: str = ""
    key_env: str = ""
    cache: str = ""
    concurrency: int = 8
    timeout: float = 60.0
    attempts: int = 6
    backoff: float = 1.0
    longest_wait: float = 120.0
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    budget: float = 0.0
    body: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise EndpointError(
                f"endpoint.url is {self.url!r}; give the base of an OpenAI-compatible API, "
                "such as 'http://127.0.0.1:8000/v1'"
            )
        if not self.model:
            raise EndpointError("endpoint.model is empty; name the model to ask")
        if "://" in self.cache:
            raise EndpointError(f"endpoint.cache is {self.cache!r}; it must be a local file")
        for name, least in (("concurrency", 1), ("attempts", 1)):
            if getattr(self, name) < least:
                raise EndpointError(f"endpoint.{name} is {getattr(self, name)}; {least} is least")
        if self.timeout <= 0:
            raise EndpointError(f"endpoint.timeout is {self.timeout}; it must be over 0 seconds")
        for name in ("requests_per_minute", "tokens_per_minute", "price_in", "price_out", "budget"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise EndpointError(f"endpoint.{name} is {value}; it must be 0 or more")
        if self.budget and not (self.price_in or self.price_out):
            raise EndpointError(
                f"endpoint.budget is {self.budget:g}, but both prices are 0; give price_in and "
                "price_out per million tokens"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], section: str = "endpoint") -> "EndpointConfig":
        """From a plain mapping. Raises SettingsError for an unknown key or a value of another type,
        EndpointError for a value that can't be used."""
        return settings_from(cls, config, section)
