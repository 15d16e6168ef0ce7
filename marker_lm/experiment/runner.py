"""Prepares, sweeps, trains and measures all runs in turn; a killed experiment goes on."""

import dataclasses
import json
import multiprocessing
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from etils import epath

from marker_lm.data.whole_files import write_whole
from marker_lm.decoding.sampling import Sampling
from marker_lm.evaluation.benchmark import Item
from marker_lm.experiment.design import Design, ExperimentError, Run
from marker_lm.experiment.registration import Asked, ask
from marker_lm.progress import clock

DONE, RECORDS, RESULTS = "done.json", "records.jsonl", "results.json"
SAMPLED_VALUES = 8  # the most frequent ones of a category, that samples are asked for


def read_done(run: Run) -> dict[str, Any] | None:
    """What a finished run said of itself; None for one that is not finished."""
    path = run.folder / DONE
    return json.loads(path.read_text()) if path.exists() else None


class Runner:
    """Runs a design.

    Args:
      design: see Design.
      dev, test: items for the choice of rates, and of the results.
      registration: see registration.py; a run is of one registration only.
      log: takes lines for people.
    """

    def __init__(
        self,
        design: Design,
        dev: Sequence[Item],
        test: Sequence[Item],
        registration: Mapping[str, Any],
        log: Callable[[str], None] = print,
    ):
        self.design, self.dev, self.test, self.log = design, dev, test, log
        self.strata, self.registered = registration["strata"], registration["hash"]
        self.asked = ask(design, test, self.strata)

    def run_all(self) -> None:
        """All runs, each done once. Raises ExperimentError when one fails."""
        for template in self.design.templates[1:]:
            call(self.design.prepare_command(template), f"prepare {template}")
        for run in self.design.runs():
            if run.rate is None:
                run = dataclasses.replace(run, rate=chosen_rate(self.design, run.arm))
            self._do(run)

    def samples(self) -> list[dict[str, Any]]:
        """Prompts with one lever moved, by the first run of 'markers', where there is one."""
        if "markers" not in self.design.configs:
            return []
        values = {
            category: sorted(shares, key=shares.__getitem__, reverse=True)[:SAMPLED_VALUES]
            for category, shares in self.strata["train_shares"].items()
        }
        folder = self.design.main("markers", None)[0].folder
        items = [item for item in self.test if item.id in self.asked.answered]
        most = self.design.reference.eval.samples
        return in_process(_samples, folder, items, values, self.asked.sampling, most)

    def _do(self, run: Run) -> None:
        done = read_done(run)
        if done is not None:
            self._check(run, done)
            return
        self.log(f"== {run.name} ==  {left(self.design)}")
        began = time.monotonic()
        call(self.design.train_command(run), run.name)
        trained = time.monotonic()
        facts = in_process(_trained_facts, run.folder)
        if facts["steps"] != run.steps:
            raise ExperimentError(
                f"{run.name} ended after {facts['steps']} of {run.steps} steps, because its epochs "
                "have no more; raise train.epochs for all arms, in a new workdir."
            )
        if run.sweep:
            facts["dev_nats"] = in_process(_dev, run.folder, self.dev)
        else:
            path = run.folder / RECORDS
            in_process(_measure, run.folder, self.test, self.asked, path)
            facts |= _answered(self.asked)
        facts |= {
            "registered": self.registered,
            "rate": run.rate,
            "seconds": {"train": trained - began, "measure": time.monotonic() - trained},
        }
        write_whole(run.folder / DONE, (json.dumps(facts) + "\n").encode())

    def _check(self, run: Run, done: dict[str, Any]) -> None:
        wanted = {"registered": self.registered, "rate": run.rate, "steps": run.steps}
        if not run.sweep:
            wanted |= _answered(self.asked)
        for key, value in wanted.items():
            if done.get(key) != value:
                raise ExperimentError(
                    f"{run.folder} holds a finished run with {key}={done.get(key)}, not {value}; "
                    "use a new workdir."
                )


