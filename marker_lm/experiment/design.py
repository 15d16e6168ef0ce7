"""The runs of an experiment: from one config file and the names of arms to commands and folders."""

import dataclasses
import sys
from collections.abc import Callable, Sequence

from etils import epath
from ml_collections import ConfigDict

from marker_lm.annotate.checks import make_counters
from marker_lm.data.arms import ARMS
from marker_lm.data.setup import find_arm
from marker_lm.data.tokenizers.training import TRAINERS
from marker_lm.markers.category import mend
from marker_lm.markers.taxonomy import load_taxonomy


class ExperimentError(ValueError):
    """An experiment that can't be run as it is asked for; one sentence."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
      arm, seed: which.
      rate: peak learning rate; None where it is not chosen yet.
      steps: of training.
      folder: its workdir.
      sweep: whether it is there to choose the arm's learning rate.
    """

    arm: str
    seed: int
    rate: float | None
    steps: int
    folder: epath.Path
    sweep: bool = False

    @property
    def name(self) -> str:
        about = f"rate {self.rate:g}" if self.sweep else f"seed {self.seed}"
        return f"{self.arm}, {about}"


@dataclasses.dataclass(frozen=True)
class Design:
    """All arms of an experiment, on the same rows, in the same order and steps.

    Rows stand in the same sequences and steps in every arm, because packing reckons for each row
    with the arm that needs most room for it: an arm with shorter lists has more padding there, and
    never other rows. So an arm with lists takes the same steps of the same shape, and arms differ
    in what they write and learn, not in how often they see a row. Arms that draw other rows on
    purpose (upsampling) have the same number of steps.

    Attributes:
      file, words: of the config: FILE:ARM,WORDS is that of an arm.
      overrides: --config.KEY=VALUE that hold for all arms; '{arm}' in one is the arm's name.
      configs: arm -> its config, the reference first.
      planned: configs that packing reckons with: also those of arms that may be run later.
      seeds: of each arm; those in the config's experiment.once have the first only.
      workdir: of the whole experiment.
    """

    file: str
    words: str
    overrides: tuple[str, ...]
    configs: dict[str, ConfigDict]
    planned: tuple[ConfigDict, ...]
    seeds: tuple[int, ...]
    workdir: epath.Path

    @property
    def reference(self) -> ConfigDict:
        """The config of the arm that the others are compared with."""
        return next(iter(self.configs.values()))

    @property
    def templates(self) -> list[str]:
        """Those of all arms, each of which needs data of its own; the reference's first."""
        return list(dict.fromkeys(config.template for config in self.configs.values()))

    def data(self, template: str) -> epath.Path:
        """Where the rows are prepared for a template."""
        return self.workdir / "data" / template

    def plan(self) -> dict:
        """What the packing of all arms reckons with."""
        sided = [c for c in self.planned if find_arm(c.arm).prompt_side]
        return {
            "plan_arms": tuple(sorted({config.arm for config in self.planned})),
            "plan_dropout": min((c.markers.example_dropout for c in sided), default=1.0),
            "templates": self.templates,
        }

    def options(self, arm: str) -> list[str]:
        """The overrides that make an arm's config that of this experiment."""
        config, plan = self.configs[arm], self.plan()
        others = tuple(str(self.data(t)) for t in self.templates if t != config.template)
        found = [
            *overrides_of(arm, self.overrides),
            f"--config.data.prepared={self.data(config.template)}",
            f"--config.plan_arms={plan['plan_arms']!r}",
            f"--config.plan_data={others!r}",
            f"--config.plan_dropout={plan['plan_dropout']:g}",
        ]
        first = self.templates[0]
        if config.data.tokenizer in TRAINERS and config.template != first:
            # Trained on the rows once, for the first template: all arms write the same tokens.
            found.append(f"--config.data.tokenizer={self.data(first) / 'tokenizer'}")
        return found

    def command(self, verb: str, arm: str, folder: epath.PathLike, *more: str) -> list[str]:
        """A command of marker-lm for one arm."""
        words = ",".join(filter(None, (arm, self.words)))
        config = f"--config={self.file}:{words}"
        program = [sys.executable, "-m", "marker_lm", verb]
        return [*program, config, f"--workdir={folder}", *self.options(arm), *more]

    def prepare_command(self, template: str) -> list[str]:
        """Prepares the rows for a template, by the first arm that has it."""
        arm = next(a for a, c in self.configs.items() if c.template == template)
        return self.command("prepare", arm, self.data(template))

    def train_command(self, run: Run) -> list[str]:
        """Trains one run."""
        train = self.configs[run.arm].train
        final = run.rate * train.final_learning_rate / train.learning_rate
        return self.command(
            "train",
            run.arm,
            run.folder,
            f"--config.seed={run.seed}",
            f"--config.train.steps={run.steps}",
            f"--config.train.learning_rate={run.rate:g}",
            f"--config.train.final_learning_rate={final:g}",
        )

    def sweep(self, arm: str) -> list[Run]:
        """The runs that choose an arm's learning rate; none where it is as the config says."""
        about = self.configs[arm].experiment
        if not about.sweep_steps:
            return []
        return [
            Run(arm, self.seeds[0], rate, about.sweep_steps, folder, sweep=True)
            for rate in about.learning_rates
            for folder in [self.workdir / "sweep" / arm / f"{rate:g}"]
        ]

    def main(self, arm: str, rate: float | None) -> list[Run]:
        """The runs that are compared."""
        config = self.configs[arm]
        seeds = self.seeds[:1] if arm in config.experiment.once else self.seeds
        return [
            Run(arm, seed, rate, config.train.steps, self.workdir / "runs" / arm / f"seed{seed}")
            for seed in seeds
        ]

    def runs(self) -> list[Run]:
        """All runs in their order; rates are open where swept.

        Sweeps, then seed by seed, so that whole seeds can be compared before all are done; then the
        same of arms that are run once.
        """
        found: list[Run] = []
        for late in (False, True):
            sweeps, mains = [], []
            for arm, config in self.configs.items():
                if (arm in config.experiment.once) == late:
                    sweep = self.sweep(arm)
                    sweeps += sweep
                    mains += self.main(arm, None if sweep else config.train.learning_rate)
            found += sweeps + sorted(mains, key=lambda run: self.seeds.index(run.seed))
        return found

    def label(self, arm: str) -> str:
        """An arm for people: its kind, and its name where that says more."""
        kind = self.configs[arm].arm
        return ARMS[kind].label if arm == kind else f"{arm.replace('_', ' ')} ({ARMS[kind].label})"


