"""Where a chip's memory goes, whether it is enough, and which switch helps where it is not."""

import dataclasses
import functools
import math
import re

from flax.traverse_util import flatten_dict

from marker_lm.model.config import ModelConfig
from marker_lm.model.params import abstract_params
from marker_lm.plan.assignment import Buffer
from marker_lm.plan.compile import Compiled
from marker_lm.plan.hlo import Instruction, Module, arrays
from marker_lm.plan.topology import Chip
from marker_lm.sharding import rules

CATEGORIES = ("parameters", "optimizer", "cache", "gradients", "activations", "logits", "other")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of the largest arrays at the worst moment.

    Attributes:
      bytes: of a chip, with padding.
      shape: with its dtype, such as 'bf16[8,2048,1536]'; what one device holds.
      category: one of CATEGORIES.
      where: the place in the program that makes it, or the path of an argument.
    """

    bytes: int
    shape: str
    category: str
    where: str


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip.

    Attributes:
      arguments, temporaries, peak, output, alias, code: the compiler's report. Temporaries hold
        some twice that never live together, so arguments + temporaries may be more than is needed.
        Where the program was refused, or only its memory was asked for, temporaries and peak are
        those of the buffer assignment, and there is no code.
      laid_out: HBM that arguments, temporaries and constants take with the gaps between them. The
        compiler refuses a program by this figure.
      need: what must be there: the larger of peak and laid_out, and the code.
      have: what the compiler lets a program have.
      host: of the host's memory, for the chip.
      categories: the bytes at the worst moment by what they are; sums to peak. Parameters,
        optimizer and cache are exact; temporaries are told apart by their shapes.
      largest: arrays at the worst moment.
      refused: the compiler's words where it refused the program; ''.
    """

    arguments: int
    temporaries: int
    peak: int
    output: int
    alias: int
    code: int
    laid_out: int
    need: int
    have: int
    host: int
    categories: dict[str, int]
    largest: tuple[Tensor, ...]
    refused: str

    @property
    def spare(self) -> float:
        """Part of the memory that is left; negative where it is not enough."""
        return (self.have - self.need) / self.have

    @property
    def fits(self) -> bool:
        return not self.refused and self.need <= self.have


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths of axes on one device, by which arrays are told apart."""

    tokens: int
    length: int
    vocab: frozenset[int]
    params: frozenset[tuple[int, ...]]


def local_sizes(config: ModelConfig, mesh_shape: dict[str, int], rows: int, length: int) -> Sizes:
    """Sizes of a program that works on `rows` rows of `length` tokens at once."""
    ways = functools.partial(rules.ways, sizes=mesh_shape)

    vocab = {config.vocab, config.vocab // ways("vocab"), -(-config.vocab // ways("loss_vocab"))}
    params = {_key((size, config.width)) for size in vocab}
    for info in flatten_dict(abstract_params(config)).values():
        for whole in ("", "embed"):  # a device's part, and as it is gathered
            shape = [
                size // (1 if axis == whole else ways(axis))
                for size, axis in zip(info.shape, info.axes, strict=True)
            ]
            params |= {_key(shape), _key(shape[info.axes[0] == "layers" :])}
    length = max(length // ways("length"), 1)  # one token of a decode step is not split
    tokens = max(rows // ways("batch"), 1) * length
    matrices = frozenset(shape for shape in params if len(shape) > 1)
    vocab -= {length, tokens, config.width, config.ff // ways("mlp")}  # would tell nothing
    return Sizes(tokens, length, frozenset(vocab), matrices)


def _key(shape) -> tuple[int, ...]:
    """A shape without axes of one, whatever the order."""
    return tuple(sorted(n for n in shape if n > 1))


def make_memory(compiled: Compiled, sizes: Sizes, chip: Chip, largest: int = 8) -> Memory:
    """The memory of a compiled program, of a chip: a chip's devices hold the same."""
    assignment, report = compiled.assignment, compiled.report
    peak = report.get("peak", assignment.peak)
    code = report.get("generated_code", 0)
    tensors = [_argument(*a, compiled.module, chip) for a in assignment.arguments]
    tensors += [_temporary(buffer, compiled.module, sizes, chip) for buffer in assignment.live]
    tensors.sort(key=lambda tensor: -tensor.bytes)
    categories = dict.fromkeys(CATEGORIES, 0)
    for tensor in tensors:
        categories[tensor.category] += tensor.bytes
    categories["other"] += peak * chip.devices - sum(categories.values())
    unused = "cache" if "optimizer" in compiled.sizes else "optimizer"
    categories.pop(unused)
    host = assignment.host_arguments + assignment.host_temporaries
    per_device = {
        "arguments": report.get("argument", assignment.argument_bytes),
        "temporaries": report.get("temp", assignment.temporaries),
        "peak": peak,
        "output": report.get("output", 0),
        "alias": report.get("alias", 0),
        "code": code,
        "laid_out": assignment.total,
        "need": max(peak, assignment.total) + code,
        "host": host,
    }
    return Memory(
        **{name: size * chip.devices for name, size in per_device.items()},
        have=chip.hbm_bytes,
        categories=categories,
        largest=tuple(tensors[:largest]),
        refused=compiled.refused,
    )