def _answered(asked: Asked) -> dict[str, Any]:
    """How the answers of a run came about, for its done.json: all that is not as by default, so
    that a setting which is new does not set runs of before apart."""
    said, default = map(dataclasses.asdict, (asked.sampling, Sampling()))
    sampling = {key: value for key, value in said.items() if value != default[key]}
    more = {"best_of": asked.best_of, "hold": asked.hold}
    facts = {"sampling": sampling} | {key: value for key, value in more.items() if value}
    return json.loads(json.dumps(facts))  # as it is read back


def chosen_rate(design: Design, arm: str) -> float:
    """The learning rate of an arm: that with the least nats on dev items, or the config's.

    Raises ExperimentError where a run of the sweep is not finished.
    """
    sweep = design.sweep(arm)
    if not sweep:
        return design.configs[arm].train.learning_rate
    done = [read_done(run) for run in sweep]
    if None in done:
        raise ExperimentError(
            f"the sweep of {arm} is not finished: {sweep[done.index(None)].name}."
        )
    best = min(range(len(sweep)), key=lambda n: done[n]["dev_nats"])
    return sweep[best].rate


def seconds_left(design: Design) -> float:
    """Estimated seconds of all runs that are not finished: from those that are, else the config."""
    runs = [(run, read_done(run)) for run in design.runs()]
    seconds = {"train": 0.0, "measure": 0.0}
    steps = measured = 0
    for run, done in runs:
        if done is not None:
            steps += run.steps
            seconds["train"] += done["seconds"]["train"]
            measured += not run.sweep
            seconds["measure"] += 0 if run.sweep else done["seconds"]["measure"]
    a_step = seconds["train"] / steps if steps else design.reference.experiment.seconds_per_step
    a_measure = (
        seconds["measure"] / measured if measured else 0.2 * a_step * design.reference.train.steps
    )
    return sum(
        run.steps * a_step + (0 if run.sweep else a_measure) for run, done in runs if done is None
    )


def left(design: Design) -> str:
    """Progress over all runs."""
    runs = design.runs()
    done = sum(read_done(run) is not None for run in runs)
    return f"{done} of {len(runs)} runs done, about {clock(seconds_left(design))} to go"


def plan_lines(design: Design) -> list[str]:
    """What would be run, with estimated hours and exact commands."""
    lines = [shlex.join(design.prepare_command(t)) for t in design.templates]
    first = design.reference.experiment.seconds_per_step
    for run in design.runs():
        state = "done" if read_done(run) else f"about {run.steps * first / 3600:.2f} h"
        if run.rate is None:
            rate = (
                f"its rate is that of {design.workdir / 'sweep' / run.arm} with the least dev nats"
            )
            lines.append(f"# {run.name}: {run.steps} steps, {state}; {rate}")
            continue
        lines += [
            f"# {run.name}: {run.steps} steps, {state}",
            shlex.join(design.train_command(run)),
        ]
    lines.append(f"# {left(design)}")
    return lines


def call(command: Sequence[str], name: str) -> None:
    """Runs a command whose output goes where ours goes; ExperimentError when it fails."""
    code = subprocess.run(command).returncode
    if code:
        raise ExperimentError(
            f"{name} ended with code {code}; its message is above. The same command goes on."
        )


def in_process(function: Callable, *arguments) -> Any:
    """Calls a function in a process of its own: its memory and devices are free afterwards."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _trained_facts(folder: epath.Path) -> dict[str, Any]:
    from marker_lm.model.config import ModelConfig
    from marker_lm.model.params import parameter_count
    from marker_lm.training.checkpoints import load_about

    about = load_about(folder / "checkpoints")
    return {
        "steps": about["step"],
        "parameters": parameter_count(ModelConfig.from_dict(about["model"])),
        "data_key": about["data_key"],
    }


def _dev(folder: epath.Path, items: Sequence[Item]) -> float:
    from marker_lm.experiment.measure import dev_nats

    return dev_nats(folder, items)


def _samples(folder: epath.Path, *arguments) -> list[dict[str, Any]]:
    from marker_lm.experiment.measure import samples

    return samples(folder, *arguments)


def _measure(folder: epath.Path, *arguments) -> None:
    from marker_lm.experiment.measure import measure

    measure(folder, *arguments)
