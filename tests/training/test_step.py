"""The jitted step on one device and on a 2x2x2 mesh of fake ones."""

import dataclasses
import math
import re

import jax
import numpy as np
import optax
import pytest

from marker_lm.data.cache import Cache
from marker_lm.data.loader import iterate
from marker_lm.data.setup import make_setup, train_batches
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.run import model_config
from marker_lm.training.step import (
    abstract_batch,
    abstract_state,
    make_eval_step,
    make_train_step,
    new_state,
)
from marker_lm.training.trainable import trained_paths
from tests.tiny import tiny_config
from tests.training import steps

STEPS = 12


class Case:
    """Model, optimizer and batches of the tiny config."""

    def __init__(self, data, trainable="", **lora):
        config = tiny_config(data, trainable=trainable).unlock()
        config.lora.update(**lora)
        self.config = config
        tokenizer = load_tokenizer(data / "prepared" / "tokenizer")
        setup = make_setup(config, load_taxonomy(config.taxonomy), tokenizer)
        self.model = model_config(config, setup)
        self.batches = train_batches(config, setup, Cache(data / "prepared" / "train"), slice(None))
        self.trained = trained_paths(self.model, trainable)
        self.optimizer = make_optimizer(config.train, len(self.batches))

    def train(self, mesh, steps=STEPS):
        """The final state and the metrics of each step."""
        state = new_state(self.model, self.optimizer, mesh, 0, trained=self.trained)
        step = make_train_step(self.model, self.optimizer, mesh, self.config.train, self.trained)
        found = []
        for batch in iterate(self.batches, 0, steps, threads=1):
            batch = jax.make_array_from_process_local_data(batch_sharding(mesh), batch)
            state, metrics = step(state, batch)
            found.append(jax.device_get(metrics))
        return state, found


@pytest.fixture(scope="module")
def case(data):
    return Case(data)


