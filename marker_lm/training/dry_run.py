"""What `marker-lm train` would do, told without training and without writing a file."""

from collections.abc import Callable

import jax
from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.cache import CacheError, read_manifest
from marker_lm.sharding.mesh import make_mesh
from marker_lm.sharding.rules import batch_shards
from marker_lm.training import gradient, guard
from marker_lm.training.checkpoints import read_about, resume_step
from marker_lm.training.reports import report_run
from marker_lm.training.resume import check_resume
from marker_lm.training.run import Run, make_run, read_named


def dry_run(
    config: ConfigDict, workdir: epath.PathLike, log: Callable[[str], None] = print
) -> Run | None:
    """Says what training would do: data, model, mesh, steps, saves, and where it would go on from.

    Returns:
      The run, None where the data is not prepared yet: then its steps are not known.

    Raises:
      What `train` raises of the config, of data that does not belong to it and of checkpoints.
    """
    workdir, train = epath.Path(workdir), config.train
    log("dry run: nothing is trained or written")
    named = read_named(config, workdir)
    start = resume_step(workdir / "checkpoints", log)
    if start:
        check_resume(named.about, read_about(workdir / "checkpoints", start))
    if not _is_prepared(named.folder, named.about["data_key"]):
        mesh = make_mesh(**config.mesh)
        log(
            f"data: {named.folder} is not prepared for this config; training would do that first "
            "(`marker-lm prepare` does it alone), and only then are the steps known"
        )
        log(f"mesh: {_shown(mesh)}")
        return None
    run = make_run(named, log)
    if start:
        check_resume(run.about, read_about(workdir / "checkpoints", start))
    gradient.check(run.model, run.mesh, train)
    guard.check(train)
    report_run(run, log)
    log(f"mesh: {_shown(run.mesh)}")
    shards = batch_shards(run.mesh)
    micro = f", in {train.accumulate} pieces" if train.accumulate > 1 else ""
    log(
        f"rows: {train.batch} a step, {train.batch // shards} on a device{micro}; "
        f"this process reads {len(run.rows)} of them"
    )
    log(f"saves: {_saves(train)}, in {workdir / 'checkpoints'}")
    held_out = min(len(run.heldout), train.eval_batches) if run.heldout else 0
    log(
        f"held out: {held_out} batches every {train.eval_every} steps"
        if held_out
        else "held out: nothing is measured"
    )
    if start:
        log(f"start: from step {start} of {run.steps}")
    else:
        log(f"start: from the beginning, {config.init_from or 'random parameters'}")
    return run


def _is_prepared(folder: epath.Path, key: str) -> bool:
    try:
        return read_manifest(folder / "train").get("key") == key
    except CacheError:
        return False


def _shown(mesh: jax.sharding.Mesh) -> str:
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    return f"{axes} on {mesh.size} x {mesh.devices.flat[0].device_kind}"


def _saves(train: ConfigDict) -> str:
    """When checkpoints are saved and which are kept, in words."""
    when = [f"every {train.save_every} steps"] if train.save_every else []
    when += [f"every {train.save_minutes:g} minutes"] if train.save_minutes else []
    when += ["at the end and on SIGTERM"]
    kept = f"the newest {train.keep} are kept"
    if train.keep_every:
        kept += f", and all of multiples of {train.keep_every}"
    return f"{', '.join(when)}; {kept}"
