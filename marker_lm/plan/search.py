"""Looks for the layout of a run that fits a pod with the least bound of a step's time.

Varied are what leaves the result of training as it is: the mesh, the pieces of a batch, remat,
ff_blocks and loss_blocks. A formula sorts all layouts by time and leaves out those far too large;
the compiler then lays out the memory of the most promising.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from marker_lm.model.config import REMAT_POLICIES
from marker_lm.model.params import parameter_count
from marker_lm.model.splash import LANES
from marker_lm.plan.cost import block_matrices, train_flops
from marker_lm.plan.plan import SPARE, Plan, plan, quiet, with_slices
from marker_lm.plan.program import planned_model
from marker_lm.plan.topology import PlanError, Topology
from marker_lm.progress import Progress
from marker_lm.training.trainable import trained_paths

_MARGIN = 1.3  # the formula of memory may be wrong by so much


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to lay out a run: the values of the keys that are varied."""

    data: int
    fsdp: int
    context: int
    tensor: int
    accumulate: int
    remat: str
    ff_blocks: int
    loss_blocks: int

    def overrides(self) -> dict[str, int | str]:
        """Key of the config -> value."""
        mesh = ("data", "fsdp", "context", "tensor")
        values: dict[str, int | str] = {f"mesh.{axis}": getattr(self, axis) for axis in mesh}
        values |= {"model.remat": self.remat, "model.ff_blocks": self.ff_blocks}
        return values | {
            "train.accumulate": self.accumulate,
            "train.loss_blocks": self.loss_blocks,
        }

    def applied(self, config: ConfigDict, topology: Topology) -> ConfigDict:
        """The config with these values."""
        changed = with_slices(config, topology)
        for key, value in self.overrides().items():
            section, name = key.split(".")
            changed[section][name] = value
        return changed


@dataclasses.dataclass(frozen=True)
class Tried:
    """A layout that was compiled: its plan, or why there is none."""

    layout: Layout
    plan: Plan | None
    error: str

    @property
    def fits(self) -> bool:
        return self.plan is not None and self.plan.fits

    def to_dict(self) -> dict:
        """JSON-able."""
        return {
            "overrides": self.layout.overrides(),
            "fits": self.fits,
            "error": self.error,
            "plan": self.plan.to_dict() if self.plan else None,
        }


def search(
    config: ConfigDict, topology: Topology, spare: float = SPARE, tries: int = 8
) -> list[Tried]:
    """Compiles the most promising layouts. Those that fit come first, the best one at the head.

    Args:
      config: of the run; its batch and length stay.
      topology: the pod.
      spare: part of the memory to leave free.
      tries: layouts that are compiled at most.

    Raises:
      PlanError: no layout is possible.
    """
    model = planned_model(config)
    estimates = []
    for layout in layouts(model, config, topology):
        memory = estimated_memory(model, config, topology, layout)
        if memory <= _MARGIN * topology.chip.hbm_bytes:
            time = estimated_seconds(model, config, topology, layout)
            # Of those as fast the one that needs less.
            estimates.append((round(time, 4), memory, layout))
    if not estimates:
        raise PlanError(
            f"no layout of {topology} holds this run with train.batch={config.train.batch}, or "
            "its batch does not divide; take more chips, another batch, or LoRA (lora.rank=16)."
        )
    estimates.sort(key=lambda e: e[:2])
    found: list[Tried] = []
    with Progress("search", min(tries, len(estimates))) as progress:
        for _, _, layout in varied(estimates, tries):
            shown = ", ".join(f"{k.split('.')[1]}={v}" for k, v in layout.overrides().items())
            progress.update(len(found), shown, force=True)
            try:
                made = plan(
                    layout.applied(config, topology), str(topology), False, True, spare, quiet
                )
                found.append(Tried(layout, made, ""))
            except ValueError as error:
                found.append(Tried(layout, None, str(error)))
            progress.update(len(found))
    return sorted(found, key=_rank)


def _rank(tried: Tried):
    if tried.plan is None:
        return (2, 0.0, 0)
    memory = tried.plan.memory
    return (0 if tried.fits else 1, tried.plan.train.bounds.step_seconds, memory.need)