@pytest.fixture(scope="module")
def one_device(case):
    return case.train(make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def eight_devices(case):
    return case.train(make_mesh(2, 2, 2))


def test_eight_devices_give_the_loss_curve_of_one(one_device, eight_devices):
    one, eight = one_device[1], eight_devices[1]
    assert len(one) == len(eight) == STEPS >= 10
    for a, b in zip(one, eight, strict=True):
        assert a.keys() == b.keys()
        for name in ("tokens", "completion_tokens", "completion_markers_tokens"):
            assert a[name] == b[name] > 0
    np.testing.assert_allclose([m["loss"] for m in eight], [m["loss"] for m in one], atol=1e-5)
    np.testing.assert_allclose(
        [m["grad_norm"] for m in eight], [m["grad_norm"] for m in one], rtol=1e-4
    )
    assert one[-1]["loss"] < one[0]["loss"] - 0.3  # it learns, so the curve says something


def test_parameters_and_moments_are_split(eight_devices, case):
    state, _ = eight_devices
    model = case.model
    # vocab over tensor, width over fsdp; heads over tensor; feed-forward over tensor.
    want = {
        "embedding": (model.vocab // 2, model.width // 2),
        "query": (model.layers, model.width // 2, model.heads // 2, model.head_size),
        "down": (model.layers, model.ff // 2, model.width // 2),
        "final_norm": (model.width // 2,),
    }
    found = {name: 0 for name in want}
    for path, array in jax.tree_util.tree_leaves_with_path(state):
        name = getattr(path[-1], "key", None)
        if name in want:
            assert len(array.addressable_shards) == 8
            assert {shard.data.shape for shard in array.addressable_shards} == {want[name]}
            found[name] += 1
    assert found == dict.fromkeys(want, 3)  # the parameter and its two moments


def test_the_abstract_state_is_that_of_the_real_one(eight_devices, case):
    state, _ = eight_devices
    abstract = abstract_state(case.model, case.optimizer, make_mesh(2, 2, 2))
    jax.tree.map(
        lambda x, a: np.testing.assert_equal(
            (x.shape, x.dtype, x.sharding), (a.shape, a.dtype, a.sharding)
        ),
        state,
        abstract,
    )
    assert int(state["step"]) == STEPS


def test_a_fresh_state_does_not_depend_on_the_mesh(case):
    one = new_state(case.model, case.optimizer, make_mesh(devices=jax.devices()[:1]), 3)
    eight = new_state(case.model, case.optimizer, make_mesh(2, 2, 2), 3)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), one, eight)


def test_the_eval_step_sums_what_the_train_step_saw(one_device, case):
    mesh = make_mesh(devices=jax.devices()[:1])
    fresh = new_state(case.model, case.optimizer, mesh, 0)
    sums = make_eval_step(case.model, mesh, case.config.train)(fresh["params"], case.batches[0])
    first = one_device[1][0]
    facts = {"loss", "grad_norm", "grad_norm_mean", "spike", "skipped", "skipped_in_row"}
    assert set(sums) == set(first) - facts
    for name, value in sums.items():
        np.testing.assert_allclose(value, first[name], rtol=1e-5)


MESHES = [
    dict(data=8),
    dict(data=1, fsdp=8),
    dict(data=2, fsdp=2, tensor=2),
    dict(data=1, slice=2, fsdp=2, context=2),
]


SETTINGS = steps.settings(loss_blocks=1)
BATCHES = [steps.make_batch(seed) for seed in (1, 2, 0)]
# It moves by the gradient, Adam by little more than its sign: so rounding errors stay small. (At a
# rate of .3 the embedding overshoots, and three steps make them five times as large.)
SGD = optax.sgd(0.1, momentum=0.9)


@pytest.fixture(scope="module")
def small_run():
    """Three steps on one device, which move all parameters."""
    run = steps.Run(SETTINGS, optimizer=SGD)
    fresh = jax.device_get(new_state(run.model, run.optimizer, run.mesh, 0))
    state, metrics = run.train(BATCHES)
    for a, b in zip(*(jax.tree.leaves(s["params"]) for s in (state, fresh)), strict=True):
        assert np.linalg.norm(a - b) > 5e-4 * np.linalg.norm(b)
    return state, metrics


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_mesh_moves_the_parameters_as_one_device_does(small_run, sizes):
    state, metrics = small_run
    found, others = steps.Run(SETTINGS, make_mesh(**sizes), optimizer=SGD).train(BATCHES)
    for a, b in zip(others, metrics, strict=True):
        np.testing.assert_allclose([a["loss"], a["grad_norm"]], [b["loss"], b["grad_norm"]], 1e-5)
    assert abs(metrics[-1]["loss"] - metrics[0]["loss"]) > 0.01
    for a, b in zip(*(jax.tree.leaves(s["params"]) for s in (found, state)), strict=True):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


def test_the_state_is_donated():
    run = steps.Run(SETTINGS)
    state = new_state(run.model, run.optimizer, run.mesh, 0)
    lowered = run.step.lower(state, abstract_batch(SETTINGS, run.mesh))
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    assert lowered.compile().memory_analysis().alias_size_in_bytes == size
    run.step(state, steps.put(BATCHES[0], run.mesh))
    assert all(x.is_deleted() for x in jax.tree.leaves(state))


# Seven layers: an array with a dimension of 7 or, filled up for 8 devices, of 8 is a stack.
DEEP = dataclasses.replace(steps.MODEL, layers=7, width=32, ff=48, vocab=24)


@pytest.mark.parametrize("name", ["adafactor", "adamw", "lion", "muon"])
def test_no_stack_of_parameters_gradients_or_moments_is_gathered(name):
    """Each layer is gathered when it is its turn; what the optimizer sees stays split."""
    train = steps.settings(optimizer=name, on_spike="skip", loss_blocks=1)
    run = steps.Run(train, make_mesh(data=1, fsdp=8), model=DEEP)
    state = abstract_state(run.model, run.optimizer, run.mesh)
    stacks = {x.shape for x in jax.tree.leaves(state["params"]["layers"]) if x.ndim > 2}
    filled = {(8, *shape[1:]) for shape in stacks}
    matrices = {shape[1:] for shape in stacks}
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if x.size >= min(math.prod(shape) for shape in matrices):
            held = math.prod(x.sharding.shard_shape(x.shape))
            assert held == x.size // 8, jax.tree_util.keystr(path)
    hlo = run.step.lower(state, abstract_batch(train, run.mesh)).compile().as_text()
    results = " ".join(re.findall(r"= (.*?) all-gather", hlo))  # one or several arrays each
    gathered = {tuple(map(int, d.split(","))) for d in re.findall(r"\[([\d,]+)\]", results)}
    assert len(gathered & matrices) >= 4  # so the text is read rightly
    assert not gathered & (stacks | filled)