def _argument(name: str, size: int, module: Module, chip: Chip) -> Tensor:
    """An argument; its path is such as "state['params']['embedding']"."""
    instruction = module.instructions.get(name)
    path = instruction.op_name.replace("\\", "") if instruction else ""
    starts = {
        "state['params']": "parameters",
        "state[": "optimizer",
        "params": "parameters",
        "cache": "cache",
    }
    category = next((c for start, c in starts.items() if path.startswith(start)), "other")
    shape = _plain(instruction.shape)[0] if instruction else ""
    return Tensor(size * chip.devices, shape, category, path)


def _plain(shape: str) -> tuple[str, str, tuple[int, ...]]:
    """A shape without its layout, its dtype, its dimensions."""
    dtype, dims = (arrays(shape) or [("", ())])[0]
    return f"{dtype}[{','.join(map(str, dims))}]", dtype, dims


def _temporary(buffer: Buffer, module: Module, sizes: Sizes, chip: Chip) -> Tensor:
    source = _source(buffer, module)
    where = source.op_name if source else ""
    shape, dtype, dims = _plain(buffer.shape)
    category = _category(dtype, dims, source, sizes)
    return Tensor(buffer.bytes * chip.devices, shape, category, where)


def _category(dtype: str, dims, source: Instruction | None, sizes: Sizes) -> str:
    key = _key(dims)
    where = source.op_name if source else ""
    if key in sizes.params:
        gathered = source is not None and source.opcode.startswith("all-gather")
        backward = "transpose(" in where and "rematted" not in where
        return "gradients" if (dtype == "f32" or backward) and not gathered else "other"
    if sizes.vocab & set(key):
        return "logits"
    if math.prod(key) % sizes.tokens == 0 or sizes.length in key:
        return "activations"
    return "other"


def _source(buffer: Buffer, module: Module) -> Instruction | None:
    """The instruction that computes a buffer: behind copies, and within loops that carry it."""
    name, index = buffer.instruction, buffer.index
    for _ in range(8):
        instruction = module.instructions.get(name)
        if instruction is None:
            return None
        part = re.fullmatch(r"\{(\d+)\}", index)
        body = instruction.attribute("body") if instruction.opcode == "while" else ""
        if instruction.opcode == "parameter" and part:
            body = next(c for c, inside in module.computations.items() if name in inside)
        root = module.computations.get(body, {}).get(module.roots.get(body, ""))
        if root is not None and root.opcode == "tuple" and part:
            name, index = root.operands[int(part[1])], "{}"
        elif instruction.opcode == "get-tuple-element":
            index = "{" + re.search(r"index=(\d+)", instruction.rest)[1] + "}"
            before, name = name, instruction.operands[0]
            if module.instructions[name].opcode == "parameter":
                return instruction if instruction.op_name else module.instructions.get(before)
        elif instruction.op_name or not instruction.operands:
            return instruction
        elif instruction.opcode in ("copy-start", "copy-done", "copy", "bitcast", "async-start"):
            name, index = instruction.operands[0], "{}"
        else:
            return instruction
    return module.instructions.get(name)


def advice(memory: Memory, config) -> str:
    """One sentence: the switch that makes most room, by what takes most.

    Args:
      memory: of the train step.
      config: of the run.
    """
    train, model = config.train, config.model
    most = max((c for c in memory.categories if c != "other"), key=lambda c: memory.categories[c])
    switches = {
        "logits": [f"train.loss_blocks={2 * train.loss_blocks}", "mesh.tensor"],
        "parameters": ["mesh.fsdp", "lora.rank=16"],
        "optimizer": ["mesh.fsdp", "train.moment_dtype=bfloat16", "train.optimizer=adafactor"],
        "gradients": ["mesh.fsdp", "train.gradient_dtype=bfloat16"],
    }.get(most, [])
    if most == "activations":
        if model.remat in ("none", "dots", "attention"):
            switches.append("model.remat=full")
        elif model.remat == "full":
            switches.append("model.remat=offload")
        largest = next((t for t in memory.largest if t.category == "activations"), None)
        if largest and "mlp" in largest.where:
            switches.append(f"model.ff_blocks={2 * model.ff_blocks}")
        switches += [f"train.accumulate={2 * train.accumulate}", "mesh.context", "train.batch"]
    kept = [switch for switch in switches if not _is_set(switch, config)]
    return f"Most of it is taken by {most}; what helps: {', '.join(kept)}."


def _is_set(switch: str, config) -> bool:
    """Whether the config has this value already."""
    key, _, value = switch.partition("=")
    section, name = key.split(".")
    return bool(value) and str(config[section][name]) == value
