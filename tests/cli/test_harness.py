"""lm-evaluation-harness runs two of its own tasks on local files; the counts are those by hand."""

import json
import string
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import write_rows

pytestmark = pytest.mark.extra
lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

STOPS = ("\n", ".", ",")  # of the task triviaqa
WORDS = ("yes", "no", "ja", "nein", "はい", "oh well")


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("data")))
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def engine(trained):
    from marker_lm.decoding.load import load_engine

    return load_engine(trained.workdir)[0]


def write_task(folder: Path, own: str, rows: list[dict], split: str) -> None:
    """One of the harness's own tasks, on rows of a local file instead of its data."""
    data = write_rows(folder / f"{Path(own).stem}.jsonl", rows)
    lines = [
        f"include: {Path(lm_eval.__file__).parent / 'tasks' / own}",
        f"task: local_{Path(own).stem}",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {{data_files: {{{split}: {json.dumps(str(data))}}}}}",
    ]
    splits = {"training_split", "validation_split", "test_split"} - {f"{split}_split"}
    lines += [f"{name}: null" for name in sorted(splits)]
    (folder / f"{Path(own).stem}.yaml").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def questions():
    random = np.random.default_rng(0)
    rows = []
    for n in range(24):
        chosen = [WORDS[i] for i in random.permutation(len(WORDS))[:4]]
        labels = ["A", "B", "C", "D"]
        rows.append(
            {
                "question": f"{n}: say {chosen[0]} {n % 5 + 1} times",
                "choices": {"text": chosen, "label": labels},
                "answerKey": labels[int(random.integers(4))],
            }
        )
    return rows


def context(row) -> str:
    return f"Question: {row['question']}\nAnswer:"


def by_hand(engine, row, pinned) -> list[float]:
    """Log-likelihood of every choice after the list that the model infers from the question."""
    from marker_lm.decoding.controls import Controls

    [own] = engine.generate([context(row)], Controls(pinned))
    nats = []
    for choice in row["choices"]["text"]:
        [score] = engine.score([context(row)], [choice], [own.markers], set(pinned))
        size = score.tokens["COMPLETION"]
        nats.append(-score.token_nats[-size:-1].sum())
    return nats


def answers(engine, questions, pinned) -> list[str]:
    from marker_lm.decoding.controls import Controls
    from marker_lm.decoding.sampling import Sampling

    prompts = [context({"question": row["question"] + "?"}) for row in questions]
    sampling = Sampling(max_tokens=256, stop=STOPS)
    return [r.text for r in engine.generate(prompts, Controls(pinned), sampling)]


def plain(text: str) -> str:
    return text.strip().lower().translate(str.maketrans("", "", string.punctuation))


@pytest.mark.parametrize("pinned", [{}, {"lang": "de", "task": ["Repeat", "Answer"]}])
def test_two_of_its_own_tasks(offline, engine, trained, questions, pinned, monkeypatch, tmp_path):
    from marker_lm.evaluation.harness import main

    written = answers(engine, questions, pinned)
    trivia = [
        {"question": row["question"], "answer": {"aliases": [text.strip() if n % 3 else "other"]}}
        for n, (row, text) in enumerate(zip(questions, written, strict=True))
    ]
    write_task(tmp_path / "tasks", "arc/arc_easy.yaml", questions, "test")
    write_task(tmp_path / "tasks", "triviaqa/default.yaml", trivia, "validation")
    markers = ";".join(
        f"{c}:{v}" for c, values in pinned.items() for v in np.atleast_1d(values).tolist()
    )
    command = ["harness", "run", "--model", "marker_lm", "--tasks", "local_arc_easy,local_default"]
    command += ["--model_args", f"checkpoint={trained.workdir},markers={markers}"]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--batch_size", "8", "--seed", "0"])
    assert main() == 0
    [results] = (tmp_path / "out").rglob("results*.json")
    found = json.loads(results.read_text("utf-8"))["results"]

    scores = [by_hand(engine, row, pinned) for row in questions]
    gold = [row["choices"]["label"].index(row["answerKey"]) for row in questions]
    lengths = [[len(text) for text in row["choices"]["text"]] for row in questions]
    right = [np.argmax(s) == g for s, g in zip(scores, gold, strict=True)]
    even = [np.argmax(np.divide(s, n)) == g for s, n, g in zip(scores, lengths, gold, strict=True)]
    assert found["local_arc_easy"]["acc,none"] == pytest.approx(np.mean(right))
    assert found["local_arc_easy"]["acc_norm,none"] == pytest.approx(np.mean(even))
    same = [
        plain(text) == plain(row["answer"]["aliases"][0])
        for text, row in zip(written, trivia, strict=True)
    ]
    assert 0 < np.mean(same) < 1
    assert found["local_default"]["exact_match,remove_whitespace"] == pytest.approx(np.mean(same))


