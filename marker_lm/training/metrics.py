"""Where metrics go: TensorBoard, one JSON line a record, and Weights & Biases if asked for."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from marker_lm.data.whole_files import write_whole
from marker_lm.training.checkpoints import absolute


class MetricWriter:
    """Writes scalars to `workdir/tensorboard` and `workdir/metrics.jsonl`.

    Args:
      workdir: the run's folder.
      step: where the run starts or goes on; records after it come from a part of an earlier attempt
        that is repeated now, and are taken out.
    """

    def __init__(self, workdir: str | epath.Path, step: int):
        self.path = epath.Path(workdir) / "metrics.jsonl"
        kept = [r for r in read_metrics(workdir) if r["step"] <= step] if step else []
        self._lines = [json.dumps(r) + "\n" for r in kept]
        self._save()
        # TensorBoard forgets the step it purges from, too.
        self._board = SummaryWriter(str(epath.Path(workdir) / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records `scalars` (name -> float) for `step`."""
        scalars = {name: float(value) for name, value in scalars.items()}
        self._lines.append(json.dumps({"step": step, **scalars}) + "\n")
        self._save()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def _save(self) -> None:
        # Object stores cannot append, and a record is short: the file is written whole. A kill in
        # the middle leaves the file before.
        write_whole(self.path, "".join(self._lines).encode())

    def close(self) -> None:
        self._board.close()


class WandbWriter:
    """Sends scalars to a project of Weights & Biases; needs the extra `wandb`.

    Args:
      project: its name.
      workdir: the run's folder: a run that goes on there goes on in Weights & Biases, too.
      config: shown beside the run.

    Raises:
      ValueError: the package is not there.
    """

    def __init__(self, project: str, workdir: epath.PathLike, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise ValueError(
                f"train.wandb_project={project} needs a package that is not there: "
                "pip install 'marker-lm[wandb]'."
            ) from None
        path = absolute(workdir)
        self._run = wandb.init(
            project=project,
            id=f"{zlib.crc32(str(path).encode()):08x}",
            name=path.name,
            config=dict(config),
            resume="allow",
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records `scalars` for `step`; those of steps that are done again are not taken."""
        self._run.log({name: float(value) for name, value in scalars.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def make_writers(config: ConfigDict, workdir: epath.PathLike, step: int) -> list:
    """The writers that a config asks for; `step` is where the run starts or goes on."""
    writers: list = [MetricWriter(workdir, step)]
    if config.train.wandb_project:
        writers.append(WandbWriter(config.train.wandb_project, workdir, config.to_dict()))
    return writers


def read_metrics(workdir: str | epath.Path) -> list[dict[str, float]]:
    """The records of `workdir/metrics.jsonl`, oldest first; [] when there is none."""
    path = epath.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
