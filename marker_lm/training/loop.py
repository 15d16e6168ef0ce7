"""A whole training run, top to bottom: open the caches, make or restore the state, step, save."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from marker_lm.convert.check import check_tokenizer
from marker_lm.convert.check import model_config as pretrained_config
from marker_lm.convert.checkpoint import config_tokenizer, open_init_from
from marker_lm.convert.families import find_family
from marker_lm.convert.families.family import RUNTIME
from marker_lm.convert.load import load_params, trained_markers, with_marker_rows
from marker_lm.convert.pretrained import Pretrained
from marker_lm.data.cache import Cache
from marker_lm.data.inputs import data_key, file_facts
from marker_lm.data.loader import iterate
from marker_lm.data.prepare import check_cache, prepare
from marker_lm.data.setup import Setup, data_folder, eval_batches, make_setup, train_batches
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.markers.definitions import marker_rows
from marker_lm.markers.taxonomy import load_taxonomy
from marker_lm.model.config import LoRA, ModelConfig
from marker_lm.model.params import parameter_count
from marker_lm.progress import Progress
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_sharding
from marker_lm.training.checkpoints import Checkpoints, check_resume, has_checkpoint, load_about
from marker_lm.training.metrics import MetricWriter
from marker_lm.training.optimizer import make_optimizer
from marker_lm.training.step import abstract_state, make_eval_step, make_train_step, new_state
from marker_lm.training.trainable import trained_paths


class TrainingDiverged(ValueError):
    """The loss or its gradient is not finite any more."""


def model_config(
    config: ConfigDict, setup: Setup, pretrained: Pretrained | None = None
) -> ModelConfig:
    """The transformer that the config's `model` and `lora` and the vocabulary describe.

    That of a pretrained model is its own; of `model`, the RUNTIME keys count.
    """
    lora = LoRA(**config.lora) if config.lora.rank else None
    length = config.train.length
    if pretrained is None:
        return ModelConfig(vocab=setup.vocab, max_len=length, lora=lora, **config.model)
    runtime = {key: config.model[key] for key in RUNTIME}
    model = pretrained_config(pretrained, vocab=setup.vocab, lora=lora, **runtime)
    return dataclasses.replace(model, max_len=max(length, model.max_len))


def train(config: ConfigDict, workdir: epath.PathLike, log: Callable[[str], None] = print) -> dict:
    """Trains to the end of the last epoch, going on from the newest checkpoint in `workdir`.

    The same command started again after any interruption ends with the same parameters, bit for bit
    on the same machine: batches are a function of the step, and nothing else carries state.

    Args:
      config: see configs/default.py.
      workdir: local or gs:// folder of checkpoints, metrics and prepared data.
      log: takes lines for people.

    Returns:
      Facts of the run: steps, parameters, seconds.

    Raises:
      TrainingDiverged: a loss or a gradient that is not finite; nothing after it is saved.
      CheckpointError: the newest checkpoint is of another config, taxonomy or data.
      SetupError: no row fits.
      ConvertError: the model that `init_from` names can't be read.
    """
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)

    # Data and how it is written.
    folder = data_folder(config, workdir)
    taxonomy = load_taxonomy(config.taxonomy)
    pretrained = open_init_from(config)
    their_vocab = pretrained_config(pretrained).vocab if pretrained else 0
    tokenizer = config_tokenizer(config, pretrained)
    about = {
        "config": config.to_dict(),
        "taxonomy": taxonomy.to_dict(),
        "taxonomy_hash": taxonomy.hash,
        "data_key": data_key(config, taxonomy, file_facts(config, folder), tokenizer),
    }
    # Before anything is written: preparing other data would replace the checkpoint's tokenizer.
    if has_checkpoint(workdir / "checkpoints"):
        check_resume(about, load_about(workdir / "checkpoints"))
    prepare(config, folder, log, pretrained=tokenizer)
    setup = make_setup(config, taxonomy, load_tokenizer(folder / "tokenizer"), their_vocab)
    if setup.chat is not None:  # decoding may be where the template's file is not
        about["config"]["data"]["chat"]["template"] = setup.chat.template
    cache = Cache(folder / "train")
    check_cache(cache.manifest, taxonomy, setup.tokenizer, config.template)
    about["tokenizer_hash"] = setup.tokenizer.hash
    setup.tokenizer.save(workdir / "tokenizer")  # decoding needs the run's own folder only
    rows = host_rows(config.train.batch)
    batches = train_batches(config, setup, cache, rows)
    steps = len(batches)
    report_plan(batches, log)

    # Model, optimizer, mesh.
    mesh = make_mesh(**config.mesh)
    model = model_config(config, setup, pretrained)
    trained = trained_paths(model, config.train.trainable)
    about["model"] = dataclasses.asdict(model)
    if pretrained:
        check_tokenizer(setup.tokenizer, their_vocab, str(folder))
        about["model_type"] = find_family(pretrained.config).model_type
        about["generation"] = pretrained.generation
        known = trained_markers(pretrained.about, about)
        new_rows = [] if known else marker_rows(taxonomy, setup.codec, setup.tokenizer)
        about["base"] = {"vocab": their_vocab, "new_marker_rows": len(new_rows)}
    optimizer = make_optimizer(config.train, steps)
    train_step = make_train_step(model, optimizer, mesh, config.train.loss_blocks, trained)
    evaluate = make_evaluate(config, setup, folder, model, mesh, rows, log)
    log(
        f"{parameter_count(model) / 1e6:.2f}M parameters, "
        f"{parameter_count(model, trained) / 1e6:.2f}M of them trained, arm '{config.arm}', "
        f"{steps} steps of {config.train.batch} x {config.train.length} slots "
        f"on {mesh.size} device(s)"
    )

    with (
        Checkpoints(workdir / "checkpoints", config.train.keep) as checkpoints,
        remember(signal.SIGTERM) as terminated,
    ):
        start = checkpoints.latest_step() or 0
        if start:
            check_resume(about, load_about(workdir / "checkpoints"))
            state = checkpoints.restore(start, abstract_state(model, optimizer, mesh, trained))
            log(f"going on from step {start}")
        else:
            params = None
            if pretrained:
                base = dataclasses.replace(model, lora=None)
                params = load_params(pretrained, base, mesh, log)
                params = with_marker_rows(params, new_rows)
            state = new_state(model, optimizer, mesh, config.seed, params, trained)
            del params  # the state has taken them over

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
                stop, last = terminated(), done == steps
                log_now = last or due(done, config.train.log_every)
                save_now = last or stop or due(done, config.train.save_every)
                eval_now = config.train.eval_every and (last or due(done, config.train.eval_every))
                record = {}
                if log_now or save_now:  # a step that went wrong must not be saved
                    window.add(*pending)
                    pending = None
                if log_now:
                    record = window.take()
                    progress.update(done, describe(record))
                if eval_now:
                    with window.paused():
                        record |= evaluate(state["params"])
                if record:
                    writer.write(done, record)
                if save_now:
                    checkpoints.save(done, state, about)
                if stop:
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


def due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps is due; 0 is never."""
    return every > 0 and step % every == 0