def overrides_of(arm: str, overrides: Sequence[str]) -> list[str]:
    """Those of one arm: so each may go on from an earlier model of its own."""
    return [override.replace("{arm}", arm) for override in overrides]


def scored_list(config: ConfigDict) -> str:
    """Which list stands before answers when an arm is compared: own, true, filler or none.

    A model is scored with a list as it was trained with. One that was not taught to write its list
    is scored with the true one, and knows more than the others.
    """
    kind = find_arm(config.arm)
    if not kind.completion_side:
        return "none"
    if kind.filler:
        return "filler"
    return "own" if config.train.loss_weights.completion_markers else "true"


def make_design(
    load: Callable[[str, list[str]], ConfigDict],
    config: str,
    overrides: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    workdir: epath.PathLike,
) -> Design:
    """Reads the configs of all arms and checks that they can be compared.

    Args:
      load: (FILE:WORDS, overrides) -> config.
      config: FILE or FILE:WORDS without an arm.
      overrides: for all arms; see Design.
      arms, seeds: those of the config when empty.
      workdir: of the experiment.

    Raises:
      ExperimentError: no such arms, or arms that differ in what must be the same.
    """
    file, _, words = config.partition(":")
    about = load(config, list(overrides))
    if "experiment" not in about:
        raise ExperimentError(f"{file} has no section 'experiment'; see configs/experiment.py.")
    about = about.experiment
    names = list(dict.fromkeys([about.reference, *(arms or about.arms)]))
    loaded = {
        arm: load(f"{file}:{','.join(filter(None, (arm, words)))}", overrides_of(arm, overrides))
        for arm in dict.fromkeys([*names, *about.arms])
    }
    configs, planned = {arm: loaded[arm] for arm in names}, tuple(loaded.values())
    seeds = tuple(seeds or about.seeds)
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ExperimentError(f"--seeds={','.join(map(str, seeds))} must be different numbers.")
    design = Design(file, words, tuple(overrides), configs, planned, seeds, epath.Path(workdir))
    first = design.reference
    for arm, config in configs.items():
        for key in ("train.steps", "train.batch", "train.length", "markers.marker_dropout"):
            section, name = key.split(".")
            if config[section][name] != first[section][name]:
                raise ExperimentError(
                    f"arm {arm} has {key}={config[section][name]}, {names[0]} has "
                    f"{first[section][name]}; arms are compared over the same rows and steps."
                )
        if not config.train.steps:
            raise ExperimentError("train.steps is 0; give the number of steps that all arms take.")
    if (best_of := first.experiment.best_of) and not first.decode.temperature:
        raise ExperimentError(
            f"experiment.best_of={best_of}: at temperature 0 all answers are one; set "
            "decode.temperature."
        )
    if hold := first.experiment.hold:
        counters = make_counters(load_taxonomy(first.taxonomy))
        if hold not in counters:
            raise ExperimentError(
                f"experiment.hold={hold}: nothing counts that; {mend(hold, counters)}"
            )
    return design
