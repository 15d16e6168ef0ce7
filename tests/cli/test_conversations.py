"""Conversations through the command line: show, train, decode and score under a chat template."""

import json

import pytest

from tests.cli.conftest import CONFIG, one_sentence, read_jsonl, tiny_overrides
from tests.tiny import make_rows, write_rows

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt }}"
)


def conversations(rows):
    """Two rows as one conversation of two turns, and every third row as it is."""
    for first, second, third in zip(rows[::3], rows[1::3], rows[2::3], strict=False):
        messages = []
        for row in (first, second):
            messages.append({"role": "user", "content": row["prompt"]})
            answer = {"role": "assistant", "content": row["completion"]}
            messages.append(answer | {"markers": row["markers"]})
        yield {"id": first["id"], "messages": messages}
        yield third


@pytest.fixture(scope="module")
def options(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    write_rows(folder / "train.jsonl", list(conversations(make_rows(90))))
    write_rows(folder / "heldout.jsonl", list(conversations(make_rows(12, seed=1))))
    (folder / "taxonomy.yaml").write_text((data / "taxonomy.yaml").read_text("utf-8"), "utf-8")
    (folder / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    options = [f"--config={CONFIG}:markers", f"--workdir={folder / 'run'}"]
    options += [*tiny_overrides(folder), f"--config.data.chat.template={folder / 'chat.jinja'}"]
    return folder, [*options, "--config.train.length=256", "--config.train.eval_every=5"]


def test_show_train_decode_and_score(call, options):
    folder, options = options
    shown = call("show", *options, "--no-color", "--rows=8")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert "train: 60 conversations with 90 answers" in lines
    [head] = [line for line in lines if line.startswith("step 0 of ")]
    assert " segments with " in head and "FAULT" not in shown.out
    learned = [line for line in lines if "[completion w=1 n=" in line]
    assert learned and all(line.endswith("<eos>") for line in learned)
    assert sum("[prompt w=0" in line and "<user>" in line for line in lines) == len(learned)

    assert call("train", *options).code == 0
    # A run is used where the file of its template is not.
    (folder / "chat.jinja").unlink()
    messages = [
        {"role": "user", "content": "1: say yes 1 times"},
        {"role": "assistant", "content": "yes", "markers": {"lang": "en"}},
        {"role": "user", "content": "2: say no 2 times"},
    ]
    write_rows(folder / "prompts.jsonl", [{"messages": messages}, {"prompt": "3: say ja 1 times"}])
    out = folder / "answers.jsonl"
    run = f"--workdir={folder / 'run'}"
    result = call("decode", run, f"--prompts={folder / 'prompts.jsonl'}", f"--out={out}")
    assert result.code == 0, result.err
    first, second = read_jsonl(out)
    assert first["prompt"] == messages and second["prompt"] == "3: say ja 1 times"
    assert all("error" not in row and isinstance(row["text"], str) for row in (first, second))

    write_rows(folder / "scored.jsonl", [{"messages": messages, "completion": "no no"}])
    result = call("score", run, f"--rows={folder / 'scored.jsonl'}")
    assert result.code == 0, result.err
    record = json.loads(result.out.splitlines()[-1])
    assert record["tokens"]["COMPLETION"] == len("no no") + 1


def test_messages_without_a_template_are_one_sentence(call, options, tmp_path):
    _, options = options
    others = [option for option in options if "chat.template" not in option]
    result = call("prepare", *others, f"--workdir={tmp_path}")
    assert "has messages, but data.chat.template is ''" in one_sentence(result)
    bad = [*others, "--config.data.chat.template=model", f"--workdir={tmp_path}"]
    assert "the tokenizer has no chat template" in one_sentence(call("prepare", *bad))
