"""A whole training run, top to bottom: open the data, make or restore the state, step, save."""

import signal
import time
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.loader import iterate
from marker_lm.model.params import parameter_count
from marker_lm.progress import clock
from marker_lm.sharding.hosts import global_batch
from marker_lm.sharding.rules import laid_out_params
from marker_lm.training.checkpoints import Checkpoints, read_about, resume_step, set_aside
from marker_lm.training.distributed import barrier, check_shared, is_main
from marker_lm.training.flops import make_step_flops
from marker_lm.training.reports import Reports, report_run
from marker_lm.training.resume import check_resume
from marker_lm.training.run import Run, first_state, make_run, prepare_data, read_named
from marker_lm.training.signals import make_any_process, remember
from marker_lm.training.step import (
    abstract_batch,
    abstract_state,
    make_eval_step,
    make_train_step,
)
from marker_lm.training.window import nats_per_token


def train(config: ConfigDict, workdir: epath.PathLike, log: Callable[[str], None] = print) -> dict:
    """Trains to the end of the last epoch, going on from the newest sound checkpoint in `workdir`.

    The same command started again after any interruption ends with the same parameters, bit for bit
    on the same machine: batches are a function of the step, and nothing else carries state. All
    processes of a run call this; the first one alone writes files and talks.

    Args:
      config: see configs/default.py.
      workdir: local or gs:// folder of checkpoints, metrics and prepared data.
      log: takes lines for people.

    Returns:
      Facts of the run: steps, parameters, seconds, stopped (by SIGTERM).

    Raises:
      TrainingDiverged: the guard stops the run at a broken step; nothing after it is saved.
      CheckpointError: the newest checkpoint is of another config, taxonomy or data, or all
        checkpoints are damaged.
      SetupError: no row fits.
      ConvertError: the model that `init_from` names can't be read.
    """
    began = time.time()
    log = log if is_main() else lambda line: None
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    check_shared(workdir)
    named = read_named(config, workdir)
    if named.pretrained:
        named.pretrained.need_weights()  # before anything is prepared for it
    start = resume_step(workdir / "checkpoints", log)
    if start:  # before anything is written: preparing other data would replace the tokenizer
        check_resume(named.about, read_about(workdir / "checkpoints", start))
    prepare_data(named, log)
    run = make_run(named, log)
    if start:
        check_resume(run.about, read_about(workdir / "checkpoints", start))
    if is_main():
        run.setup.tokenizer.save(workdir / "tokenizer")  # decoding needs the run's folder only
    report_run(run, log)
    set_aside(workdir / "checkpoints", start, log)
    with (
        Checkpoints(workdir / "checkpoints", config.train.keep, config.train.keep_every) as saves,
        remember(signal.SIGTERM) as terminated,
    ):
        if start:
            abstract = abstract_state(run.model, run.optimizer, run.mesh, run.trained)
            state = saves.restore(start, abstract)
            log(f"going on from step {start}")
        else:
            state = first_state(run, log)
        with Reports(run, workdir, start, began, log) as reports:
            done = take_steps(run, state, start, saves, reports, terminated)
        saves.wait()
    barrier("trained")
    facts = {"steps": done, "parameters": parameter_count(run.model)}
    if done < run.steps:
        log(f"stopped by SIGTERM; step {done} is saved, the same command goes on")
    return facts | {"seconds": time.time() - began, "stopped": done < run.steps}


def take_steps(
    run: Run, state, start: int, saves: Checkpoints, reports: Reports, terminated
) -> int:
    """Steps from `start` to the end, or to a SIGTERM; returns how many are finished and saved."""
    config, steps, window = run.config.train, run.steps, reports.window
    if start >= steps:
        return start
    with window.paused():
        train_step = compile_step(run, reports.log)
        evaluate = make_evaluate(run)
        # A collective does not wait long for a process that still compiles.
        barrier("compiled")
    step_flops = make_step_flops(run.model, run.trained)
    any_process = make_any_process(run.mesh)
    wished = heard = np.zeros(2, bool)  # stop, save: of all processes, heard a step later
    saved_at = time.monotonic()
    batches = iterate(run.batches, start, steps, run.config.data.threads)
    for done in range(start + 1, steps + 1):
        with window.waiting_for_data():
            batch = next(batches)
        reports.before_step(done - 1)
        batch = global_batch(batch, run.rows, config.batch, run.mesh)
        state, metrics = train_step(state, batch)
        metrics["flops"] = step_flops(batch["kinds"], batch["positions"])
        minutes = (time.monotonic() - saved_at) / 60
        wished, heard = any_process([terminated(), 0 < config.save_minutes <= minutes]), wished
        window.add(done - 1, metrics)
        reports.after_step(done, metrics)

        (stop, time_is_up), last = np.asarray(heard), done == steps
        record = {}
        if last or due(done, config.log_every):
            record = reports.take(done)
        if run.heldout and (last or due(done, config.eval_every)):
            with window.paused():
                record |= evaluate(state["params"])
        if record:
            reports.write(done, record)
        if last or stop or time_is_up or due(done, config.save_every):
            window.settle()  # a step that went wrong must not be saved
            with window.paused():
                saves.save(done, state, run.about)
            saved_at, wished = time.monotonic(), np.zeros(2, bool)
        if stop:
            return done
    return steps


def due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps is due; 0 is never."""
    return every > 0 and step % every == 0


def compile_step(run: Run, log: Callable[[str], None]) -> Callable:
    """The compiled train step, (state, batch) -> (state, metrics)."""
    train, began = run.config.train, time.monotonic()
    step = make_train_step(run.model, run.optimizer, run.mesh, train, run.trained, run.config.seed)
    abstract = abstract_state(run.model, run.optimizer, run.mesh, run.trained)
    compiled = step.lower(abstract, abstract_batch(train, run.mesh)).compile()
    log(f"compiled in {clock(time.monotonic() - began)}")
    return compiled


def make_evaluate(run: Run) -> Callable:
    """Returns params -> {'eval_answer_nats', ...} over the held-out rows; {} without any."""
    if not run.heldout:
        return lambda params: {}
    config = run.config.train
    count = min(len(run.heldout), config.eval_batches)
    params = laid_out_params(run.model, run.mesh)
    eval_step = make_eval_step(run.model, run.mesh, config)
    eval_step = eval_step.lower(params, abstract_batch(config, run.mesh)).compile()

    def evaluate(params) -> dict[str, float]:
        total: dict[str, float] = {}
        for step in range(count):
            batch = global_batch(run.heldout[step], run.rows, config.batch, run.mesh)
            for name, value in jax.device_get(eval_step(params, batch)).items():
                total[name] = total.get(name, 0.0) + float(value)
        return {f"eval_{name}": value for name, value in nats_per_token(total).items()}

    return evaluate