class Window:
    """Sums metrics between two records. `add` takes what a step returned, `take` gives means."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0
        self.began = time.monotonic()

    def add(self, step: int, metrics) -> None:
        """Raises TrainingDiverged when the step's loss or gradient is not finite."""
        metrics = jax.device_get(metrics)
        for name, words in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
            if not np.isfinite(metrics[name]):
                raise TrainingDiverged(
                    f"the {words} of step {step + 1} is {metrics[name]}; lower "
                    "train.learning_rate, or look at the rows of this batch."
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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count as time of training."""
        start = time.monotonic()
        yield
        self.began += time.monotonic() - start


def describe(record) -> str:
    """A record in a line of progress."""
    answer = f"answer {record['answer_nats']:.3f} nats, " if "answer_nats" in record else ""
    return f"loss {record['loss']:.3f}, {answer}{record['tokens_per_second']:.0f} tokens/s"


def nats_per_token(sums) -> dict[str, float]:
    """Mean nats of an answer token and of a marker token (left out where there are none)."""
    names = {"answer_nats": "completion", "marker_nats": "completion_markers"}
    return {
        name: sums[f"{kind}_nats"] / sums[f"{kind}_tokens"]
        for name, kind in names.items()
        if sums[f"{kind}_tokens"]
    }


def make_evaluate(
    config, setup: Setup, folder, model: ModelConfig, mesh, rows: slice, log
) -> Callable:
    """Returns params -> {'eval_answer_nats', ...} over the held-out cache; {} without one."""
    if not config.train.eval_every or not (folder / "heldout").exists():
        return lambda params: {}
    cache = Cache(folder / "heldout")
    check_cache(cache.manifest, setup.taxonomy, setup.tokenizer, config.template)
    batches = eval_batches(config, setup, cache, rows)
    report_plan(batches, lambda line: log(f"held out: {line}"))
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


def report_plan(batches, log: Callable[[str], None]) -> None:
    """Says how full the packed sequences are, and what becomes of rows that do not fit."""
    for line in batches.summary.lines():
        log(line)


@contextlib.contextmanager
def remember(number: int) -> Iterator[Callable[[], bool]]:
    """Inside, a signal is only remembered; yields a function that says whether it came."""
    came: list[int] = []
    before = signal.signal(number, lambda *_: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(number, before)
