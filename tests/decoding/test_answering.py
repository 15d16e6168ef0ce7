"""Rows of a job are answered in any order, each once, and a stopped job goes on."""

import dataclasses

import pytest

from marker_lm.decoding.answering import TOGETHER, Best, answer_rows
from marker_lm.decoding.controls import Controls
from marker_lm.decoding.job import Job
from marker_lm.decoding.request import Request
from marker_lm.decoding.requests import Asked
from marker_lm.decoding.sampling import Sampling, row_seed
from tests.decoding.fake import FakeEngine, lines

ROWS = [Asked({"prompt": f"p{n}", "id": n}, Request(f"p{n}")) for n in range(150)]
ROWS[3] = Asked({"prompt": "x"}, None, "p.jsonl:4: it is bad")
ROWS[140] = Asked({"prompt": "refuse"}, Request("refuse"))


class Dying(FakeEngine):
    """Is killed after some answers."""

    def run(self, requests):
        for n, one in enumerate(super().run(requests)):
            if n == 30:
                raise KeyboardInterrupt
            yield one


def test_every_row_has_one_result(tmp_path):
    out = tmp_path / "a.jsonl"
    for engine in (Dying(), Dying(), FakeEngine()):
        with Job(out, {}, len(ROWS)) as job:
            if isinstance(engine, Dying):
                with pytest.raises(KeyboardInterrupt):
                    answer_rows(engine, ROWS, job)
            else:
                assert job.done == 1 + 30 + 30
                answer_rows(engine, ROWS, job)
                assert job.left() == [] and job.errors == 2
    found = lines(out)
    assert [row["row"] for row in found] == list(range(1, 151))
    assert found[3] == {"row": 4, "prompt": "x", "error": "p.jsonl:4: it is bad"}
    assert found[140]["error"] == "the prompt is refused."
    for n in set(range(150)) - {3, 140}:
        assert found[n]["text"] == f"You said p{n}" and found[n]["id"] == n
        assert found[n]["probability"] == {"lang": 0.75} and found[n]["reason"] == "end"
    assert len(engine.requests) == 150 - 1 - 60


def test_rows_are_tagged_some_at_a_time(tmp_path):
    sizes = []

    def tag(requests):
        sizes.append(len(requests))
        pinned = Controls({"lang": "German"})
        return [
            (dataclasses.replace(r, controls=pinned), {"marker_info": r.prompt}) for r in requests
        ]

    out = tmp_path / "a.jsonl"
    with Job(out, {}, len(ROWS)) as job:
        answer_rows(FakeEngine(), ROWS, job, tag)
    assert sizes == [TOGETHER - 1, TOGETHER, 150 - 2 * TOGETHER]
    found = lines(out)
    assert all(row["pinned"] == ["lang"] for row in found if "error" not in row)
    assert found[7]["marker_info"] == "p7" and "marker_info" not in found[3]
    assert found[140]["marker_info"] == "refuse" and "error" in found[140]


def test_the_best_of_several_answers_is_kept(tmp_path):
    class Sampled(FakeEngine):
        """Says how it was seeded; the largest seed is the likeliest."""

        def run(self, requests):
            for n, result in super().run(requests):
                seed = self.requests[n].sampling.seed
                if not isinstance(result, str):
                    result = dataclasses.replace(result, text=str(seed), log_likelihood=-1.5 / seed)
                yield n, result

        def posterior(self, prompts, category, given, texts):
            assert given == [{"style": "a"}] * 3 and category == "lang"
            seeds = [int(text) for text in texts]
            return [{"German": float(seed == min(seeds)), "Engl": 0.5} for seed in seeds]

    rows = [
        Asked({"id": n}, Request(f"p{n}", Controls({"style": "a"}), Sampling(seed=n)))
        for n in range(5)
    ]
    rows[2] = Asked({"id": 2}, Request("refuse"))
    for by, pick in (("likelihood", max), (("lang", "German"), min)):
        out = tmp_path / f"{pick.__name__}.jsonl"
        with Job(out, {}, len(rows)) as job:
            answer_rows(Sampled(), rows, job, best=Best(3, by))
        found = lines(out)
        for n in (0, 1, 3, 4):
            assert found[n]["text"] == str(pick(row_seed(n, k) for k in range(3)))
            assert found[n]["best_of"] == 3 and isinstance(found[n]["score"], float)
        assert found[2] == {"row": 3, "id": 2, "error": "the prompt is refused."}


def test_rates_are_shown(tmp_path, capsys):
    with Job(tmp_path / "a.jsonl", {}, 3) as job:
        answer_rows(FakeEngine(), ROWS[:3], job)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("decode 3/3 (100 %)") and "to go" in last
    assert " rows/s, " in last and last.endswith(" tokens/s")
