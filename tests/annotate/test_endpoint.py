"""The endpoint client against a real server that answers well, badly, slowly and not at all."""

import email.utils
import json
import sqlite3
import threading

import pytest

from marker_lm.annotate.endpoint import Endpoint, request_key
from marker_lm.annotate.endpoint_config import EndpointConfig, EndpointError, RefusedError
from marker_lm.annotate.exchange import seconds_to_wait
from marker_lm.annotate.ledger import NANO, BudgetError, LedgerError
from marker_lm.annotate.settings import SettingsError
from tests.annotate.server import DROP, Reply, asked, chat, question, serving

QUICK = {"model": "m", "backoff": 0.01, "timeout": 5.0}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def endpoint(server, **more):
    return Endpoint(EndpointConfig.from_config({"url": server.url, **QUICK, **more}))


def echo(body, _):
    return chat("re: " + asked(body))


def test_answers_come_in_the_order_of_the_questions():
    def slow_first(body, _):
        return chat("re: " + asked(body), seconds=0.2 if asked(body) == "q0" else 0.0)

    with serving(slow_first) as server, endpoint(server) as client:
        texts = [f"q{i % 5}" for i in range(20)]
        answers = client.ask_all([question(text) for text in texts])
        assert [answer.text for answer in answers] == [f"re: {text}" for text in texts]
        assert answers[0].finish == "stop"
        assert sorted(map(asked, server.requests)) == [f"q{i}" for i in range(5)]
        assert client.ask_all([]) == []


def test_the_request_holds_model_fields_of_the_config_and_key(monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_KEY", "sk-very-secret\n")
    more = {"key_env": "TEST_KEY", "body": {"seed": 7, "max_tokens": None}}
    with serving(echo) as server, endpoint(server, cache=str(tmp_path / "a.db"), **more) as client:
        client.ask(question("q", temperature=0.5))
        sent = {"model": "m", "seed": 7, "temperature": 0.5}
        assert server.requests == [{**sent, "messages": question("q")["messages"]}]
        assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
        assert server.headers[0]["Content-Type"] == "application/json"
    for file in tmp_path.iterdir():
        assert b"secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("value", "says"), [(None, "is not set"), ("  ", "is not set"), ("a b", "holds no API key")]
)
def test_without_a_key_nothing_is_sent(monkeypatch, value, says):
    monkeypatch.delenv("TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEST_KEY", value)
    more = {"key_env": "TEST_KEY", "budget": 1.0, "price_in": 1.0}
    with serving(echo) as server, endpoint(server, **more) as client:
        with pytest.raises(EndpointError, match=f"TEST_KEY {says}") as caught:
            client.ask(question("q"))
        assert "a b" not in str(caught.value)
        assert server.requests == [] and client.ledger.totals() == (0, 0)


