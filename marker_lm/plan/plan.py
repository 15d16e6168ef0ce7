"""What a run needs on a pod: both programs compiled, their memory, collectives and bounds."""

import copy
import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from marker_lm.model.params import parameter_count
from marker_lm.plan.compile import Compilation, Compiled
from marker_lm.plan.cost import (
    Bounds,
    Flops,
    decode_flops,
    decode_traffic,
    make_bounds,
    train_flops,
    train_traffic,
)
from marker_lm.plan.hlo import Collectives, by_kind, collectives
from marker_lm.plan.memory import Memory, advice, local_sizes, make_memory
from marker_lm.plan.program import planned_model
from marker_lm.plan.topology import PlanError, Topology, parse_topology, prepare_environment
from marker_lm.sharding.mesh import AXES, filled

SPARE = 0.05  # part of a chip's memory that a plan leaves free


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One program on the pod.

    Attributes:
      memory: of a chip.
      collectives: of a step.
      flops, bounds: of a step.
      sizes: bytes of a device's arguments by what they are, without padding.
      compiled: whether it was compiled to its end; else only its memory was laid out.
      seconds: that compiling took.
    """

    memory: Memory
    collectives: Collectives
    flops: Flops
    bounds: Bounds
    sizes: dict[str, int]
    compiled: bool
    seconds: float

    def to_dict(self) -> dict:
        """JSON-able; bytes are of a chip, but for collectives, which are of a device."""
        memory = dataclasses.asdict(self.memory)
        memory |= {"fits": self.memory.fits, "spare": self.memory.spare}
        bounds = dataclasses.asdict(self.bounds)
        bounds |= {
            "step_seconds": self.bounds.step_seconds,
            "by": self.bounds.by,
            "tokens_per_second": self.bounds.tokens_per_second,
            "mfu": self.bounds.mfu,
        }
        return {
            "memory": memory,
            "collectives": {
                "by_kind": by_kind(self.collectives),
                "all": [dataclasses.asdict(c) for c in self.collectives.all],
                "open_loops": self.collectives.open_loops,
            },
            "flops": dataclasses.asdict(self.flops),
            "bounds": bounds,
            "compiled": self.compiled,
            "compile_seconds": self.seconds,
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config on a pod.

    Attributes:
      topology: the pod.
      mesh: sizes of its axes.
      parameters: of the model.
      vocab: rows of its tables.
      batch, length: of a step's global batch.
      train: the train step.
      decode: the decode step, where it was asked for.
      spare: part of the memory that is to stay free.
      advice: which switch makes room.
    """

    topology: Topology
    mesh: dict[str, int]
    parameters: int
    vocab: int
    batch: int
    length: int
    train: ProgramPlan
    decode: ProgramPlan | None
    spare: float
    advice: str

    @property
    def memory(self) -> Memory:
        """Of the train step."""
        return self.train.memory

    @property
    def programs(self) -> dict[str, ProgramPlan]:
        found = {"train": self.train}
        return found | {"decode": self.decode} if self.decode else found

    @property
    def fits(self) -> bool:
        """Whether all programs fit, and leave what is to be spared."""
        return all(p.memory.fits and p.memory.spare >= self.spare for p in self.programs.values())

    def to_dict(self) -> dict:
        """JSON-able: the train step's facts at the top, those of the decode step under 'decode'."""
        return {
            "topology": str(self.topology),
            "chips": self.topology.chips,
            "mesh": self.mesh,
            "parameters": self.parameters,
            "vocab": self.vocab,
            "batch": self.batch,
            "length": self.length,
            "fits": self.fits,
            "asked_spare": self.spare,
            "advice": self.advice,
            **self.train.to_dict(),
            "decode": self.decode.to_dict() if self.decode else None,
        }


def plan(
    config: ConfigDict,
    topology: str = "",
    decode: bool = True,
    quick: bool = False,
    spare: float = SPARE,
    log: Callable[[str], None] = print,
) -> Plan:
    """Compiles a run's programs for a pod. Needs no data, no weights and no TPU.

    Args:
      config: see configs/default.py.
      topology: such as 'v5e:4x4'; the config's by default.
      decode: also plan the decode step.
      quick: stop the compiler when memory is laid out, seconds after it began: no report of its
        own then, but the same peak to within some kilobytes, without the code.
      spare: part of the memory that is to stay free.
      log: takes lines for people.

    Raises:
      PlanError: an unknown topology, or no compiler.
      ValueError: the config contradicts itself, or does not go with the pod.
    """
    pod = find_topology(config, topology)
    prepare_environment()
    names = ("train", "decode") if decode else ("train",)
    log(f"compiling {' and '.join(names)} step for {pod}, {pod.chips} chips ...")
    running = [Compilation(config, pod, name, quick) for name in names]
    try:
        compiled = [compilation.result() for compilation in running]
    finally:
        for compilation in running:
            compilation.stop()
    return make_plan(config, pod, *compiled, spare=spare)


def find_topology(config: ConfigDict, topology: str = "") -> Topology:
    """The topology of this name, or else of the config. Raises PlanError."""
    if not topology and not config.topology:
        raise PlanError("no topology: give --topology=v5e:4x4, or set `topology` in the config.")
    return parse_topology(topology or config.topology)


def make_plan(
    config: ConfigDict,
    topology: Topology,
    train: Compiled,
    decode: Compiled | None = None,
    spare: float = SPARE,
) -> Plan:
    """The plan of programs that have been compiled."""
    model, mesh = planned_model(config), mesh_shape(config, topology)
    batch, length, tensor = config.train.batch, config.train.length, mesh["tensor"]
    programs = []
    for compiled in (train, decode):
        if compiled is None:
            programs.append(None)
            continue
        if compiled is train:
            flops = train_flops(model, config.train, length, batch)
            traffic = train_traffic(model, train.sizes, tensor, config.train.accumulate)
            sizes = local_sizes(model, mesh, batch // config.train.accumulate, length)
            tokens = batch * length
        else:
            rows = config.decode.batch
            flops = decode_flops(model, rows, length)
            traffic = decode_traffic(model, decode.sizes, tensor)
            sizes = local_sizes(model, mesh, rows, 1)
            tokens = rows
        sent = collectives(compiled.module, mesh, config.train.loss_blocks)
        programs.append(
            ProgramPlan(
                make_memory(compiled, sizes, topology.chip),
                sent,
                flops,
                make_bounds(flops, traffic, sent, mesh, topology, tokens),
                compiled.sizes,
                bool(compiled.report),
                compiled.seconds,
            )
        )
    return Plan(
        topology,
        mesh,
        parameter_count(model),
        model.vocab,
        batch,
        length,
        *programs,
        spare,
        advice(programs[0].memory, config),
    )


def mesh_shape(config: ConfigDict, topology: Topology) -> dict[str, int]:
    """Sizes of the mesh's axes, in its order, -1 filled in."""
    sizes = [config.mesh[axis] for axis in AXES]
    return dict(zip(AXES, filled(sizes, topology.chips * topology.chip.devices), strict=True))


def with_slices(config: ConfigDict, topology: Topology) -> ConfigDict:
    """A copy of the config, its mesh over the pods of the topology."""
    changed = ConfigDict(copy.deepcopy(config.to_dict()))
    changed.mesh.slice = topology.slices
    return changed


def quiet(_: str) -> None:
    """For `log`, where a bar of progress says enough."""
