"""What a run reports: TensorBoard events and one JSON line a record, without TensorFlow."""

import json
from collections.abc import Mapping

from etils import epath
from tensorboardX import SummaryWriter

from marker_lm.data.whole_files import write_whole


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


def read_metrics(workdir: str | epath.Path) -> list[dict[str, float]]:
    """The records of `workdir/metrics.jsonl`, oldest first; [] when there is none."""
    path = epath.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