def varied(estimates: list, tries: int) -> list:
    """The first of the list, at most a third of them with one mesh: a formula may be wrong."""
    chosen, count = [], {}
    for estimate in estimates:
        layout = estimate[2]
        mesh = (layout.data, layout.fsdp, layout.context, layout.tensor)
        if count.get(mesh, 0) < max(-(-tries // 3), 1):
            count[mesh] = count.get(mesh, 0) + 1
            chosen.append(estimate)
        if len(chosen) == tries:
            break
    return chosen


def layouts(model, config: ConfigDict, topology: Topology) -> Iterator[Layout]:
    """All layouts that model, batch and length can be cut into."""
    devices = topology.chips * topology.chip.devices // topology.slices
    batch, length = config.train.batch, config.train.length
    for tensor, context in itertools.product((1, 2, 4, 8), (1, 2, 4, 8)):
        if model.kv_heads % tensor or model.ff % tensor or model.vocab % tensor:
            continue
        if devices % (tensor * context) or (context > 1 and length // context % LANES):
            continue
        rest = devices // (tensor * context)
        for fsdp in (2**i for i in range(rest.bit_length())):
            if rest % fsdp or model.width % (fsdp * context):
                continue
            rows, left = divmod(batch, topology.slices * rest)
            if left:
                continue
            for accumulate in (a for a in (1, 2, 4, 8, 16) if rows % a == 0):
                tokens = rows // accumulate * length // context
                for remat, ff, loss in itertools.product(REMAT_POLICIES, (1, 8), (16, 64)):
                    if model.ff % (ff * tensor) == 0 and tokens % loss == 0:
                        yield Layout(
                            rest // fsdp, fsdp, context, tensor, accumulate, remat, ff, loss
                        )


def estimated_memory(model, config: ConfigDict, topology: Topology, layout: Layout) -> float:
    """Bytes of a chip, about: state, gradients, what is saved a layer, one layer's work, logits."""
    count = parameter_count(model)
    moved = parameter_count(model, trained_paths(model, config.train.trainable))
    width = {"float32": 4, "bfloat16": 2}
    moments = {"adamw": 2, "lion": 1, "muon": 1, "adafactor": 0}.get(config.train.optimizer, 2)
    state = count * width[model.param_dtype] + moved * (
        moments * width[config.train.moment_dtype] + width[config.train.gradient_dtype]
    )
    state /= layout.fsdp * layout.context * layout.tensor
    rows = config.train.batch // (topology.slices * layout.data * layout.fsdp)
    tokens = rows // layout.accumulate * config.train.length // layout.context
    D, H, K, N = model.width, model.heads, model.kv_heads, model.head_size
    heads, hidden = (H + 2 * K) * N / layout.tensor, model.ff / layout.tensor
    saved = {
        "offload": 0.0,
        "full": D,
        "attention": D + H * N / layout.tensor,
        "dots": 2 * D + heads + 2 * hidden,
        "none": 8 * D + 3 * heads + 4 * hidden,
    }[layout.remat]
    once = 6 * D + 3 * heads + 5 * hidden / layout.ff_blocks
    activations = 2.0 * tokens * (model.layers * saved + once)
    logits = tokens / layout.loss_blocks * model.vocab / layout.tensor * 8
    table = 2.0 * model.vocab * D / layout.tensor
    return topology.chip.devices * (state + activations + logits + 2 * table)


def estimated_seconds(model, config: ConfigDict, topology: Topology, layout: Layout) -> float:
    """Seconds of a step, about: operations at peak, and what the mesh sends over ICI and DCN."""
    chip = topology.chip
    model = dataclasses.replace(model, remat=layout.remat, ff_blocks=layout.ff_blocks)
    flops = train_flops(model, config.train, config.train.length, config.train.batch)
    compute = flops.executed / (topology.chips * chip.tflops * 1e12)
    passes = 2 + (layout.remat in ("full", "attention", "offload"))
    weights = 2.0 * (block_matrices(model) + model.vocab * model.width) / layout.tensor
    split = layout.fsdp * layout.context
    sent = passes * layout.accumulate * weights * (split - 1) / split  # gathered
    sent += 2 * weights * layout.accumulate * (split - 1) / split  # gradients, float32, scattered
    sent += 4 * weights / split * (layout.data - 1) / layout.data  # and added up
    per_device = config.train.batch / (topology.slices * layout.data * layout.fsdp)
    tokens = per_device * config.train.length / layout.context
    reduced = 2 * 2.0 * tokens * model.width * 2 * (layout.tensor - 1) / layout.tensor
    sent += model.layers * reduced * passes
    keys = 2 * 2.0 * tokens * model.kv_heads * model.head_size / layout.tensor
    sent += model.layers * keys * passes * (layout.context - 1)
    ici = sent / (chip.ici_gbs * 1e9 / chip.devices)
    slices = topology.slices
    between = 4 * weights / split * (slices - 1) / slices
    dcn = between / (chip.dcn_gbs * 1e9 / chip.devices)
    # They overlap in part.
    return max(compute, ici, dcn) + 0.3 * (compute + ici + dcn - max(compute, ici, dcn))


def print_search(tried: list[Tried], console: Console) -> None:
    """A table, and the overrides of the best that fits."""
    table = Table(box=box.SIMPLE)
    for name in tried[0].layout.overrides():
        table.add_column(name.split(".")[1], justify="right")
    for name in ("fits", "GB a chip", "step at least", "MFU at most"):
        table.add_column(name, justify="right")
    for one in tried:
        values = [str(value) for value in one.layout.overrides().values()]
        if one.plan is None:
            table.add_row(*values, "no")
            continue
        bounds = one.plan.train.bounds
        table.add_row(
            *values,
            "yes" if one.fits else "no",
            f"{one.plan.memory.need / 1e9:.2f}",
            f"{bounds.step_seconds:.3f} s",
            f"{100 * bounds.mfu:.0f} %",
        )
    console.print(table)
    best = tried[0]
    if not best.fits:
        console.print("None of these fits; take more chips, a smaller batch, or --tries=30.")
        return
    slices = {"mesh.slice": best.plan.topology.slices}
    values = slices | best.layout.overrides()
    console.print("The best that fits:")
    console.print(
        "  " + " ".join(f"--config.{key}={value}" for key, value in values.items()),
        markup=False,
        soft_wrap=True,
    )
