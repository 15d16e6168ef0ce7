"""What a compiled program sends between chips, read from its HLO text."""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16}  # dtypes whose names do not end with their bits
_SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) .*\{\s*$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO.

    Attributes:
      name, opcode: such as 'fusion.3' and 'fusion'.
      shape: of the result, a tuple's in brackets.
      operands: their names.
      rest: what stands behind the operands.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    rest: str

    def attribute(self, name: str) -> str:
        """The name of a computation that an attribute holds; '' without it."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def op_name(self) -> str:
        """Where the program asked for it, such as 'jit(train_step)/while/body/layers/mlp/dot'."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name, each a dict of its instructions by name in order."""

    computations: dict[str, dict[str, Instruction]]
    roots: dict[str, str]
    entry: str

    @functools.cached_property
    def instructions(self) -> dict[str, Instruction]:
        """All of them: names are unique in a module."""
        return {n: i for body in self.computations.values() for n, i in body.items()}


def parse_module(text: str) -> Module:
    """Reads the text of a compiled module."""
    computations: dict[str, dict[str, Instruction]] = {}
    roots: dict[str, str] = {}
    entry, current, lines = "", "", []
    for line in text.splitlines():
        if not current:
            header = _COMPUTATION.match(line)
            if header and not line.startswith("HloModule"):
                current, lines = header[2], []
                entry = current if header[1] else entry
        elif line.startswith("}") and (line == "}" or "execution_thread" in line):
            matches = [match for match in map(_INSTRUCTION.match, lines) if match]
            computations[current] = {m[2]: _instruction(m[2], m[3]) for m in matches}
            roots[current] = next((m[2] for m in matches if m[1]), "")
            current = ""
        elif _INSTRUCTION.match(line):
            lines.append(line)
        elif lines:  # a kernel's settings go over several lines
            lines[-1] += line
    return Module(computations, roots, entry)


def _instruction(name: str, text: str) -> Instruction:
    shape, text = _split_brackets(text) if text.startswith("(") else text.split(" ", 1)
    opcode, text = text.lstrip().split("(", 1)
    operands, rest = _split_brackets("(" + text)
    if opcode in ("constant", "parameter"):
        names: tuple[str, ...] = (operands[1:-1],)
    else:
        names = tuple(re.findall(r"%([^\s,()]+)", operands))
    return Instruction(name, opcode, shape, names, rest)


def _split_brackets(text: str) -> tuple[str, str]:
    """The bracket that a text begins with, and what follows."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: at + 1], text[at + 1 :]
    return text, ""


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, dimensions) of each array in a shape, layouts left out."""
    plain = re.sub(r"\{[^{}]*\}", "", shape)
    return [
        (dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(plain)
    ]


def shape_bytes(shape: str) -> int:
    """Bytes of all arrays in a shape, without padding."""
    return sum(math.prod(dims) * _bits(dtype) // 8 for dtype, dims in arrays(shape))


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 0


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: one of KINDS.
      axes: mesh axes that it runs along, joined by '+'; '' where that is not known.
      payload: bytes of the whole array that is gathered, reduced or sent.
      sent: bytes that a device sends at least.
      across: groups' size along the axes.
      times: how often a step runs it: the product of the trip counts of the loops around it.
      op_name: where the program asked for it.
    """

    kind: str
    axes: str
    payload: int
    sent: int
    across: int
    times: int
    op_name: str


@dataclasses.dataclass(frozen=True)
class Collectives:
    """All collectives of a program, and how many loops have a count that only data decides."""

    all: tuple[Collective, ...]
    open_loops: int


def collectives(module: Module, mesh_shape: dict[str, int], most_trips: int = 1) -> Collectives:
    """The collectives that a step runs.

    The compiler may cut one into pieces that run beside other work: its pieces share a channel and
    count once. Of the branches of a conditional the one that sends most counts.

    Args:
      module: of the compiled program.
      mesh_shape: sizes of the mesh's axes, in order: devices are numbered row by row.
      most_trips: how often a loop runs whose count only data decides.
    """
    reader = _Reader(module, mesh_shape, most_trips)
    found = reader.visit(module.entry)
    return Collectives(tuple(found.values()), len(reader.open))


class _Reader:
    def __init__(self, module: Module, mesh_shape: dict[str, int], most_trips: int):
        self.module, self.mesh_shape, self.most_trips = module, mesh_shape, most_trips
        self.known: dict[str, dict[tuple, Collective]] = {}
        self.open: set[str] = set()

    def visit(self, name: str) -> dict[tuple, Collective]:
        """The collectives of a computation and of all it calls, by what tells them apart."""
        if name not in self.known:
            found: dict[tuple, Collective] = {}
            for instruction in self.module.computations[name].values():
                found.update(self._of(instruction, name))
            self.known[name] = found
        return self.known[name]

    def _of(self, instruction: Instruction, inside: str) -> dict[tuple, Collective]:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            collective = self._collective(instruction, kind, inside)
            return {(kind, _channel(instruction)): collective} if collective.sent else {}
        if instruction.opcode == "while":
            body = self.visit(instruction.attribute("body"))
            if not body:
                return {}
            times = self._trips(instruction, inside)
            return {
                (instruction.name, *key): dataclasses.replace(c, times=c.times * times)
                for key, c in body.items()
            }
        called = [c for c in _called(instruction) if c in self.module.computations]
        if instruction.opcode == "conditional":
            branches = [self.visit(name) for name in called]
            return max(branches, key=_sent, default={})
        # What a reduction applies to each pair holds no collective; fusions and async calls may.
        return dict(itertools.chain(*(self.visit(name).items() for name in called)))

    def _collective(self, instruction: Instruction, kind: str, inside: str) -> Collective:
        body = self.module.computations[inside]
        given = sum(shape_bytes(body[name].shape) for name in instruction.operands if name in body)
        groups = _groups(instruction.rest)
        across = max((len(group) for group in groups), default=1)
        if kind == "collective-permute":
            pairs = [pair for pair in groups if pair[0] != pair[1]]
            # The compiler itself may have cut an all-gather into such steps around a ring.
            payload, sent, across = given, given if pairs else 0, 2
        else:
            if kind == "all-reduce" and inside.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # all-reduce and slice, which the compiler runs as one
            payload = given * across if kind == "all-gather" else given
            ways = 2 if kind == "all-reduce" else 1
            sent = ways * payload * (across - 1) // across
        axes = "+".join(varying_axes(groups, self.mesh_shape))
        return Collective(kind, axes, payload, sent, across, 1, instruction.op_name)

    def _trips(self, loop: Instruction, inside: str) -> int:
        known = re.search(r'known_trip_count"?[:=]\s*\{"?n"?:\s*"?(\d+)', loop.rest)
        if known:
            return int(known[1])
        trips = self._counted(loop, inside)
        if trips is None:
            self.open.add(loop.name)
            return self.most_trips
        return trips

    def _counted(self, loop: Instruction, inside: str) -> int | None:
        """The trips of `for (i = start; i < end; i += step)`; None if it is not of that form."""
        condition = self.module.computations[loop.attribute("condition")]
        root = condition[self.module.roots[loop.attribute("condition")]]
        if root.opcode == "fusion":  # the comparison may be one
            inner = self.module.computations[root.attribute("calls")]
            test = inner[self.module.roots[root.attribute("calls")]]
            parameters = {
                i.name: root.operands[int(i.operands[0])]
                for i in inner.values()
                if i.opcode == "parameter"
            }
            sides = [condition.get(parameters.get(name, ""), inner[name]) for name in test.operands]
        else:
            test = root
            sides = [condition[name] for name in test.operands]
        if test.opcode != "compare" or "direction=LT" not in test.rest:
            return None
        caller = self.module.computations[inside]
        begin = caller[loop.operands[0]]

        def value(side: Instruction) -> int | None:
            """A constant, or what a place of the loop's state begins with, if that is one."""
            if side.opcode == "get-tuple-element" and begin.opcode == "tuple":
                side = caller[begin.operands[_index(side)]]
            while side.opcode in ("copy", "bitcast", "convert") and side.operands[0] in caller:
                side = caller[side.operands[0]]
            return int(side.operands[0]) if side.opcode == "constant" else None

        start, end = map(value, sides)
        if start is None or end is None or sides[0].opcode != "get-tuple-element":
            return None
        body = self.module.computations[loop.attribute("body")]
        result = body[self.module.roots[loop.attribute("body")]]
        step = 1
        if result.opcode == "tuple":
            moved = body[result.operands[_index(sides[0])]]
            steps = [body[n] for n in moved.operands if n in body]
            constants = [i for i in steps if i.opcode == "constant"]
            if moved.opcode == "add" and constants:
                step = int(constants[0].operands[0])
        return max(-(-(end - start) // step), 0)


def _sent(found: dict[tuple, Collective]) -> int:
    return sum(c.sent * c.times for c in found.values())


def _index(instruction: Instruction) -> int:
    return int(re.search(r"index=(\d+)", instruction.rest)[1])


def _called(instruction: Instruction) -> list[str]:
    names = [
        instruction.attribute(a)
        for a in ("calls", "to_apply", "true_computation", "false_computation")
    ]
    for listed in re.findall(
        r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}", instruction.rest
    ):
        names += re.findall(r"%?([\w.\-]+)", listed)
    return [name for name in names if name]


def _channel(instruction: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", instruction.rest)
    return found[1] if found else instruction.name


def _groups(rest: str) -> list[tuple[int, ...]]:
    """Devices that take part together; (source, target) pairs of a permutation."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=(\{\{.*?\}\}|\{\})", rest)
    if listed:
        return [tuple(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", listed[1])]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        return [tuple(g) for g in _iota(iota[2], iota[3]).reshape(_numbers(iota[1])).tolist()]
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", rest)
    if not named:
        return []
    sizes = {n: int(s) for n, s in re.findall(r"'([^']+)'=(\d+)", named[1])}
    order = re.search(r"\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", named[2])
    ids = _iota(order[1], order[2]) if order else np.arange(math.prod(sizes.values()))
    ids = ids.reshape(tuple(sizes.values()))
    inner = [list(sizes).index(n) for n in re.findall(r"'([^']+)'", named[3]) if n in sizes]
    ids = np.moveaxis(ids, inner, range(-len(inner), 0))
    across = math.prod(ids.shape[ids.ndim - len(inner) :])
    return [tuple(group) for group in ids.reshape(-1, across).tolist()]


def _iota(dims: str, turn: str | None) -> np.ndarray:
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return ids.transpose(_numbers(turn)) if turn else ids


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def varying_axes(groups: Sequence[Sequence[int]], mesh_shape: dict[str, int]) -> list[str]:
    """The mesh axes along which the devices of a group differ."""
    sizes = tuple(mesh_shape.values())
    ids = [list(group) for group in groups if len(group) > 1]
    if not ids or max(map(max, ids)) >= math.prod(sizes):
        return []
    differ = set()
    for group in ids:
        places = np.stack(np.unravel_index(group, sizes))
        differ |= set(np.flatnonzero((places != places[:, :1]).any(1)).tolist())
    return [name for axis, name in enumerate(mesh_shape) if axis in differ]


def by_kind(found: Collectives) -> dict[str, dict[str, int]]:
    """kind -> {count, times, bytes}: in the program, in a step, and sent by a device in a step."""
    table: dict[str, dict[str, int]] = {}
    for c in found.all:
        row = table.setdefault(c.kind, collections.Counter())
        row.update(count=1, times=c.times, bytes=c.sent * c.times)
    return {kind: dict(table[kind]) for kind in KINDS if kind in table}
