"""A whole experiment on a handful of rows: registered, swept, trained, measured, reported."""

import json
import random
from pathlib import Path

import pytest

from marker_lm.__main__ import main
from marker_lm.cli.common import load_config
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.rows import heldout_items
from marker_lm.experiment.design import ExperimentError, make_design
from marker_lm.experiment.registration import ask, read_registration, register
from marker_lm.experiment.runner import chosen_rate, plan_lines, read_done
from marker_lm.markers.taxonomy import load_taxonomy

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "configs" / "experiment.py"
SENTENCES = {"en": "I see the house.", "de": "Ich sehe das Haus.", "fr": "Je vois la maison."}
TINY = {
    "taxonomy": ROOT / "configs" / "mix.yaml",
    "data.share": 1.0,
    "data.tokenizer": "bytes",
    "model.width": 16,
    "model.layers": 1,
    "model.heads": 2,
    "model.kv_heads": 1,
    "model.head_size": 8,
    "model.ff": 16,
    "train.length": 256,
    "train.batch": 8,  # of the 8 devices that tests have
    "train.steps": 3,
    "train.warmup_steps": 1,
    "decode.batch": 8,
    "decode.max_tokens": 4,
    "eval.rows": 6,
    "eval.samples": 1,
    "experiment.sweep_steps": 2,
    "experiment.learning_rates": "(1e-2,)",
    "experiment.dev_rows": 4,
    "experiment.decoded": 2,
    "experiment.least_items": 3,
}
OVERRIDES = [f"--config.{key}={value}" for key, value in TINY.items()]


def write_mix(folder):
    """Rows in the form of the mix; one domain in twenty is rare."""
    draws = random.Random(0)
    for name, count in (("train.jsonl", 160), ("heldout.jsonl", 48)):
        rows = []
        for n in range(count):
            lang = draws.choice("en en de fr".split())
            row = {
                "id": f"{name} {n}",
                "source": "tatoeba",
                "instruction": "Translate this.",
                "input": str(n),
            }
            row |= {"output": SENTENCES[lang], "language": lang, "format": "plain"}
            row |= {"domain": ["Medicine" if n % 25 == 0 else "Everyday"], "task": ["Translation"]}
            rows.append(row | {"words": len(row["output"].split())})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def globs(folder):
    """Overrides that name these files instead of gzip ones."""
    files = {"train": "train.jsonl", "heldout": "heldout.jsonl"}
    return [f"--config.data.tasks.mix.{split}={folder / name}" for split, name in files.items()]


def make(folder, workdir, arms=("markers",), seeds=(0,), more=()):
    overrides = [*OVERRIDES, *globs(folder), *more]
    return make_design(load_config, f"{FILE}:small", overrides, arms, seeds, workdir)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_mix(tmp_path_factory.mktemp("mix"))


