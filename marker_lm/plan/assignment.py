"""Which buffers the compiler lays out, where, and which of them live together at the worst moment.

The compiler writes its buffer assignment and the live ranges to text files (`xla_dump_to`) seconds
after it begins, minutes before the program is ready, and also where it then refuses the program for
want of memory. What lives at the worst moment and the arguments are its `peak_memory_in_bytes`.
"""

import dataclasses
import pathlib
import re

import numpy as np

from marker_lm.plan.topology import PlanError

HBM, HOST = 0, 5  # memory spaces of XLA
# The one that is written last: when it is there, the others are whole.
_LAST = "*after_optimizations_after_buffer_assignment.txt"
_ALLOCATION = re.compile(r"allocation (\d+): size (\d+)(.*)")
_VALUE = re.compile(
    r" value: <\d+ ([^ {]+)(\{[^}]*\})?(?: \(phi\))? @\d+> \(size=(\d+),offset=(\d+)\): (.*)"
)
_RANGE = re.compile(r"\s+([^ {]+)(\{[^}]*\}):\s*(\d+)-(\d+)")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A value in memory.

    Attributes:
      instruction: that makes it.
      index: which part of the instruction's result it is, such as '{}' or '{2}'.
      shape: with its layout.
      bytes: with padding.
      start: its first byte in the device's temporaries.
    """

    instruction: str
    index: str
    shape: str
    bytes: int
    start: int


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Memory of a program on one device, in bytes.

    Attributes:
      arguments: (instruction, bytes) of each argument in HBM.
      host_arguments: bytes of those in the host's memory.
      temporaries: that HBM is kept for, gaps between buffers included.
      host_temporaries: that the host's memory is kept for.
      other: constants and results that are no arguments.
      live: temporaries in HBM at the worst moment, largest first; two never share a byte.
    """

    arguments: tuple[tuple[str, int], ...]
    host_arguments: int
    temporaries: int
    host_temporaries: int
    other: int
    live: tuple[Buffer, ...]

    @property
    def argument_bytes(self) -> int:
        return sum(size for _, size in self.arguments)

    @property
    def total(self) -> int:
        """HBM that the program is laid out in."""
        return self.argument_bytes + self.temporaries + self.other

    @property
    def peak(self) -> int:
        """HBM that is in use at the worst moment."""
        return self.argument_bytes + self.other + sum(b.bytes for b in self.live)


def is_written(folder: pathlib.Path) -> bool:
    """Whether the compiler has assigned memory, and found that it is enough."""
    return any(folder.glob(_LAST))


def read_text(folder: pathlib.Path, ending: str) -> str:
    """One of the compiler's files. Raises PlanError where it wrote none."""
    found = sorted(folder.glob(f"*{ending}"))
    if not found:
        raise PlanError(
            f"the compiler wrote no file *{ending}; plans are tested with the libtpu that "
            "pip install 'marker-lm[tpu]' brings."
        )
    return found[-1].read_text("utf-8", "replace")


def read_assignment(folder: pathlib.Path) -> Assignment:
    """Reads what the compiler wrote to `folder`. Raises PlanError where it did not get so far."""
    ranges = _read_ranges(read_text(folder, "after_optimizations-live-range.txt"))
    arguments: list[tuple[str, int]] = []
    sizes = {"host_arguments": 0, "temporaries": 0, "host_temporaries": 0, "other": 0}
    buffers: list[Buffer] = []
    space, kind, size = HBM, "", 0
    for line in read_text(folder, "after_optimizations-buffer-assignment.txt").splitlines():
        allocation = _ALLOCATION.match(line)
        if allocation:
            size, about = int(allocation[2]), allocation[3]
            color = re.search(r"color (\d+)", about)
            space = int(color[1]) if color else HBM
            kind = "temporary" if "preallocated-temp" in about else "other"
            kind = "argument" if ", parameter " in about else kind
            if kind == "temporary" and space in (HBM, HOST):
                sizes["temporaries" if space == HBM else "host_temporaries"] += size
            elif kind == "argument" and space == HOST:
                sizes["host_arguments"] += size
            elif kind == "other" and space == HBM and "thread-local" not in about:
                sizes["other"] += size
            continue
        value = _VALUE.match(line)
        if not value or space != HBM:
            continue
        name, index, bytes_, start, shape = value.groups()
        if kind == "argument" and size:
            arguments.append((name, size))
            size = 0  # what follows is written over the argument
        elif kind == "temporary":
            buffers.append(Buffer(name, index or "{}", shape, int(bytes_), int(start)))
    return Assignment(tuple(arguments), live=_worst(buffers, ranges), **sizes)


def _read_ranges(text: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(instruction, index) -> first and last moment, in instructions of the flattened program."""
    part = text.split("BufferLiveRange:")[-1].split("Live ranges at")[0]
    matches = map(_RANGE.match, part.splitlines())
    return {(m[1], m[2]): (int(m[3]), int(m[4])) for m in matches if m}


def _worst(buffers: list[Buffer], ranges) -> tuple[Buffer, ...]:
    """The buffers that live when most bytes are in use; of those in one place the largest."""
    buffers = [b for b in buffers if (b.instruction, b.index) in ranges]
    if not buffers:
        return ()
    first_N, last_N = np.asarray([ranges[b.instruction, b.index] for b in buffers]).T
    order_N = np.argsort([(b.start, -b.bytes) for b in buffers], axis=0, kind="stable")[:, 0]
    start_N = np.asarray([b.start for b in buffers])
    end_N = start_N + np.asarray([b.bytes for b in buffers])

    def at(moment: int) -> tuple[int, list[int]]:
        used, end, found = 0, 0, []
        for i in order_N[((first_N <= moment) & (moment <= last_N))[order_N]]:
            if end_N[i] > end:
                used += end_N[i] - max(start_N[i], end)
                end = end_N[i]
                found.append(i)
        return used, found

    _, found = max((at(moment) for moment in np.unique(first_N)), key=lambda x: x[0])
    return tuple(sorted((buffers[i] for i in found), key=lambda b: -b.bytes))
