"""The shipped recipes for pods: what they say goes together, and what the compiler says of each.

The compiler needs no TPU, but the package libtpu.
"""

import importlib.util
import math
import os

import jax
import pytest

from configs import default
from marker_lm.cli.common import load_config
from marker_lm.model.params import abstract_arrays, parameter_count
from marker_lm.plan.compile import Compilation
from marker_lm.plan.hlo import parse_module
from marker_lm.plan.plan import find_topology, make_plan
from marker_lm.plan.program import PROGRAMS, planned_model
from marker_lm.plan.topology import prepare_environment
from tests.configs.recipes import ECONOMY, GB, RECIPES, ROOT, Recipe, bad_gathers

every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
has_compiler = importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH")
compiles = pytest.mark.skipif(not has_compiler, reason="libtpu is not installed")


def keys(config, prefix=""):
    for key, value in config.items():
        yield prefix + key
        if hasattr(value, "items"):
            yield from keys(value, f"{prefix}{key}.")


@every_recipe
def test_it_loads_and_has_known_keys_only(recipe):
    config = load_config(str(recipe.file), ["--config.train.epochs=1"])
    assert sorted(keys(config)) == sorted(keys(default.get_config()))
    assert recipe.config().arm == "markers"
    assert recipe.config("baseline").arm == "baseline"
    # A run needs the weights; the plan does without.
    assert config.init_from.endswith(".json") and config.data.tokenizer == "pretrained"


@every_recipe
def test_its_mesh_is_its_pod_and_divides_its_batch(recipe):
    config, mesh = recipe.config(), recipe.config().mesh
    pod = find_topology(config)
    assert math.prod(mesh.values()) == recipe.devices == pod.chips * pod.chip.devices
    assert mesh.slice == pod.slices
    rows = mesh.slice * mesh.data * mesh.fsdp
    assert config.train.batch % rows == 0 and config.train.length % mesh.context == 0
    tokens = config.train.batch // rows * config.train.length // mesh.context
    assert tokens % config.train.loss_blocks == 0


@every_recipe
def test_its_model_has_the_published_size(recipe):
    model = planned_model(recipe.config())
    assert parameter_count(model) == pytest.approx(recipe.parameters, rel=0.01)
    assert (model.dtype, model.param_dtype, model.scan) == ("bfloat16", "float32", True)


@every_recipe
def test_its_file_says_how_it_is_planned_and_trained(recipe):
    text = recipe.file.read_text("utf-8").split('"""')[1]
    path = recipe.file.relative_to(ROOT)
    assert f"marker-lm plan --config={path}" in text and "launch/run.sh" in text
    assert "--config.init_from=" in text and "GB a chip" in text


def test_all_recipes_for_pods_are_here():
    files = [
        path for path in (ROOT / "configs").glob("*.py") if "marker-lm plan" in path.read_text()
    ]
    shared = {"default", "pods"}
    assert {path.stem for path in files} - shared == {recipe.name for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES[-2:], ids=lambda recipe: recipe.name)
def test_command_r7b_is_trained_as_in_the_paper(recipe):
    config = recipe.config()
    train = config.train
    assert (train.steps, train.epochs, train.batch, train.warmup_steps) == (8000, 2, 32, 10)
    assert (train.learning_rate, train.final_learning_rate) == (2.5e-4, 1.25e-4)
    assert (config.markers.example_dropout, config.markers.marker_dropout) == (0.5, 0.5)
    assert (config.taxonomy, config.template) == ("paper", "text")


def test_another_argument_is_refused():
    with pytest.raises(ValueError, match="llama31_8b_v6e16.py:.*economie"):
        ECONOMY.config("baseline,economie")


@pytest.fixture(scope="module", params=RECIPES, ids=lambda recipe: recipe.name)
def compiled(request):
    """What `compile_recipe` gives."""
    return compile_recipe(request.param)


def compile_recipe(recipe: Recipe):
    """(recipe, plan, modules) of both programs of a recipe."""
    config = recipe.config()
    pod = find_topology(config)
    prepare_environment()
    running = [Compilation(config, pod, name, quick=not recipe.whole) for name in PROGRAMS]
    done = [one.result() for one in running]
    return recipe, make_plan(config, pod, *done), [one.module for one in done]


def check_memory(recipe: Recipe, plan) -> None:
    assert plan.fits and plan.spare == 0.05, plan.advice
    memory = plan.memory
    assert (memory.arguments + memory.temporaries) / GB <= recipe.most_sum
    assert memory.peak / GB <= recipe.most_peak


@pytest.mark.extra
@pytest.mark.slow
@compiles
def test_it_compiles_fits_and_keeps_large_arrays_apart(compiled):
    recipe, plan, modules = compiled
    check_memory(recipe, plan)
    if recipe.whole:
        assert all(program.compiled for program in plan.programs.values())
    model = planned_model(recipe.config())
    params = [x.shape for x in jax.tree.leaves(abstract_arrays(model))]
    for module in modules:
        assert bad_gathers(module, model.vocab, model.layers, params) == []


@pytest.mark.extra
@pytest.mark.slow
@compiles
def test_economy_needs_less_memory():
    check_memory(*compile_recipe(ECONOMY)[:2])


GATHERS = """\
HloModule made

ENTRY %main (p: bf16[8]) -> bf16[8] {
  %p = bf16[8]{0} parameter(0)
  ROOT %g = SHAPE OPCODE(%p), replica_groups={{0,1}}, dimensions={0}
}
"""
PARAMS = [(50, 8), (3, 8, 4, 2), (3, 8, 16), (3, 8), (8,)]


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ("bf16[4,6,50]{2,1,0}", "logits"),
        ("f32[24,50]{1,0}", "logits"),
        ("bf16[3,8,1,16]{3,2,1,0}", "a whole stack"),
        ("f32[8,16]{1,0}", "a gradient"),
        ("f32[1,8,2,4]{1,0,2,3}", "a gradient"),
        ("f32[50,8]{1,0}", "a gradient"),
        ("bf16[8,16]{1,0}", ""),  # a layer's matrix
        ("bf16[50,8]{1,0}", ""),  # the embedding
        ("f32[8,7]{1,0}", ""),
        ("s32[4,6]{1,0}", ""),
    ],
)
@pytest.mark.parametrize("opcode", ["all-gather", "all-gather-start"])
def test_what_may_not_be_gathered_is_found(shape, fault, opcode):
    module = parse_module(GATHERS.replace("SHAPE", shape).replace("OPCODE", opcode))
    found = bad_gathers(module, vocab=50, layers=3, params=PARAMS)
    assert len(found) == bool(fault) and all(fault in text for text in found)