@pytest.mark.slow
def test_the_whole_of_it_and_what_a_second_call_does(rows, tmp_path, capsys, monkeypatch):
    """In processes of their own, each of which compiles: most of a minute of one core."""
    options = [*OVERRIDES, *globs(rows)]
    command = ["experiment", f"--config={FILE}:small", f"--workdir={tmp_path}", *options]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arms = ("baseline", "markers")
    command += ["--config.decode.temperature=0.5", "--config.experiment.best_of=2"]
    assert main([*command, "--arms=markers", "--seeds=0"]) == 0
    for arm in arms:
        done = json.loads((tmp_path / "runs" / arm / "seed0" / "done.json").read_text())
        assert done["steps"] == 3 and done["rate"] == 1e-2
    results = json.loads((tmp_path / "results.json").read_text())
    found = results["records"]
    assert {(r["arm"], r["seed"]) for r in found} == {(arm, 0) for arm in arms}
    keys = [(r["arm"], r["seed"], r["item"], r["metric"]) for r in found]
    assert len(set(keys)) == len(keys)
    metrics = {r["metric"] for r in found if r["arm"] == "markers"}
    assert metrics >= {"answer_nats", "answer_nats, true list", "inferred lang", "exact match"}
    assert metrics >= {"lang, pinned", "lang, only pinned", "lang, conflict", "list_tokens"}
    assert metrics >= {"lang, hinted", "copied lang", "length_bucket, pinned"}
    assert metrics >= {"lang, best pinned", "length_bucket, best pinned"}
    got = {(r["arm"], r["item"]): r["value"] for r in found if r["metric"] == "lang, best pinned"}
    assert {arm for arm, _ in got} == set(arms), "arms that can't be pinned choose by the same"
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["experiment"]["registered"] == results["registered"]
    strata = {r["stratum"] for r in report["differences"]}
    assert strata == {"all", "head", "tail", "tail minus head"}
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "Strata one by one" in page and "It cannot bear" in page
    assert "markers against baseline" in (tmp_path / "report" / "table.md").read_text()

    # Again: what is done stays as it is; another seed is what is left.
    files = [tmp_path / "runs" / arm / "seed0" / "done.json" for arm in arms]
    before = [file.stat().st_mtime_ns for file in files]
    assert main([*command, "--arms=markers", "--seeds=0"]) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    capsys.readouterr()
    assert main([*command, "--arms=markers", "--seeds=0,1", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("# 4 of 6 runs done")

    # Answers that were sampled in another way are not compared.
    warm = "--config.decode.temperature=0.7"
    assert main([*command, "--arms=markers", "--seeds=0", warm]) == 2
    assert "sampling={'temperature': 0.5, 'max_tokens': 4}, not" in capsys.readouterr().err
    assert main([*command, "--arms=markers", "--seeds=0", "--config.experiment.best_of=3"]) == 2
    assert "best_of=2, not 3" in capsys.readouterr().err
    cold = "--config.decode.temperature=0.0"
    assert main([*command, "--arms=markers", "--seeds=0", cold]) == 2
    assert "experiment.best_of=2: at temperature 0" in capsys.readouterr().err

    # An arm that needs other packing is refused: it is not what was registered.
    assert main([*command, "--arms=markers,dropout_0_50", "--seeds=0"]) == 2
    assert "was registered on" in capsys.readouterr().err


def test_every_command_is_whole(rows, tmp_path):
    design = make(rows, tmp_path, ("markers", "sentence", "dropout_70_50"), (0, 1))
    assert list(design.configs) == ["baseline", "markers", "sentence", "dropout_70_50"]
    assert design.plan() == {
        "plan_arms": ("baseline", "markers", "shuffled"),  # of the config too, for later
        "plan_dropout": 0.5,
        "templates": ["compact", "sentence"],
    }
    lines = plan_lines(design)
    commands = [line for line in lines if not line.startswith("#")]
    assert len([line for line in commands if " prepare " in line]) == 2
    assert len([line for line in commands if " train " in line]) == 4  # a swept rate of each arm
    assert len([line for line in lines if "least dev nats" in line]) == 8
    assert lines[-1].startswith("# 0 of 12 runs done")
    for arm in design.configs:
        # The options give the same config, but for what they set.
        config = load_config(f"{FILE}:{arm},small", design.options(arm))
        assert config.plan_arms == ("baseline", "markers", "shuffled")
        assert config.plan_dropout == 0.5
        assert config.data.prepared == str(tmp_path / "data" / config.template)
    assert config.plan_data == (str(tmp_path / "data" / "sentence"),)


def test_an_arm_goes_on_from_a_model_of_its_own(rows, tmp_path):
    design = make(rows, tmp_path, more=["--config.init_from=/models/{arm}"])
    trained = [line for line in plan_lines(design) if " train " in line]
    for line, (arm, config) in zip(trained, design.configs.items(), strict=True):
        assert config.init_from == f"/models/{arm}"
        assert f"--config.init_from=/models/{arm} " in line


def test_whole_seeds_come_first_and_arms_of_one_seed_last(rows, tmp_path):
    arms = ("completion_only", "markers", "shuffled")
    more = ["--config.experiment.once=('completion_only',)"]
    design = make(rows, tmp_path, arms, (0, 1), more)
    first, main_arms = "completion_only", ("baseline", "markers", "shuffled")
    found = [(run.arm, run.sweep, run.seed) for run in design.runs()]
    assert found == [
        *[(arm, True, 0) for arm in main_arms],
        *[(arm, False, seed) for seed in (0, 1) for arm in main_arms],
        (first, True, 0),
        (first, False, 0),
    ]


def test_prompts_that_name_nothing(rows, tmp_path):
    shares = {"lang": {"en": 0.5, "de": 0.25, "fr": 0.25}}
    strata = {"category": "domain", "tail": ["Medicine"], "train_shares": shares}
    for words, named in (("small", True), ("small,unnamed", False)):
        more = [*OVERRIDES, *globs(rows)]
        design = make_design(load_config, f"{FILE}:{words}", more, ("markers",), (0,), tmp_path)
        items = heldout_items(design.reference, load_taxonomy(design.reference.taxonomy))
        asked = ask(design, items, strata)
        assert all(("Answer in" in item.prompt) == named for item in items)
        assert asked.bare.keys() == {item.id for item in items}
        assert not any("Answer in" in prompt for prompt in asked.bare.values())
        assert asked.conflicting.keys() == ({"lang"} if named else set())
        assert asked.sampling == Sampling(max_tokens=4)  # as TINY says
        assert len(asked.answered) <= 3 * 2  # head, tail and bare; no number is large enough


def test_arms_of_the_config_can_follow_without_other_packing(rows, tmp_path):
    scratch = [f"{FILE}:scratch", [*OVERRIDES, *globs(rows)]]
    some = make_design(load_config, *scratch, ("markers",), (0,), tmp_path)
    every = make_design(load_config, *scratch, (), (), tmp_path)
    assert some.plan() == every.plan() and len(some.configs) < len(every.configs)


def test_the_rate_is_that_with_the_least_nats(rows, tmp_path):
    design = make(rows, tmp_path, more=["--config.experiment.learning_rates=(1e-2, 1e-3)"])
    with pytest.raises(ExperimentError, match="sweep of markers is not finished"):
        chosen_rate(design, "markers")
    for run, nats in zip(design.sweep("markers"), (2.5, 3.0), strict=True):
        run.folder.mkdir(parents=True)
        (run.folder / "done.json").write_text(json.dumps({"dev_nats": nats}))
        assert read_done(run) == {"dev_nats": nats}
    assert chosen_rate(design, "markers") == 1e-2
    alone = make(rows, tmp_path, more=["--config.experiment.sweep_steps=0"])
    assert chosen_rate(alone, "markers") == alone.configs["markers"].train.learning_rate


def test_what_is_registered_is_not_changed(tmp_path):
    registration = {"hash": "", "date": "2020-01-01", "steps": 3, "strata": {"tail": ["a"]}}
    from marker_lm.experiment.registration import _hash

    registration["hash"] = _hash({"steps": 3, "strata": {"tail": ["a"]}})
    register(registration, tmp_path)
    assert register(registration | {"date": "2021-01-01"}, tmp_path)["date"] == "2020-01-01"
    with pytest.raises(ExperimentError, match="registered on 2020-01-01 with another steps"):
        register(registration | {"steps": 4}, tmp_path)
    path = tmp_path / "registered.json"
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(ExperimentError, match="was changed after it was written"):
        read_registration(tmp_path)


def test_experiments_that_cannot_be_run(rows, tmp_path):
    with pytest.raises(ValueError, match="names two arms|no config|neither"):
        make(rows, tmp_path, ("markers,baseline",))
    with pytest.raises(ExperimentError, match="must be different numbers"):
        make(rows, tmp_path, seeds=(1, 1))
    with pytest.raises(ExperimentError, match="has no section 'experiment'"):
        make_design(load_config, str(ROOT / "configs" / "default.py"), [], (), (), tmp_path)
    with pytest.raises(ExperimentError, match="train.steps is 0"):
        make(rows, tmp_path, more=["--config.train.steps=0"])
    with pytest.raises(ExperimentError, match="hold=words: nothing counts that; .*'length_tokens'"):
        make(rows, tmp_path, more=["--config.experiment.hold=words"])
