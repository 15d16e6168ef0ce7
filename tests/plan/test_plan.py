"""Plans by the real compiler for TPUs; `make test-extras` installs it."""

import importlib.util
import json
import os

import pytest

from marker_lm.__main__ import main
from marker_lm.plan.plan import plan
from marker_lm.plan.program import lower
from marker_lm.plan.topology import PlanError, parse_topology, prepare_environment
from tests.cli.conftest import CONFIG

compiler = pytest.mark.skipif(
    not os.environ.get("TPU_LIBRARY_PATH") and importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed",
)
TINY = {
    "data.tokenizer": "bytes",
    "model.width": 512,  # so that no device's part is padded to whole registers
    "model.layers": 2,
    "model.heads": 4,
    "model.kv_heads": 2,
    "model.ff": 256,
    "model.remat": "full",
    "mesh.data": 1,
    "mesh.fsdp": 4,
    "train.length": 64,  # too short for the attention kernel, which takes long to compile
    "train.batch": 4096,
    "train.loss_blocks": 2,
    "decode.batch": 8,
}


def overrides(**more):
    return [f"--config.{key}={value}" for key, value in (TINY | more).items()]


@pytest.fixture(scope="module")
def config():
    from marker_lm.cli.common import load_config

    return load_config(f"{CONFIG}:markers", overrides())


@pytest.fixture(scope="module")
def made(config):
    return plan(config, "v5e:2x2")


@pytest.mark.extra
@compiler
def test_memory_is_the_compilers_report(config, made):
    prepare_environment()
    lowered, sizes = lower(config, parse_topology("v5e:2x2"), "train")
    report = lowered.compile().memory_analysis()
    assert made.memory.arguments == report.argument_size_in_bytes
    assert made.memory.temporaries == report.temp_size_in_bytes
    assert made.memory.peak == report.peak_memory_in_bytes
    assert made.memory.code == report.generated_code_size_in_bytes
    assert made.train.sizes == sizes


@pytest.mark.extra
@compiler
def test_parameters_and_optimizer_are_the_arguments_but_for_the_batch(made):
    state = made.train.sizes["parameters"] + made.train.sizes["optimizer"]
    rest = made.memory.arguments - state
    assert 0 <= rest - made.train.sizes["batch"] < 64 * 1024  # small arrays are padded
    categories = made.memory.categories
    assert sum(categories.values()) == made.memory.peak
    exact = categories["parameters"] + categories["optimizer"]
    assert state <= exact < state + 64 * 1024
    assert categories["activations"] > 0.5 * made.memory.peak
    assert min(categories.values()) >= 0


@pytest.mark.extra
@compiler
def test_the_plan_says_that_it_fits_and_what_bounds_it(made):
    assert made.fits and made.memory.spare > 0.9
    assert set(made.programs) == {"train", "decode"}
    layers = [c for c in made.train.collectives.all if "/layers/" in c.op_name]
    assert layers and {c.axes for c in layers} == {"fsdp"}
    assert {c.times for c in layers} == {2}
    bounds = made.train.bounds
    assert 0 < bounds.mfu <= 1
    assert bounds.step_seconds >= bounds.compute > 0
    json.dumps(made.to_dict(), allow_nan=False)


@pytest.mark.extra
@compiler
def test_quickly_the_peak_is_the_same(config, made):
    quick = plan(config, "v5e:2x2", decode=False, quick=True)
    assert not quick.train.compiled and made.train.compiled
    assert abs(quick.memory.peak - made.memory.peak) < 64 * 1024
    assert quick.memory.laid_out == made.memory.laid_out
    assert quick.train.collectives == made.train.collectives


@pytest.mark.extra
@compiler
def test_too_large_a_config_is_refused_with_its_largest_tensor(tmp_path, capfd):
    file = tmp_path / "plan.json"
    code = main(
        [
            "plan",
            f"--config={CONFIG}",
            "--topology=v5e:2x2",
            "--no-decode",
            f"--json={file}",
            *overrides(**{"train.batch": 400_000, "model.remat": "none"}),
        ]
    )
    assert code == 1
    printed = " ".join(capfd.readouterr().out.split())
    assert "does NOT fit" in printed and "Ran out of memory" in printed
    content = json.loads(file.read_text())
    memory = content["memory"]
    assert not memory["fits"] and memory["need"] > memory["have"]
    assert memory["arguments"] + memory["temporaries"] > memory["have"]
    first = memory["largest"][0]
    assert first["bytes"] == max(tensor["bytes"] for tensor in memory["largest"])
    assert f"The largest tensor is {first['shape']}" in printed
    assert first["category"] == "activations" and "train_step" in first["where"]
    assert "model.remat=full" in content["advice"]


@pytest.mark.extra
@compiler
def test_without_the_spare_that_is_asked_the_code_is_one(capfd):
    asked = ["--spare=0.9999", "--quick", "--no-decode", "--topology=v5e:2x2"]
    assert main(["plan", f"--config={CONFIG}", *asked, *overrides()]) == 1
    assert "fits, but with less than" in " ".join(capfd.readouterr().out.split())


@pytest.mark.extra
@compiler
def test_a_search_prints_overrides_that_fit(tmp_path, capfd):
    file = tmp_path / "search.json"
    given = ["--search", "--tries=2", "--topology=v5e:2x2", f"--json={file}"]
    assert main(["plan", f"--config={CONFIG}", *given, *overrides()]) == 0
    best = json.loads(file.read_text())[0]
    assert best["fits"]
    printed = " ".join(capfd.readouterr().out.split())
    for key, value in best["overrides"].items():
        assert f"--config.{key}={value}" in printed


@pytest.mark.extra
@compiler
def test_of_several_pods_the_cheapest_is_named(capfd):
    pods = ["--topologies=v5e:2x2,v6e:2x2,v5e:2x4", "--price=v6e=0.01"]
    changed = overrides(**{"mesh.data": -1, "mesh.fsdp": 2})
    assert main(["plan", f"--config={CONFIG}", *pods, *changed]) == 0
    assert "The cheapest that fits: v6e:2x2." in capfd.readouterr().out


@pytest.mark.extra
@compiler
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mesh.fsdp": 3}, "do not fit 4 devices"),
        ({"train.batch": 6}, "train.batch=6"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(change, said):
    from marker_lm.cli.common import load_config

    config = load_config(f"{CONFIG}:markers", overrides(**change))
    with pytest.raises((PlanError, ValueError), match=said):
        plan(config, "v5e:2x2", decode=False, quick=True)