def test_a_refused_key_stops_at_once_and_is_not_shown(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    body = b'{"error": {"message": "Incorrect API key\n provided: sk-very-secret"}}'
    with serving(lambda *_: Reply(401, body)) as server:
        with endpoint(server, key_env="TEST_KEY") as client:
            with pytest.raises(EndpointError, match="status 401 .*provided: \\*\\*\\*") as caught:
                client.ask(question("q"))
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
        assert len(server.requests) == 1


def test_retry_after_is_kept_by_all_requests():
    def busy(body, number):
        if number == 0:
            return Reply(429, b"slow down", {"Retry-After": "1"})
        return echo(body, number)

    with serving(busy) as server, endpoint(server, concurrency=1) as client:
        answers = client.ask_all([question(text) for text in "ab"])
        assert [answer.text for answer in answers] == ["re: a", "re: b"]
        assert server.times[1] - server.times[0] >= 1.0
        assert len(server.requests) == 3


def test_a_wait_that_is_too_long_stops_the_work():
    with serving(lambda *_: Reply(429, b"daily limit", {"Retry-After": "7200"})) as server:
        with endpoint(server) as client:
            with pytest.raises(EndpointError, match="wait 7200 seconds.*longest_wait=120"):
                client.ask(question("q"))
        assert len(server.requests) == 1


def test_an_empty_account_is_not_waited_for():
    reply = Reply(429, b'{"error": {"code": "insufficient_quota"}}', {"Retry-After": "5"})
    with serving(lambda *_: reply) as server, endpoint(server) as client:
        with pytest.raises(EndpointError, match="insufficient_quota"):
            client.ask(question("q"))
        assert len(server.requests) == 1


def test_retry_after_as_a_date():
    now = 1_700_000_000.0
    assert seconds_to_wait(email.utils.formatdate(now + 30, usegmt=True), now) == 30
    assert seconds_to_wait(email.utils.formatdate(now - 30, usegmt=True), now) == 0
    assert seconds_to_wait("2", now) == 2
    for nothing in (None, "", "soon", "-3", "²"):
        assert seconds_to_wait(nothing, now) == 0


@pytest.mark.parametrize(
    "bad",
    [
        Reply(500, b"oops"),
        Reply(503),
        Reply(200, b"<html>a proxy</html>"),
        Reply(200, b""),
        Reply(200, b'{"choices": []}'),
        Reply(200, b'{"choices": [{"message": {"content": 7}}]}'),
        Reply(200, b"[" * 100_000),
        Reply(200, b'{"choices": null}'),
        DROP,
    ],
)
def test_what_fails_is_tried_again(bad):
    with serving(lambda body, n: bad if n < 2 else echo(body, n)) as server:
        with endpoint(server) as client:
            assert client.ask(question("q")).text == "re: q"
            assert client.sent == len(server.requests) == 3


def test_what_keeps_failing_stops_with_its_reason(tmp_path):
    def only_a(body, number):
        return echo(body, number) if asked(body) == "a" else Reply(502, b"bad\ngateway")

    more = {"attempts": 3, "cache": str(tmp_path / "answers.db")}
    with serving(only_a) as server, endpoint(server, **more) as client:
        client.ask(question("a"))
        with pytest.raises(EndpointError, match="failed 3 times.*502 bad gateway; run again"):
            client.ask_all([question(text) for text in "abc"])
        assert client.ask(question("a")).text == "re: a"
    with serving(echo) as server, endpoint(server, **more) as client:
        client.ask_all([question(text) for text in "abc"])
        assert sorted(map(asked, server.requests)) == ["b", "c"]


def test_nobody_listens():
    with serving(echo) as server:
        pass
    with endpoint(server, attempts=2, budget=1.0, price_in=1.0) as client:
        with pytest.raises(EndpointError, match="failed 2 times.*nobody listens"):
            client.ask(question("q"))
        assert client.ledger.totals() == (0, 0)  # what was never sent costs nothing


@pytest.mark.parametrize(
    "reply", [chat("late", seconds=20.0), Reply(200, b"x" * 100, trickle=0.05)]
)
def test_an_answer_that_does_not_end_is_cut_off(reply):
    with serving(lambda *_: reply) as server, endpoint(server, timeout=0.3, attempts=2) as client:
        with pytest.raises(EndpointError, match="no whole answer in time"):
            client.ask(question("q"))
        assert len(server.requests) == 2


def test_one_refused_request_leaves_the_others():
    def too_long(body, number):
        return Reply(400, b"context too long") if asked(body) == "b" else echo(body, number)

    with serving(too_long) as server, endpoint(server) as client:
        a, b, c = client.ask_all([question(text) for text in "abc"])
        assert (a.text, c.text) == ("re: a", "re: c")
        assert isinstance(b, RefusedError) and "context too long" in str(b)
        with pytest.raises(RefusedError, match="context too long"):
            client.ask(question("b"))
        assert len(server.requests) == 4  # a refusal is not stored


def test_nothing_is_asked_twice_not_even_after_a_restart_or_elsewhere(tmp_path):
    cache = str(tmp_path / "folder" / "answers.db")
    questions = [question(f"q{i}") for i in range(10)]
    with serving(echo) as server, endpoint(server, cache=cache) as client:
        first = client.ask_all(questions)
    with serving(echo) as server, endpoint(server, cache=cache) as client:
        assert client.ask_all(questions) == first
        assert server.requests == [] and client.sent == 0
        client.ask(question("q0", temperature=1.0))
        assert len(server.requests) == 1
    with serving(echo) as server, endpoint(server, cache=cache, model="other") as client:
        client.ask(question("q0"))
        assert len(server.requests) == 1


def test_equal_questions_of_several_callers_are_asked_once():
    with serving(lambda body, n: chat(f"{n}", seconds=0.1)) as server:
        with endpoint(server) as client:
            answers = []
            callers = [
                threading.Thread(target=lambda: answers.append(client.ask(question("q")).text))
                for _ in range(4)
            ]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
        assert answers == ["0"] * 4 and len(server.requests) == 1


def test_requests_are_under_way_at_once_but_not_more_than_allowed():
    with serving(lambda body, n: chat("x", seconds=0.1)) as server:
        with endpoint(server, concurrency=4) as client:
            client.ask_all([question(f"q{i}") for i in range(12)])
        assert server.most == 4


def test_the_rate_of_requests_holds():
    with serving(echo) as server, endpoint(server, requests_per_minute=1200) as client:
        client.ask_all([question(f"q{i}") for i in range(11)])
        # 1200 a minute are one in 50 ms; the two ends are seen by different threads.
        assert server.times[-1] - server.times[0] >= 0.45


def test_the_rate_of_tokens_holds():
    with serving(lambda *_: chat("x", usage=(190, 10))) as server:
        with endpoint(server, tokens_per_minute=60_000, concurrency=2) as client:
            client.ask_all([question(f"q{i}") for i in range(6)])
        assert server.times[-1] - server.times[0] >= 0.9  # 200 tokens are 0.2 s of the minute


def test_the_budget_is_not_passed_and_what_was_paid_for_is_kept(tmp_path):
    cache = str(tmp_path / "answers.db")
    # A request is about 100 bytes: with 100 spare tokens it may cost 220, and costs 60 + 2 * 20.
    money = {"cache": cache, "price_in": 1.0, "price_out": 2.0, "budget": 1500e-6}
    questions = [question(f"q{i:02}") for i in range(40)]
    with serving(lambda *_: chat("x", usage=(60, 20))) as server:
        with endpoint(server, **money) as client:
            with pytest.raises(
                BudgetError, match="of the budget of 0.0015 .*raise endpoint.budget"
            ):
                client.ask_all(questions)
            kept, spent = client.ledger.totals()
            assert spent == kept * 100 * NANO // 10**6 and kept == len(server.requests)
            assert 1200 * 1000 <= spent <= 1500 * 1000
            with pytest.raises(BudgetError):
                client.ask_all(questions)
            assert len(server.requests) == kept
        with endpoint(server, **{**money, "budget": 1.0}) as client:
            client.ask_all(questions)
            assert client.ledger.totals() == (40, 40 * 100 * 1000)
        assert len(server.requests) == 40


def test_an_answer_that_may_have_been_paid_for_counts_against_the_budget():
    money = {"price_in": 1.0, "budget": 1e-3, "attempts": 2}
    with serving(lambda *_: DROP) as server, endpoint(server, **money) as client:
        with pytest.raises(EndpointError, match="broken connection"):
            client.ask(question("q"))
        assert client.ledger.totals()[1] > 2 * 100 * 1000
    with serving(lambda *_: Reply(500)) as server, endpoint(server, **money) as client:
        with pytest.raises(EndpointError):
            client.ask(question("q"))
        assert client.ledger.totals() == (0, 0)


def test_a_budget_needs_an_end_of_answers():
    with serving(echo) as server, endpoint(server, budget=1.0, price_out=1.0) as client:
        with pytest.raises(EndpointError, match="needs requests with max_tokens"):
            client.ask({"messages": []})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"url": "localhost:8000"}, "endpoint.url is 'localhost:8000'.*http://"),
        ({"model": ""}, "endpoint.model is empty"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"price_in": -1}, "price_in is -1"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": 5.0}, "both prices are 0"),
        ({"cache": "gs://x/y"}, "must be a local file"),
    ],
)
def test_bad_settings(config, says):
    with pytest.raises(EndpointError, match=says):
        EndpointConfig.from_config({"url": "http://x", "model": "m", **config})


def test_unknown_settings():
    with pytest.raises(SettingsError, match="judge: there is no key 'modle'; did you mean 'model'"):
        EndpointConfig.from_config({"modle": "x"}, "judge")
    with pytest.raises(SettingsError, match="concurrency is '8', a str"):
        EndpointConfig.from_config({"concurrency": "8"})


def test_a_file_that_is_no_cache_is_left_alone(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("my notes, " * 200)
    with pytest.raises(LedgerError, match="notes.txt can't be used.*name another"):
        Endpoint(EndpointConfig("http://x", "m", cache=str(file)))
    assert file.read_text() == "my notes, " * 200
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE answers (x)")
    with pytest.raises(LedgerError, match="other.db"):
        Endpoint(EndpointConfig("http://x", "m", cache=str(other)))


def test_the_key_of_a_request_does_not_depend_on_the_order_of_fields():
    body = question("é \ud800", temperature=0.0)
    assert request_key(body) == request_key(dict(reversed(body.items())))
    assert request_key(body) != request_key({**body, "temperature": 0.1})
    assert json.loads(json.dumps(body)) == body
