"""A plan on a terminal."""

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from marker_lm.plan.hlo import by_kind
from marker_lm.plan.memory import Memory
from marker_lm.plan.plan import Plan, ProgramPlan


def gigabytes(size: float) -> str:
    """Bytes as GB of 10^9."""
    return f"{size / 1e9:.2f} GB"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def verdict(memory: Memory, spare: float) -> str:
    """Fits or not, and by how much."""
    if memory.refused or memory.need > memory.have:
        over = gigabytes(max(memory.need - memory.have, 0))
        said = f" The compiler: {memory.refused}" if memory.refused else ""
        return (
            f"does NOT fit: a chip needs {gigabytes(memory.need)} and has "
            f"{gigabytes(memory.have)}, {over} too little.{said}"
        )
    left = f"{gigabytes(memory.have - memory.need)} ({100 * memory.spare:.1f} %) to spare"
    words = f"a chip needs {gigabytes(memory.need)} of {gigabytes(memory.have)}, {left}"
    if memory.spare < spare:
        return f"fits, but with less than the {100 * spare:g} % to spare that are asked: {words}."
    return f"fits: {words}."


def print_plan(plan: Plan, console: Console) -> None:
    """Prints all of it."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "1 device"
    console.print(
        f"{plan.topology}: {plan.topology.chips} chips; mesh {mesh}; {plan.parameters / 1e9:.2f}B "
        f"parameters, {plan.vocab} rows in the vocabulary; batch {plan.batch} x {plan.length}"
    )
    for name, program in plan.programs.items():
        console.print()
        console.print(Text(f"{name} step", style="bold"))
        console.print(Text(verdict(program.memory, plan.spare)))
        if not (program.memory.fits and program.memory.spare >= plan.spare):
            console.print(Text(largest(program.memory)))
            if name == "train":
                console.print(Text(plan.advice))
        console.print(Group(*_tables(program)))


def largest(memory: Memory) -> str:
    """One sentence on the largest tensor."""
    if not memory.largest:
        return "All of it is arguments."
    tensor = memory.largest[0]
    where = f", of {tensor.where}" if tensor.where else ""
    return (
        f"The largest tensor is {tensor.shape} ({tensor.category}, {gigabytes(tensor.bytes)} "
        f"a chip{where})."
    )


def _tables(program: ProgramPlan) -> list:
    memory, bounds, flops = program.memory, program.bounds, program.flops
    parts = _table("memory of a chip at the worst moment", "GB", "share")
    for name, size in memory.categories.items():
        parts.add_row(name, f"{size / 1e9:.3f}", f"{100 * size / max(memory.peak, 1):.0f} %")
    parts.add_section()
    reported = "as the compiler reports" if program.compiled else "as the compiler laid it out"
    parts.add_row(f"peak, {reported}", f"{memory.peak / 1e9:.3f}", "")
    parts.add_row("arguments", f"{memory.arguments / 1e9:.3f}", "")
    parts.add_row("temporaries (some never together)", f"{memory.temporaries / 1e9:.3f}", "")
    parts.add_row("laid out, with gaps", f"{memory.laid_out / 1e9:.3f}", "")
    if memory.code:
        parts.add_row("code", f"{memory.code / 1e9:.3f}", "")
    if memory.host:
        parts.add_row("host memory", f"{memory.host / 1e9:.3f}", "")

    sent = _table("collectives of a step", "in the program", "run", "GB a device sends")
    for kind, row in by_kind(program.collectives).items():
        sent.add_row(kind, str(row["count"]), str(row["times"]), f"{row['bytes'] / 1e9:.3f}")
    if program.collectives.open_loops:
        loops = program.collectives.open_loops
        sent.caption = f"{loops} loop(s) end by the data; counted train.loss_blocks times"

    least = _table("least time of a step (bounds, not forecasts)", "time")
    least.add_row(f"compute: {flops.executed:.3g} FLOP at peak", seconds(bounds.compute))
    least.add_row("HBM: what must be read and written", seconds(bounds.hbm))
    for axes, time in bounds.ici.items():
        least.add_row(f"ICI along {axes}", seconds(time))
    if bounds.dcn:
        least.add_row("DCN between slices", seconds(bounds.dcn))
    least.add_section()
    least.add_row(f"no step is faster than ({bounds.by})", seconds(bounds.step_seconds))
    least.add_row("tokens/s, upper bound", f"{bounds.tokens_per_second:,.0f}")
    least.add_row("MFU, upper bound, causal FLOPs", f"{100 * bounds.mfu:.1f} %")
    again = f", {flops.recomputed:.3g} more computed again" if flops.recomputed else ""
    least.caption = (
        f"{flops.model:.3g} model FLOPs a step, attention counted causally{again}; "
        f"compiled in {program.seconds:.0f} s"
    )
    return [parts, sent, least]


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE, caption_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
