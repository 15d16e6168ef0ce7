"""A small model, its settings and batches, for the tests of the training step."""

import jax
import numpy as np

from configs import default
from marker_lm.data.assembly import Kind
from marker_lm.model.config import ModelConfig
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.step import make_train_step, new_state

MODEL = ModelConfig(
    vocab=32, width=16, layers=2, heads=4, kv_heads=2, head_size=4, ff=32, max_len=16
)


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def settings(**changes):
    """The `train` section of a config for MODEL."""
    train = default.get_config().train.unlock()
    train.update(batch=8, length=16, loss_blocks=2, warmup_steps=0, learning_rate=1e-2)
    train.update(**changes)
    return train


def make_batch(seed: int, answers=None, batch: int = 8, length: int = 16):
    """A batch whose row i ends in answers[i] answer tokens; their number is random by default."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, MODEL.vocab, (batch, length), dtype=np.int32)
    answers = random.integers(1, length, batch) if answers is None else np.asarray(answers)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    is_answer = positions >= length - answers[:, None]
    return {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "positions": positions,
        "segment_ids": np.ones_like(tokens),
        "kinds": np.where(is_answer, Kind.COMPLETION, Kind.PROMPT).astype(np.int32),
        "weights": is_answer.astype(np.float32),
    }


def put(batch, mesh):
    return jax.device_put(batch, batch_sharding(mesh))


class Run:
    """A compiled step that trains from a fresh or a given state."""

    def __init__(self, train, mesh=None, model=MODEL, optimizer=None, seed: int = 0):
        self.mesh, self.model = mesh or one_device(), model
        self.optimizer = optimizer or make_optimizer(train, 100)
        self.step = make_train_step(model, self.optimizer, self.mesh, train, seed=seed)

    def train(self, batches, state=None):
        """The state after the batches, and the metrics of each step, both as host values."""
        if state is None:
            state = new_state(self.model, self.optimizer, self.mesh, 0)
        found = []
        for batch in batches:
            state, metrics = self.step(state, put(batch, self.mesh))
            found.append(jax.device_get(metrics))
        return jax.device_get(state), found


def same_bits(a, b) -> bool:
    equal = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return all(jax.tree.leaves(equal))
