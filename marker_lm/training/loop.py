"""A whole training run, top to bottom: open the caches, make or restore the state, step, save."""

import signal
import time
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.cache import Cache
from marker_lm.data.loader import iterate
from marker_lm.data.prepare import check_cache, prepare
from marker_lm.data.setup import Setup, eval_batches, make_setup, train_batches
from marker_lm.data.tokenizer import load_tokenizer
from marker_lm.markers.taxonomy import Taxonomy, load_taxonomy
from marker_lm.model.config import ModelConfig
from marker_lm.model.params import parameter_count
from marker_lm.progress import Progress
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding
from marker_lm.training.checkpoints import CheckpointError, Checkpoints, load_about
from marker_lm.training.metrics import MetricWriter
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.step import abstract_state, make_eval_step, make_train_step, new_state


class TrainingDiverged(RuntimeError):
    """The loss is not finite any more."""


def data_folder(config: ConfigDict, workdir: epath.PathLike) -> epath.Path:
    """Where the prepared data of a run lies."""
    return epath.Path(config.data.prepared or epath.Path(workdir) / "data")


def model_config(config: ConfigDict, setup: Setup) -> ModelConfig:
    """The transformer that the config's `model` section and the vocabulary describe."""
    return ModelConfig(vocab=setup.vocab, max_len=config.train.length, **config.model)


def train(config: ConfigDict, workdir: epath.PathLike, log: Callable[[str], None] = print) -> dict:
    """Trains to the end of the last epoch, going on from the newest checkpoint in `workdir`.

    The same command started again after any interruption ends with the same parameters, bit for bit on
    the same machine: batches are a function of the step, and nothing else carries state.

    Args:
      config: see configs/default.py.
      workdir: local or gs:// folder of checkpoints, metrics and prepared data.
      log: takes lines for people.

    Returns:
      Facts of the run: steps, parameters, seconds.

    Raises:
      TrainingDiverged: a loss that is not finite.
    """
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)

    # Data and how it is written.
    folder = data_folder(config, workdir)
    prepare(config, folder, log)
    taxonomy = load_taxonomy(config.taxonomy)
    setup = make_setup(config, taxonomy, load_tokenizer(folder / "tokenizer"))
    cache = Cache(folder / "train")
    check_cache(cache.manifest, taxonomy, setup.tokenizer, config.template)
    rows = host_rows(config.train.batch)
    batches = train_batches(config, setup, cache, rows)
    steps = len(batches)
    report_plan(batches, config.train.length, log)

    # Model, optimizer, mesh.
    mesh = make_mesh(**config.mesh)
    model = model_config(config, setup)
    optimizer = make_optimizer(config.train, steps)
    train_step = make_train_step(model, optimizer, mesh, config.train.loss_blocks)
    evaluate = make_evaluate(config, setup, folder, model, mesh, rows)
    log(
        f"{parameter_count(model) / 1e6:.2f}M parameters, arm '{config.arm}', {steps} steps of "
        f"{config.train.batch} x {config.train.length} slots on {mesh.size} device(s)"
    )

    about = {
        "config": config.to_dict(),
        "taxonomy": taxonomy.to_dict(),
        "taxonomy_hash": taxonomy.hash,
        "tokenizer_hash": setup.tokenizer.hash,
        "data": str(folder),
    }
    with Checkpoints(workdir / "checkpoints", config.train.keep) as checkpoints:
        start = checkpoints.latest_step() or 0
        if start:
            check_resume(config, taxonomy, load_about(workdir / "checkpoints"))
            state = checkpoints.restore(start, abstract_state(model, optimizer, mesh))
            log(f"going on from step {start}")
        else:
            state = new_state(model, optimizer, mesh, config.seed)

        stop = on_signal(signal.SIGTERM)
        writer = MetricWriter(workdir, start)
        sharding = batch_sharding(mesh)
        began = time.monotonic()
        pending = None  # metrics of the step before: fetching them never waits for the newest step
        window = Window()
        with Progress(f"train {config.arm}", steps, start) as progress:
            for step, batch in enumerate(
                iterate(batches, start, steps, config.data.threads), start
            ):
                batch = jax.make_array_from_process_local_data(sharding, batch)
                state, metrics = train_step(state, batch)
                if pending is not None:
                    window.add(*pending)
                pending = (step, metrics)
                done = step + 1
                if done % config.train.log_every == 0 or done == steps:
                    window.add(*pending)
                    pending = None
                    record = window.take()
                    writer.write(done, record)
                    progress.update(
                        done,
                        f"loss {record['loss']:.3f}, answer {record['answer_nats']:.3f} nats, "
                        f"{record['tokens_per_second']:.0f} tokens/s",
                    )
                if config.train.eval_every and (
                    done % config.train.eval_every == 0 or done == steps
                ):
                    writer.write(done, evaluate(state["params"]))
                    window.restart()
                if done % config.train.save_every == 0 or done == steps or stop():
                    checkpoints.save(done, state, about)
                if stop():
                    checkpoints.wait()
                    writer.close()
                    log(f"stopped by SIGTERM; step {done} is saved, the same command goes on")
                    return {"steps": done, "parameters": parameter_count(model), "stopped": True}
        writer.close()
    return {
        "steps": steps,
        "parameters": parameter_count(model),
        "seconds": time.monotonic() - began,
        "stopped": False,
    }


