"""A client of any OpenAI-compatible chat-completions endpoint that asks nothing twice."""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from marker_lm.annotate.endpoint_config import EndpointConfig, EndpointError, RefusedError
from marker_lm.annotate.exchange import Exchange, Failure, api_key
from marker_lm.annotate.ledger import NANO, BudgetError, Ledger

_LONGEST_BACKOFF = 60.0  # seconds
_BYTES_PER_TOKEN = 3.0  # a guess for the pace, which the usage of each answer corrects
_SPARE_TOKENS = 100  # that a chat template may add to what a request holds
_LOOK_AGAIN = 0.25  # seconds at most until a waiting request looks again


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the endpoint answered.

    text: content of the first choice; '' where it has none
    logprobs: (token, log-probability) of the content, in order; () where the endpoint gives none
    finish: its finish reason, such as 'stop' or 'length'
    """

    text: str
    logprobs: tuple[tuple[str, float], ...] = ()
    finish: str = ""


class _Stopped(Exception):
    """Another request of the same call failed for good."""


class Endpoint:
    """Asks chat-completion requests: stored answers first, the rest over HTTP in threads.

    Holds threads and an open file: each process makes its own, and closes it (or uses it as a
    context manager). Its methods may be called from several threads.
    """

    def __init__(self, config: EndpointConfig):
        self.config = config
        self.sent = 0  # requests over HTTP, repeated ones too
        self.ledger = Ledger(
            config.cache,
            config.requests_per_minute,
            config.tokens_per_minute,
            round(config.budget * NANO),
        )
        self._exchange = Exchange(config)
        self._threads = concurrent.futures.ThreadPoolExecutor(config.concurrency)
        self._changed = threading.Condition()  # guards what follows
        self._asked: set[str] = set()  # keys of requests that a thread is busy with
        self._open = 0  # requests at the endpoint now
        self._not_before = 0.0  # monotonic time that a Retry-After asks for
        self._jitter = random.Random()

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown()
        self.ledger.close()

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """The answer to one request; raises what `ask_all` does, and RefusedError."""
        (answer,) = self.ask_all([body])
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    def ask_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[Answer | RefusedError]:
        """The answers to requests, in their order; equal ones are asked once.

        bodies: JSON-able fields of chat-completions requests ('messages' and what else they need);
          the model and endpoint.body are added.
        Raises EndpointError when the endpoint can't be reached, fails too often or refuses the key,
        and BudgetError before the budget is passed. Answers that came until then are stored.
        """
        requests = [{**body, "model": self.config.model, **self.config.body} for body in bodies]
        requests = [{k: v for k, v in body.items() if v is not None} for body in requests]
        keys = [request_key(body) for body in requests]
        stop = threading.Event()
        futures: dict[str, concurrent.futures.Future] = {}
        try:
            for key, body in zip(keys, requests, strict=True):
                if key not in futures:
                    futures[key] = self._threads.submit(self._answer, key, body, stop)
            concurrent.futures.wait(
                futures.values(), return_when=concurrent.futures.FIRST_EXCEPTION
            )
        finally:
            # After an error nothing more is sent, but what is under way is awaited and stored.
            stop.set()
            for future in futures.values():
                future.cancel()
            concurrent.futures.wait(futures.values())
        errors = [f.exception() for f in futures.values() if not f.cancelled() and f.exception()]
        for error in sorted(errors, key=lambda error: isinstance(error, _Stopped)):
            raise error
        return [futures[key].result() for key in keys]

    def _answer(self, key: str, body: Mapping[str, Any], stop) -> Answer | RefusedError:
        with self._changed:
            while key in self._asked:  # by another caller
                self._changed.wait()
            self._asked.add(key)
        try:
            stored = self.ledger.get(key)
            return self._fetch(key, body, stop) if stored is None else _answer(stored)
        except RefusedError as refusal:
            return refusal
        finally:
            with self._changed:
                self._asked.discard(key)
                self._changed.notify_all()

    def _fetch(self, key: str, body: Mapping[str, Any], stop) -> Answer:
        """Sends a request until it is answered."""
        config = self.config
        tokens_out = most_tokens(body)
        if config.budget and not tokens_out:
            raise EndpointError(
                "endpoint.budget needs requests with max_tokens or max_completion_tokens, since "
                "an answer without a limit may cost anything"
            )
        api_key(config.key_env)  # when it is missing, nothing is reserved
        data = json.dumps(body).encode("ascii")
        for attempt in range(1, config.attempts + 1):
            result = self._try(key, data, tokens_out, stop)
            if isinstance(result, Answer):
                return result
            if result.refused:
                raise RefusedError(f"{config.url} refuses a request: {result.reason}")
            if result.final:
                raise EndpointError(f"{config.url} does not answer: {result.reason}")
            if result.retry_after > config.longest_wait:
                raise EndpointError(
                    f"{config.url} asks to wait {result.retry_after:.0f} seconds, more than "
                    f"endpoint.longest_wait={config.longest_wait:g} ({result.reason}); run again "
                    "later, what was answered is kept"
                )
            if attempt < config.attempts:
                backoff = min(config.backoff * 2 ** (attempt - 1), _LONGEST_BACKOFF)
                jitter = self._jitter.uniform(0.5, 1.0)
                if stop.wait(result.retry_after + backoff * jitter):
                    raise _Stopped()
        raise EndpointError(
            f"{config.url} failed {config.attempts} times for one request, the last time with: "
            f"{result.reason}; run again when it is well, what was answered is kept"
        )

    def _try(self, key: str, data: bytes, tokens_out: int, stop) -> Answer | Failure:
        """Sends a request once, with its cost reserved before and corrected after."""
        tokens = len(data) / _BYTES_PER_TOKEN + tokens_out
        # No tokenizer makes more tokens than there are bytes.
        cost = self._cost(len(data) + _SPARE_TOKENS, tokens_out)
        self._admit(tokens, cost, stop)
        try:
            result = self._exchange.send(data, api_key(self.config.key_env))
            if isinstance(result, Failure):
                if not result.charged:
                    self.ledger.correct(-tokens, -cost)
                self._hold_all(result.retry_after)
                return result
            usage = result.pop("usage")
            more = (sum(usage) - tokens, self._cost(*usage) - cost) if usage else (0, 0)
            return _answer(self.ledger.store(key, result, *more))
        finally:
            with self._changed:
                self._open -= 1

    def _admit(self, tokens: float, cost: int, stop) -> None:
        """Returns when the request may be sent; from then on it counts as open."""
        while not stop.is_set():
            with self._changed:
                wait = self._not_before - time.monotonic()
                if wait <= 0:
                    try:
                        wait = self.ledger.admit(tokens, cost)
                    except BudgetError as error:
                        # Open requests stand reserved at their bounds, and will cost less.
                        if not self._open:
                            raise self._out_of_money(error) from None
                        wait = _LOOK_AGAIN
                if wait <= 0:
                    self._open += 1
                    self.sent += 1
                    return
            stop.wait(min(wait, _LOOK_AGAIN))
        raise _Stopped()

    def _hold_all(self, seconds: float) -> None:
        """A Retry-After is meant for all requests, not only for the one that heard it."""
        with self._changed:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _cost(self, tokens_in: int, tokens_out: int) -> int:
        """In billionths of the currency, rounded up."""
        millions = tokens_in * self.config.price_in + tokens_out * self.config.price_out
        return math.ceil(millions * NANO / 1_000_000)

    def _out_of_money(self, error: BudgetError) -> BudgetError:
        return BudgetError(
            f"{error}; raise endpoint.budget to go on ({self.ledger.totals()[0]} answers are kept "
            f"in {self.config.cache or 'memory'} and will not be asked again)"
        )


def request_key(body: Mapping[str, Any]) -> str:
    """SHA-256 of what is asked of which model; where it is asked does not count."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def most_tokens(body: Mapping[str, Any]) -> int:
    """How long an answer may get at most."""
    return int(body.get("max_completion_tokens") or body.get("max_tokens") or 0)


def _answer(stored: Mapping[str, Any]) -> Answer:
    logprobs = tuple((token, logprob) for token, logprob in stored["logprobs"])
    return Answer(stored["text"], logprobs, stored["finish"])
