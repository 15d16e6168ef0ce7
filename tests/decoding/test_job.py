"""Jobs that are killed at any byte go on without repeating or losing a row."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marker_lm.decoding import job as job_module
from marker_lm.decoding.job import Job, JobError, hash_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["local", "by URL"])
def place(request, monkeypatch, tmp_path):
    """A path for an output; half of the tests take it for one that can't be appended to."""
    monkeypatch.setattr(job_module, "is_remote", lambda path: request.param != "local")
    return tmp_path / "new" / "out.jsonl"


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().decode().rstrip("\n").split("\n")]


def test_results_of_any_order_end_in_the_order_of_the_rows(place):
    with Job(place, {"verb": "x"}, 4) as job:
        assert job.left() == [1, 2, 3, 4]
        job.add(3, {"text": "c\u2028\r"})
        job.add(1, {"error": "no"})
    with Job(place, {"verb": "x"}, 4) as job:
        assert job.left() == [2, 4] and job.done == 2 and job.errors == 1
        job.add(4, {"text": "half \ud800"})
        job.add(2, {"score": float("nan")})
        assert job.errors == 2
    rows = read(place)
    assert [row["row"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["error"] == "no" and "JSON" in rows[1]["error"]
    assert rows[2]["text"] == "c\u2028\r" and rows[3]["text"] == "half \ud800"
    assert sorted(p.name for p in place.parent.iterdir()) == ["out.jsonl", "out.jsonl.job.json"]
    before = place.read_bytes()
    with Job(place, {"verb": "x"}, 4) as job:
        assert job.left() == []
    assert place.read_bytes() == before


def test_a_row_has_one_result(place):
    with Job(place, {}, 2) as job:
        job.add(1, {})
        for number in (0, 1, 3):
            with pytest.raises(ValueError, match=f"row {number} of 1..2"):
                job.add(number, {})


def test_cut_off_at_every_byte(tmp_path):
    whole = tmp_path / "whole.jsonl"
    with Job(whole, {}, 3) as job:
        for number in (2, 1, 3):
            job.add(number, {"text": "é\n" * number})
    rows, sidecar = read(whole), (tmp_path / "whole.jsonl.job.json").read_bytes()
    lines = [json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in (rows[1], rows[0])]
    data = b"".join(lines)
    for size in range(len(data) + 1):
        out = tmp_path / "out.jsonl"
        out.write_bytes(data[:size])
        (tmp_path / "out.jsonl.job.json").write_bytes(sidecar)
        with Job(out, {}, 3) as job:
            assert job.done == (size >= len(lines[0])) + (size == len(data))
            for number in job.left():
                job.add(number, {"text": "é\n" * number})
        assert read(out) == rows


def test_killed_by_the_system(tmp_path):
    """A process that is killed while it writes; the next one writes the rest."""
    code = (
        "import sys, time\nfrom marker_lm.decoding.job import Job\n"
        "with Job(sys.argv[1], {'a': 1}, 50) as job:\n"
        "    for number in job.left():\n"
        "        job.add(number, {'text': str(number)})\n"
        "        print(number, flush=True)\n"
        "        time.sleep(0.01)\n"
    )
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", code, str(out)]
    written = 0
    for kill_at in (10, 30):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        while int(process.stdout.readline()) < kill_at:
            pass
        with pytest.raises(JobError, match="is being written by another process"):
            Job(out, {"a": 1}, 50)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        lines = out.read_bytes().count(b"\n")
        assert lines >= kill_at > written
        written = lines
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode == 0
    assert [row["row"] for row in read(out)] == list(range(1, 51))


def test_another_command_is_refused(place):
    with Job(place, {"posterior": "lang", "step": 3}, 2) as job:
        job.add(1, {})
    with pytest.raises(JobError, match="posterior was 'lang', now None.*--overwrite") as caught:
        Job(place, {"step": 3}, 2)
    assert "step" not in str(caught.value) and "\n" not in str(caught.value)
    with Job(place, {"step": 4}, 2, overwrite=True) as job:
        assert job.left() == [1, 2]
    with Job(place, {"step": 4}, 2) as job:
        assert job.left() == [1, 2]


@pytest.mark.parametrize("content", [b'{"row": 1}\n', b"no end", b"\n"])
def test_a_file_of_something_else_is_left_alone(place, content):
    place.parent.mkdir()
    place.write_bytes(content)
    with pytest.raises(JobError, match="holds something already"):
        Job(place, {}, 2)
    assert place.read_bytes() == content
    with Job(place, {}, 2, overwrite=True) as job:
        assert job.left() == [1, 2]


@pytest.mark.parametrize("line", [b"{oops\n", b'{"row": 9}\n', b'{"row": 1}\n', b"[]\n", b"{}\n"])
def test_a_damaged_file_is_refused(place, line):
    with Job(place, {}, 2) as job:
        job.add(1, {})
    file = next(p for p in place.parent.rglob("*.jsonl"))
    file.write_bytes(b'{"row": 1}\n' + line)
    with pytest.raises(JobError, match="is damaged: after 1 results comes"):
        Job(place, {}, 2)


def test_damaged_settings_are_refused(place):
    with Job(place, {}, 2) as job:
        job.add(1, {})
    (place.parent / "out.jsonl.job.json").write_text("{")
    with pytest.raises(JobError, match="out.jsonl.job.json is damaged"):
        Job(place, {}, 2)


def test_parts_are_written_now_and_then(place, monkeypatch):
    monkeypatch.setattr(job_module, "PART_SECONDS", 0)
    job = Job(place, {}, 3)
    job.add(2, {})
    job.add(1, {})
    parts = list(place.parent.rglob("*.jsonl"))
    assert sum(part.read_bytes().count(b"\n") for part in parts) == 2
    # Killed here; a finished file counts where its parts were not removed any more.
    if job_module.is_remote(place):
        place.write_bytes(b'{"row": 1}\n{"row": 2}\n{"row": 3}\n')
        with Job(place, {}, 3) as job:
            assert job.left() == []
        assert not (place.parent / "out.jsonl.parts").exists()


def test_the_terminal_gets_the_rows_in_order(capsys):
    with Job(None, {}, 3) as job:
        job.add(2, {"text": "b"})
        assert capsys.readouterr().out == ""
        job.add(1, {"text": "a"})
        assert capsys.readouterr().out == '{"row": 1, "text": "a"}\n{"row": 2, "text": "b"}\n'
        job.add(3, {})
    assert capsys.readouterr().out == '{"row": 3}\n'


def test_hash_rows():
    rows = [{"prompt": "x", "markers": {}}, ValueError("bad"), {"prompt": "half \ud800"}]
    assert hash_rows(rows) == hash_rows(list(rows))
    assert len({hash_rows(rows[:n]) for n in range(4)}) == 4