class Window:
    """Sums metrics between two records. `add` takes what a step returned, `take` gives means."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0
        self.began = time.monotonic()

    def add(self, step: int, metrics) -> None:
        """Raises TrainingDiverged when the step's loss is not finite."""
        metrics = jax.device_get(metrics)
        if not np.isfinite(metrics["loss"]):
            raise TrainingDiverged(
                f"the loss of step {step + 1} is {metrics['loss']}; lower train.learning_rate, or "
                "look at the rows of this batch."
            )
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def take(self) -> dict[str, float]:
        sums, seconds = self.sums, time.monotonic() - self.began
        trained = sums["completion_tokens"] + sums["completion_markers_tokens"]
        record = {
            "loss": sums["loss"] / self.count,
            "grad_norm": sums["grad_norm"] / self.count,
            "trained_tokens_per_second": trained / seconds,
            "tokens_per_second": sums["tokens"] / seconds,
            **nats_per_token(sums),
        }
        self.restart()
        return record


def nats_per_token(sums) -> dict[str, float]:
    """Mean nats of an answer token and of a marker token (left out where there are none)."""
    names = {"answer_nats": "completion", "marker_nats": "completion_markers"}
    return {
        name: sums[f"{kind}_nats"] / sums[f"{kind}_tokens"]
        for name, kind in names.items()
        if sums[f"{kind}_tokens"]
    }


def make_evaluate(config, setup: Setup, folder, model: ModelConfig, mesh, rows: slice) -> Callable:
    """Returns params -> {'eval_answer_nats', ...} over the held-out cache; {} where there is none."""
    if not config.train.eval_every or not (folder / "heldout").exists():
        return lambda params: {}
    cache = Cache(folder / "heldout")
    check_cache(cache.manifest, setup.taxonomy, setup.tokenizer, config.template)
    batches = eval_batches(config, setup, cache, rows)
    eval_step = make_eval_step(model, mesh, config.train.loss_blocks)
    count = min(len(batches), config.train.eval_batches)
    sharding = batch_sharding(mesh)

    def evaluate(params) -> dict[str, float]:
        total: dict[str, float] = {}
        for step in range(count):
            batch = jax.make_array_from_process_local_data(sharding, batches[step])
            for name, value in jax.device_get(eval_step(params, batch)).items():
                total[name] = total.get(name, 0.0) + float(value)
        return {f"eval_{name}": value for name, value in nats_per_token(total).items()}

    return evaluate


def host_rows(batch: int) -> slice:
    """The rows of a global batch that this host reads."""
    hosts, host = jax.process_count(), jax.process_index()
    if batch % hosts:
        raise ValueError(f"train.batch={batch} does not divide by {hosts} hosts.")
    return slice(host * batch // hosts, (host + 1) * batch // hosts)


def report_plan(batches, length: int, log: Callable[[str], None]) -> None:
    """Says how full the packed sequences are, and which rows do not fit."""
    sequences = sum(plan.sequences for plan in batches.plans)
    used = sum(plan.used_slots for plan in batches.plans)
    log(f"packed into {sequences} sequences, {100 * used / (sequences * length):.1f} % full")
    too_long = len(np.unique(np.concatenate([plan.too_long for plan in batches.plans])))
    if too_long:
        log(f"{too_long} rows are longer than train.length={length} and are left out")


def check_resume(config: ConfigDict, taxonomy: Taxonomy, about: dict) -> None:
    """Raises CheckpointError when the checkpoint was trained under another config or taxonomy."""
    if about["taxonomy_hash"] != taxonomy.hash:
        changes = "; ".join(Taxonomy.from_dict(about["taxonomy"]).diff(taxonomy))
        raise CheckpointError(
            f"the checkpoint has another taxonomy ({changes}); use a new workdir."
        )
    for key in ("seed", "arm", "template", "markers", "model"):
        have, want = about["config"][key], config.to_dict()[key]
        if _plain(have) != _plain(want):
            raise CheckpointError(
                f"the checkpoint was trained with {key}={have}, the config says {want}; "
                "use a new workdir or the old config."
            )


def _plain(value):
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def on_signal(number: int) -> Callable[[], bool]:
    """Installs a handler that only remembers; returns whether the signal came."""
    came: list[int] = []
    signal.signal(number, lambda *_: came.append(number))
    return lambda: bool(came)
