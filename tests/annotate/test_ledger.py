"""The file of answers: shared by processes, never over its limits, and whole after a kill."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.annotate.ledger import BudgetError, Ledger

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_answer_stands(tmp_path):
    one, other = Ledger(str(tmp_path / "a.db")), Ledger(str(tmp_path / "a.db"))
    assert one.get("k") is None
    assert one.store("k", {"text": "é\n"}) == {"text": "é\n"}
    assert other.store("k", {"text": "other"}) == {"text": "é\n"}
    assert other.get("k") == one.get("k") == {"text": "é\n"}
    one.close(), other.close()
    assert Ledger(str(tmp_path / "a.db")).totals() == (1, 0)


@settings(deadline=None, max_examples=30)
@given(
    budget=st.integers(1, 100),
    costs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=20),
)
def test_spent_and_reserved_money_never_passes_the_budget(budget, costs):
    ledger, spent = Ledger(budget=budget), 0
    for bound, more in costs:
        true = min(bound, more)
        try:
            assert ledger.admit(0, bound) == 0
        except BudgetError:
            assert spent + bound > budget
            continue
        assert ledger.totals()[1] <= budget
        ledger.correct(0, true - bound)
        spent += true
        assert ledger.totals()[1] == spent


def test_the_pace_is_even_and_follows_the_tokens_that_were_used():
    ledger = Ledger(requests_per_minute=60)
    assert ledger.admit(0, 0) == 0
    assert 0.5 < ledger.admit(0, 0) <= 1.0
    ledger = Ledger(tokens_per_minute=600)
    assert ledger.admit(100, 0) == 0
    assert 9.0 < ledger.admit(1, 0) <= 10.0
    ledger.correct(-80, 0)
    assert 1.0 < ledger.admit(1, 0) <= 2.0
    ledger.correct(-20, 0)
    assert ledger.admit(1, 0) == 0


def test_a_pace_that_was_left_behind_does_not_hold_up_for_long(tmp_path):
    path = str(tmp_path / "a.db")
    ledger = Ledger(path, tokens_per_minute=60)
    ledger.admit(100_000, 0)
    assert ledger.admit(1, 0) > 90_000
    ledger.close()
    assert Ledger(path, tokens_per_minute=60).admit(1, 0) <= 60


def spend(path):
    ledger, admitted = Ledger(path, budget=100), 0
    for i in range(100):
        try:
            ledger.admit(0, 1)
        except BudgetError:
            break
        admitted += 1
        ledger.store(f"{os.getpid()} {i}", i)
    return admitted


def test_processes_and_threads_share_one_budget(tmp_path):
    path = str(tmp_path / "a.db")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        admitted = pool.map(spend, [path] * 3, chunksize=1)
    assert sum(admitted) == 100 and Ledger(path).totals() == (100, 100)
    ledger = Ledger(budget=100)
    done = []

    def work():
        for _ in range(50):
            try:
                ledger.admit(0, 1)
            except BudgetError:
                return
            done.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == ledger.totals()[1] == 100


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_was_stored_survives_a_kill(tmp_path):
    path = str(tmp_path / "a.db")
    code = (
        "import sys\nfrom marker_lm.annotate.ledger import Ledger\n"
        f"ledger = Ledger({path!r})\n"
        "for i in range(10**9):\n"
        "    ledger.admit(0, 1)\n"
        "    ledger.store(str(i), i)\n"
        "    print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    last = [int(process.stdout.readline()) for _ in range(200)][-1]
    process.send_signal(signal.SIGKILL)
    last = max([last, *(int(line) for line in process.stdout.read().splitlines()[:-1])])
    process.wait()
    ledger = Ledger(path)
    answers, spent = ledger.totals()
    assert all(ledger.get(str(i)) == i for i in range(last + 1))
    # The one that was under way stays counted, since nobody knows whether it was answered.
    assert answers > last and answers <= spent <= answers + 1