def test_rolling_likelihoods_and_requests(engine, trained):
    from lm_eval.api.instance import Instance

    from marker_lm.evaluation.harness import MarkerLM

    model = MarkerLM(str(trained.workdir), {"lang": "de"}, batch_size="4")

    def ask(kind, *arguments):
        requests = [Instance(kind, {}, given, 0) for given in arguments]
        return getattr(model, kind)(requests)

    [(nats, _)] = ask("loglikelihood", ("", "say ja"))
    assert ask("loglikelihood_rolling", ("say ja",)) == [pytest.approx(nats, abs=1e-3)]
    drawn = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12, "until": ["\n"]}
    first, second = ask("generate_until", ("1: say yes", drawn), ("1: say yes", drawn))
    assert first != second, "the same question twice is two samples"
    with pytest.raises(ValueError, match="num_beams=4 is not supported"):
        ask("generate_until", ("x", {"num_beams": 4}))
    assert ask("generate_until", ("x", {"num_beams": 1, "until": ["", "\n"], "max_gen_toks": 2}))
    assert model.tokenizer_name == engine.tokenizer.hash
    with pytest.raises(ValueError, match="trained without a template"):
        model.apply_chat_template([{"role": "user", "content": "x"}])


def test_messages_stay_messages_until_they_are_answered():
    from types import SimpleNamespace

    from lm_eval.api.instance import Instance

    from marker_lm.evaluation.harness import MarkerLM

    asked = []
    model = MarkerLM.__new__(MarkerLM)
    super(MarkerLM, model).__init__()
    model.max_gen_toks = 9
    model.model = SimpleNamespace(
        engine=SimpleNamespace(chat=SimpleNamespace(template="{{ x }}")),
        generate=lambda given: asked.extend(given) or ["hi"],
        log_likelihoods=lambda pairs: asked.extend(pairs) or [(-1.0, False)],
    )
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "x\ny"}]
    context = model.apply_chat_template(talk)
    assert model.chat_template(True) == "{{ x }}"
    assert model.generate_until([Instance("generate_until", {}, (context, {}), 0)]) == ["hi"]
    model.loglikelihood([Instance("loglikelihood", {}, (context, " b"), 0)])
    assert asked[0][0] == talk and asked[0][1].max_tokens == 9 and asked[1] == (talk, " b")


@pytest.mark.parametrize(
    ("given", "pins"),
    [
        ("lang:German;task:a:b", {"lang": "German", "task": "a:b"}),
        ("task:x;task: y;", {"task": ["x", "y"]}),
        ("", {}),
        ({"lang": "German"}, {"lang": "German"}),
    ],
)
def test_markers_of_an_option(given, pins):
    from marker_lm.evaluation.harness import read_markers

    assert read_markers(given) == pins


def test_slips_are_one_sentence(trained, monkeypatch, capsys):
    from marker_lm.evaluation.harness import main

    for arguments, sentence in (
        (f"checkpoint={trained.workdir},markers=lang", "give CATEGORY:VALUE"),
        (f"checkpoint={trained.workdir},markers=lnag:de", "did you mean 'lang'"),
        ("checkpoint=nowhere", "holds no checkpoint"),
    ):
        command = ["harness", "--model", "marker_lm", "--model_args", arguments]
        monkeypatch.setattr(sys, "argv", [*command, "--tasks", "arc_easy"])
        assert main() == 2
        assert sentence in capsys.readouterr().err.splitlines()[-1]
