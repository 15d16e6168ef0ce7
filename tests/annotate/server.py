"""A real chat-completions server on 127.0.0.1 that answers as a test says."""

import contextlib
import dataclasses
import http.server
import json
import threading
import time
from typing import Any

DROP = object()  # closes the connection without an answer


@dataclasses.dataclass
class Reply:
    """status, headers and body of a response; `seconds` passes before it, between its bytes too."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    trickle: float = 0.0


def chat(text: str | None, usage=(100, 10), logprobs=None, seconds: float = 0.0) -> Reply:
    """A chat completion with this content."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    if logprobs is not None:
        choice["logprobs"] = {"content": [{"token": t, "logprob": p} for t, p in logprobs]}
    body: dict[str, Any] = {"object": "chat.completion", "choices": [choice]}
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Reply(body=json.dumps(body).encode(), seconds=seconds)


class Server:
    """url: base for the client; requests: decoded bodies; headers, times: of each of them; most:
    how many were there at once."""

    def __init__(self, behave):
        self.behave = behave  # (body, number of requests before this one) -> Reply or DROP
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.handle(self)

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def handle(self, handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            reply = self.behave(body, number)
            if reply is DROP:
                handler.close_connection = True
                return
            time.sleep(reply.seconds)
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(reply.body)))
            handler.end_headers()
            step = 1 if reply.trickle else max(1, len(reply.body))
            for start in range(0, len(reply.body), step):
                handler.wfile.write(reply.body[start : start + step])
                time.sleep(reply.trickle)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client had enough
        finally:
            with self._lock:
                self._now -= 1

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextlib.contextmanager
def serving(behave):
    server = Server(behave)
    try:
        yield server
    finally:
        server.close()


def question(text: str, **more) -> dict:
    """A request body."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 20, **more}


def asked(body: dict) -> str:
    """The text of the last message of a request."""
    return body["messages"][-1]["content"]
