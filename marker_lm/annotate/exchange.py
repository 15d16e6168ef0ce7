"""One request to a chat-completions endpoint over HTTP: what comes back, or what went wrong."""

import dataclasses
import datetime
import email.utils
import json
import os
import threading
import time
from typing import Any

import requests
import urllib3

from marker_lm.annotate.endpoint_config import EndpointConfig, EndpointError

_REFUSED = (400, 413, 422)  # about this one request: too long, against a filter, unknown fields
_AGAIN = (408, 409, 425, 429)  # and 500 and above: worth trying again
_NO_MONEY = "insufficient_quota"  # comes as 429, but waiting does not help
_CONNECT_SECONDS = 10.0
_PIECE = 1 << 16
_MOST_BYTES = 16_000_000
_EXCERPT = 200


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a request got no answer.

    reason: for people
    refused: the endpoint does not want this one request
    final: no request will be answered until somebody mends something
    charged: the endpoint may have answered all the same, and count it
    retry_after: seconds that the endpoint asks to wait, 0 where it does not
    """

    reason: str
    refused: bool = False
    final: bool = False
    charged: bool = False
    retry_after: float = 0.0


class Exchange:
    """Sends requests, from any number of threads; each has a connection of its own."""

    def __init__(self, config: EndpointConfig):
        self.config = config
        self._url = config.url.rstrip("/") + "/chat/completions"
        self._local = threading.local()

    def send(self, data: bytes, key: str) -> dict[str, Any] | Failure:
        """{text, logprobs, finish, usage} of the first choice, or a Failure.

        usage is [tokens of the request, of the answer], None where the endpoint does not say.
        """
        try:
            status, headers, content = self._post(data, key)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return Failure(
                _hide(_why(error), key),
                final=isinstance(error, requests.exceptions.InvalidURL),
                charged=not _never_sent(error),
            )
        if status == 200:
            return read_answer(content) or Failure(
                f"status 200, but no chat completion: {excerpt(content, key)}", charged=True
            )
        reason = f"status {status} {excerpt(content, key)}".rstrip()
        again = (status in _AGAIN or status >= 500) and _NO_MONEY.encode() not in content
        return Failure(
            reason,
            refused=status in _REFUSED,
            final=not again,
            retry_after=seconds_to_wait(headers.get("Retry-After"), time.time()) if again else 0.0,
        )

    def _post(self, data: bytes, key: str) -> tuple[int, Any, bytes]:
        deadline = time.monotonic() + self.config.timeout
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()

        def sign(request):  # as a function, since else a .netrc file may replace the key
            if key:
                request.headers["Authorization"] = f"Bearer {key}"
            return request

        with self._local.session.post(
            self._url,
            data=data,
            headers={"Content-Type": "application/json"},
            auth=sign,
            timeout=(min(_CONNECT_SECONDS, self.config.timeout), self.config.timeout),
            stream=True,
            allow_redirects=False,
        ) as response:
            pieces, size = [], 0
            # requests' time-out is for each piece: an answer that trickles in would never end.
            while piece := response.raw.read1(_PIECE, decode_content=True):
                pieces.append(piece)
                size += len(piece)
                if time.monotonic() > deadline:
                    raise requests.ReadTimeout()
                if size > _MOST_BYTES:
                    raise requests.RequestException(f"it answered more than {_MOST_BYTES} bytes")
            return response.status_code, response.headers, b"".join(pieces)


def api_key(variable: str) -> str:
    """The key that an environment variable holds, '' for none.

    Raises EndpointError, which never shows the key.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(
            f"the environment variable {variable} is not set; put the endpoint's API key there, "
            "or set endpoint.key_env='' for an endpoint without one"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(
            f"the environment variable {variable} holds no API key: there are blanks or characters "
            "in it that an HTTP header can't have"
        )
    return key


def read_answer(content: bytes) -> dict[str, Any] | None:
    """The parts of a chat completion that count; None when it is none."""
    try:
        response = json.loads(content)
        choice = response["choices"][0]
        text = choice["message"].get("content") or ""
        logprobs = [
            (str(one["token"]), float(one["logprob"]))
            for one in (choice.get("logprobs") or {}).get("content") or ()
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(text, str):
        return None
    usage = response.get("usage")
    counts = [
        usage.get(name) if isinstance(usage, dict) else None
        for name in ("prompt_tokens", "completion_tokens")
    ]
    return {
        "text": text,
        "logprobs": logprobs,
        "finish": str(choice.get("finish_reason") or ""),
        "usage": counts if all(type(n) is int and n >= 0 for n in counts) else None,
    }


def seconds_to_wait(header: str | None, now: float) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 for none."""
    if not header:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        due = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    if due.tzinfo is None:
        due = due.replace(tzinfo=datetime.UTC)
    return max(0.0, due.timestamp() - now)


def excerpt(content: bytes, key: str) -> str:
    """The start of a response in one line, without the key that some endpoints repeat."""
    text = _hide(" ".join(content.decode("utf-8", "replace").split()), key)
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."


def _hide(text: str, key: str) -> str:
    return text.replace(key, "***") if key else text


def _why(error: Exception) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no whole answer in time (endpoint.timeout)"
    if _never_sent(error):
        return "no connection; nobody listens there or the name is not known"
    return f"a broken connection ({type(error).__name__}: {error})"[:_EXCERPT]


def _never_sent(error: Exception) -> bool:
    """Whether the connection could not even be made."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    inner = error.args[0] if isinstance(error, requests.ConnectionError) and error.args else None
    return isinstance(getattr(inner, "reason", None), urllib3.exceptions.NewConnectionError)
