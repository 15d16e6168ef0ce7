"""Configs from the command line: typed overrides, and one sentence for each slip."""

import sys

import pytest

from marker_lm.cli.common import ConfigError, load_config
from tests.cli.conftest import CONFIG, one_sentence

ROOT = CONFIG.parents[1]


def test_overrides_are_typed():
    config = load_config(
        f"{CONFIG}:baseline",
        [
            "--config.train.epochs=3",
            "--config.train.learning_rate=1e-3",
            "--config.model.scan=False",
            "--config.markers.order=alphabetical",
            "--config.plan_arms=('markers',)",
            "--config.data.tasks.rows.train=a=b.jsonl",
        ],
    )
    assert config.arm == "baseline"
    assert config.train.epochs == 3 and config.train.learning_rate == 1e-3
    assert config.model.scan is False and config.markers.order == "alphabetical"
    assert tuple(config.plan_arms) == ("markers",)
    assert config.data.tasks.rows.train == "a=b.jsonl"
    assert config.train.batch == 32, "the others keep their values"
    with pytest.raises(AttributeError):
        config.train.bach = 3


def test_of_several_overrides_of_a_key_the_last_one_counts():
    overrides = ["--config.seed=1", "--config.plan_arms=('markers',)"]
    config = load_config(str(CONFIG), [*overrides, "--config.plan_arms=('baseline',)"])
    assert tuple(config.plan_arms) == ("baseline",) and config.seed == 1


def test_one_call_leaves_nothing_for_the_next():
    load_config(str(CONFIG), ["--config.seed=7"])
    assert load_config(str(CONFIG), []).seed == 0


def test_a_config_can_import_those_beside_it(tmp_path, monkeypatch):
    """Also from another folder, and from a console script, whose path lacks the current folder."""
    folder = tmp_path / "recipes_of_a_user"
    folder.mkdir()
    (folder / "base.py").write_text(CONFIG.read_text("utf-8"), "utf-8")
    (folder / "child.py").write_text("from recipes_of_a_user.base import get_config\n")
    monkeypatch.setattr("sys.path", list(sys.path))
    assert load_config(f"{folder / 'child.py'}:baseline", []).arm == "baseline"


def test_a_config_anywhere_can_import_the_shipped_ones(tmp_path, monkeypatch):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from configs import atlas\n\ndef get_config(arg=''):\n    return atlas.get_config(arg)\n"
    )
    monkeypatch.setattr("sys.path", [p for p in sys.path if p not in ("", str(ROOT))])
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    assert load_config(f"{mine}:baseline", []).taxonomy == "atlas"


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("import nowhere\n", "mine.py:1: ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config(arg=''):\n    return 1 / 0\n", "mine.py:2: ZeroDivisionError"),
        ("def get_config(:\n", "mine.py: SyntaxError: invalid syntax"),
    ],
)
def test_a_config_that_fails_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(f"{tmp_path / 'mine.py'}", [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("--config.train.bach=3", "no key 'train.bach'; did you mean 'train.batch'"),
        ("--config.trian.batch=3", "no key 'trian.batch'; did you mean 'train.batch'"),
        ("--config.zzzzzzzz=3", "no key 'zzzzzzzz'; see .*default.py"),
        ("--config.train.batch=many", "wrong type.*many"),
        ("--config.train.batch=1.5", "wrong type.*1.5"),
        ("--config.model.scan=perhaps", "wrong type.*perhaps"),
        ("--config.train.batch", "has no value; write --config.train.batch=VALUE"),
        ("--config.train=5", "wrong type.*'5' as a ConfigDict"),
    ],
)
def test_wrong_overrides(override, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(str(CONFIG), [override])
    assert "\n" not in str(caught.value)


def test_a_config_that_is_not_there(tmp_path):
    near = str(CONFIG).replace("default", "defualt")
    with pytest.raises(ConfigError, match="no config .*; did you mean .*configs/default.py?"):
        load_config(near, [])
    with pytest.raises(ConfigError, match="no config"):
        load_config(str(tmp_path / "none" / "x.py"), [])
    with pytest.raises(ConfigError, match="no config"):
        load_config(str(tmp_path), [])


@pytest.mark.parametrize("verb", ["prepare", "train"])
def test_from_the_command_line(call, verb, tmp_path):
    message = one_sentence(
        call(verb, f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.data.shar=0.5")
    )
    assert message == (
        f"marker-lm {verb}: the config has no key 'data.shar'; did you mean 'data.share'?"
    )


def test_an_arm_that_there_is_not(call, data, tmp_path):
    result = call(
        "train",
        f"--config={CONFIG}:shufled",
        f"--workdir={tmp_path}",
        f"--config.data.tasks.rows.train={data / 'train.jsonl'}",
        f"--config.taxonomy={data / 'taxonomy.yaml'}",
        "--config.data.tokenizer=bytes",
    )
    assert "did you mean 'shuffled'" in one_sentence(result)
