"""Compiles a program for a pod in a process of its own.

So the compiler's own end does not end the plan, two programs are compiled side by side, and one
whose memory is all that is asked for is stopped as soon as that is known.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import tempfile
import time

from ml_collections import ConfigDict

from marker_lm.plan.assignment import Assignment, is_written, read_assignment, read_text
from marker_lm.plan.hlo import Module, parse_module
from marker_lm.plan.topology import PlanError, Topology

_REPORTED = ("argument", "output", "temp", "alias", "generated_code")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program; bytes are of one device.

    Attributes:
      sizes: bytes of the arguments by what they are, from shapes and shardings.
      assignment: where buffers lie.
      module: the program's HLO.
      report: `memory_analysis()`: NAME_size_in_bytes without the ending, host_NAME, and 'peak';
        empty where the program was refused or only its memory was asked for.
      refused: the compiler's words, where the program does not fit; ''.
      seconds: of lowering and compiling.
    """

    sizes: dict[str, int]
    assignment: Assignment
    module: Module
    report: dict[str, int]
    refused: str
    seconds: float


class Compilation:
    """A program that is being compiled. `result` waits for it; `stop` ends it."""

    def __init__(self, config: ConfigDict, topology: Topology, program: str, quick: bool = False):
        """Begins.

        Args:
          config: of the run.
          topology: of the pod.
          program: 'train' or 'decode'.
          quick: stop the compiler when it has laid out the memory: seconds instead of minutes.
        """
        self.program, self.quick = program, quick
        self.folder = tempfile.TemporaryDirectory(prefix="marker_lm_plan_")
        self.path = pathlib.Path(self.folder.name)
        self.began = time.monotonic()
        process = multiprocessing.get_context("spawn").Process
        arguments = (config, topology, program, str(self.path))
        self.process = process(target=_work, args=arguments, daemon=True)
        self.process.start()

    @property
    def done(self) -> bool:
        return not self.process.is_alive() or (self.quick and is_written(self.path))

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()

    def result(self) -> Compiled:
        """Raises PlanError: the config does not go with the pod, or the compiler failed."""
        try:
            while not self.done:
                time.sleep(0.1)
            seconds = time.monotonic() - self.began
            outcome = self._read("outcome.json")
            if "error" in outcome:
                raise PlanError(outcome["error"])
            if not outcome and not (self.quick and is_written(self.path)):
                tail = " ".join((self.path / "log").read_text("utf-8", "replace").split())[-400:]
                raise PlanError(f"the compiler of the {self.program} step ended early: {tail}")
            return Compiled(
                self._read("sizes.json"),
                read_assignment(self.path),
                parse_module(read_text(self.path, "after_optimizations.txt")),
                outcome.get("report", {}),
                outcome.get("refused", ""),
                outcome.get("seconds", seconds),
            )
        finally:
            self.stop()

    def _read(self, name: str) -> dict:
        path = self.path / name
        return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _work(config: ConfigDict, topology: Topology, program: str, folder: str) -> None:
    """The process: writes sizes.json, then outcome.json; the compiler adds its own files."""
    path = pathlib.Path(folder)
    log = os.open(path / "log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):  # the compiler talks much
        os.dup2(log, stream)
    from marker_lm.plan.program import lower  # brings JAX

    began = time.monotonic()
    try:
        lowered, sizes = lower(config, topology, program)
        _write(path / "sizes.json", sizes)
        compiled = lowered.compile(compiler_options={"xla_dump_to": folder})
    except ValueError as error:  # ours, of one sentence
        _write(path / "outcome.json", {"error": " ".join(str(error).split())})
    except Exception as error:  # of JAX's runtime, which has no types for it
        text = " ".join(str(error).split())
        refused = "RESOURCE_EXHAUSTED" in text
        text = re.sub(r"^.*?RESOURCE_EXHAUSTED: ", "", text)
        outcome = {"refused": text} if refused else {"error": f"the compiler failed: {text[:500]}"}
        _write(path / "outcome.json", outcome | {"seconds": time.monotonic() - began})
    else:
        memory = compiled.memory_analysis()
        report = {"peak": memory.peak_memory_in_bytes}
        for name in _REPORTED:
            report[name] = getattr(memory, f"{name}_size_in_bytes")
            report[f"host_{name}"] = getattr(memory, f"host_{name}_size_in_bytes")
        outcome = {"report": report, "seconds": time.monotonic() - began}
        _write(path / "outcome.json", outcome)


def _write(path: pathlib.Path, content: dict) -> None:
    """Whole or not at all: the other process reads it when it is there."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content), "utf-8")
    part.rename(path)
