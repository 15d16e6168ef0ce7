"""Our training step beside that of transformers and PyTorch: the same Llama, batch and length.

    python tests/benchmarks/train_step.py          # CPU: a tiny model, float32, two threads
    python tests/benchmarks/train_step.py --gpu    # one GPU: Llama 3.2 1B, bfloat16, 4,096 tokens

A step is forward, backward, clipping by the global norm and AdamW. Every token is a target and
there is no padding, so all tokens are useful ones.

Each runs in a process of its own, as a user would run it.

CPU: both begin with the same weights, and the losses of all steps must agree, or the run fails.
Theirs is eager with fused AdamW; ours is jitted, in a process set up as `marker-lm train` sets it
up. They take turns; medians are over the rounds, and the bar is a ratio above 1. Other work on the
machine slows one more than the other, so a busy machine is named.

GPU: float32 parameters and moments and products in
bfloat16. Theirs is compiled, with SDPA and fused AdamW. MFU counts the model's FLOPs with causal
attention, nothing for what is computed again. The bars are 45 % and 1.2 times theirs.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

TINY = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
LARGE = ROOT / "configs" / "architectures" / "llama3.2-1b.json"
LEARNING_RATE, BETAS, DECAY, CLIP = 1e-4, (0.9, 0.95), 0.1, 1.0
THREADS = 2
BUSY = 0.5  # a load that other work on the machine must not pass
SAME = 1e-3  # how much losses may differ, relative: float32 sums in other orders, over many steps


class Ours:
    """`step()` takes a training step and returns its loss, an array that may not be there yet.

    Args:
      hf_config: as in config.json.
      ids_BxL: tokens of the one batch.
      folder: of Hugging Face with the weights to begin from; fresh ones without.
      runtime: of the model: dtype, scan, remat, ...
      blocks: train.loss_blocks.
    """

    def __init__(self, hf_config: dict, ids_BxL, folder: str = "", blocks: int = 4, **runtime):
        import jax

        from configs import default
        from marker_lm.convert.checkpoint import open_pretrained
        from marker_lm.convert.families import find_family
        from marker_lm.convert.load import load_params
        from marker_lm.data.assembly import Kind
        from marker_lm.model.config import ModelConfig
        from marker_lm.sharding.mesh import make_mesh
        from marker_lm.sharding.rules import batch_sharding
        from marker_lm.training.flops import make_step_flops
        from marker_lm.training.optimizer import make_optimizer
        from marker_lm.training.step import make_train_step, new_state
        from marker_lm.training.trainable import trained_paths

        train = default.get_config().unlock().train
        train.update(learning_rate=LEARNING_RATE, final_learning_rate=LEARNING_RATE)
        train.update(warmup_steps=0, beta1=BETAS[0], beta2=BETAS[1], weight_decay=DECAY)
        train.update(clip_norm=CLIP, loss_blocks=blocks)
        model = ModelConfig(**find_family(hf_config).to_model(hf_config), **runtime)
        mesh = make_mesh(devices=jax.devices()[:1])
        optimizer = make_optimizer(train, steps=1000)
        params = load_params(open_pretrained(folder), model, mesh, print) if folder else None
        self.state = new_state(model, optimizer, mesh, seed=0, pretrained=params)
        self.parameters = sum(x.size for x in jax.tree.leaves(self.state["params"]))
        self._step = make_train_step(model, optimizer, mesh, train)

        kinds_BxL = np.full(ids_BxL.shape, Kind.COMPLETION, np.int32)
        kinds_BxL[:, -1] = Kind.PADDING  # the last token has no target
        batch = {
            "tokens": ids_BxL,
            "targets": np.roll(ids_BxL, -1, axis=1),
            "segment_ids": np.ones_like(ids_BxL),
            "positions": np.broadcast_to(
                np.arange(ids_BxL.shape[1], dtype=np.int32), ids_BxL.shape
            ),
            "kinds": kinds_BxL,
            "weights": (kinds_BxL == Kind.COMPLETION).astype(np.float32),
        }
        self.batch = jax.device_put(batch, batch_sharding(mesh))
        step_flops = make_step_flops(model, trained_paths(model))
        self.flops = float(step_flops(self.batch["kinds"], self.batch["positions"]))

    def step(self):
        self.state, metrics = self._step(self.state, self.batch)
        return metrics["loss"]


class Theirs:
    """The same with transformers and PyTorch.

    Args:
      hf_config, ids_BxL: as of Ours.
      device: 'cpu' or 'cuda'.
      compiled: by torch.compile, and the products in bfloat16.
    """

    def __init__(self, hf_config: dict, ids_BxL, device: str, compiled: bool):
        import torch
        from transformers import AutoConfig, LlamaForCausalLM

        torch.manual_seed(0)
        self.torch, self.compiled, self.device = torch, compiled, device
        config = AutoConfig.for_model(**hf_config, use_cache=False, attn_implementation="sdpa")
        self.model = LlamaForCausalLM(config).train().to(device)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self._forward = torch.compile(self.model) if compiled else self.model
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        scales = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": DECAY},
            {"params": scales, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
        self.ids = torch.tensor(ids_BxL, dtype=torch.long, device=device)

    def step(self):
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.compiled):
            loss = self._forward(input_ids=self.ids, labels=self.ids).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def some_tokens(vocab: int, rows: int, length: int):
    """Random ids [B, L], int32."""
    return np.random.default_rng(0).integers(0, vocab, (rows, length)).astype(np.int32)


def on_cpu(rows: int, length: int, rounds: int, steps: int) -> float:
    """Prints a table; returns how many times as fast ours is.

    Raises SystemExit: losses differ, so that the two do not compute the same.
    """
    load = os.getloadavg()[0]
    size = [f"--rows={rows}", f"--length={length}"]
    wall: dict[str, list[float]] = {"transformers + PyTorch": [], "marker_lm": []}
    cpu: dict[str, list[float]] = {name: [] for name in wall}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides = []
        for which in ("theirs", "ours"):  # theirs writes the weights that ours begins with
            command = [sys.executable, __file__, f"--turns={which}", f"--folder={folder}", *size]
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            sides.append(stack.enter_context(subprocess.Popen(command, **pipes)))
            take_turn(sides[-1], 1)
        for done in range(-1, rounds):  # the first round warms up
            found = [take_turn(side, steps) for side in sides]
            if not np.allclose(*(one["losses"] for one in found), rtol=SAME):
                raise SystemExit(f"the losses differ: {[one['losses'] for one in found]}")
            for name, one in zip(wall, found, strict=True):
                if done >= 0:
                    wall[name].append(one["wall"] / steps)
                    cpu[name].append(one["cpu"] / steps)
    print(
        f"a Llama of {found[0]['parameters'] / 1e6:.1f} M parameters, {rows} x {length} tokens, "
        f"float32, {THREADS} threads; both at a loss of {found[0]['losses'][-1]:.4f} and "
        f"{found[1]['losses'][-1]:.4f}\n"
    )
    print("| | ms a step | processor ms | tokens/s |\n|---|---|---|---|")
    for name in wall:
        seconds = statistics.median(wall[name])
        processor = statistics.median(cpu[name])
        print(
            f"| {name} | {seconds * 1e3:.1f} | {processor * 1e3:.1f} "
            f"| {rows * length / seconds:.0f} |"
        )
    theirs_R, ours_R = map(np.array, wall.values())
    ratios_R = theirs_R / ours_R
    ratio = float(np.median(theirs_R) / np.median(ours_R))
    print(
        f"\nours is {ratio:.2f} times as fast ({rounds} rounds of {steps} steps, "
        f"from {ratios_R.min():.2f} to {ratios_R.max():.2f})"
    )
    if load > BUSY:
        print(f"The machine was busy before (load {load:.1f}): measure again when it is not.")
    return ratio


def take_turn(side: subprocess.Popen, steps: int) -> dict:
    """What a process of `serve_turns` found in so many steps."""
    print(steps, file=side.stdin, flush=True)
    line = side.stdout.readline()
    if not line:
        raise SystemExit("one side ended; what it said stands above")
    return json.loads(line)


def serve_turns(which: str, folder: str, rows: int, length: int) -> None:
    """Takes steps of the tiny model: as many as each line of the standard input says."""
    if hasattr(os, "sched_setaffinity"):  # before anything counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    ids_BxL = some_tokens(TINY["vocab_size"], rows, length)
    if which == "theirs":
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        transformers.utils.logging.disable_progress_bar()
        side = Theirs(TINY, ids_BxL, "cpu", compiled=False)
        side.model.save_pretrained(folder)
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
        from marker_lm.training.host_memory import keep_memory, run_in_this_thread

        run_in_this_thread()
        keep_memory()
        # scan=False: faster on CPUs, see model/config.py.
        side = Ours(TINY, ids_BxL, folder, blocks=2, scan=False)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        losses = [float(side.step()) for _ in range(int(line))]
        found = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "losses": losses,
            "parameters": side.parameters,
        }
        print(json.dumps(found), flush=True)


def ours_on_gpu(rows: int, length: int, steps: int, remat: str) -> dict:
    """Seconds of a step, rows, FLOPs of a step and the device's name; {} where JAX has no GPU."""
    import jax

    if jax.default_backend() != "gpu":
        return {}
    hf_config = json.loads(LARGE.read_text())
    ids_BxL = some_tokens(hf_config["vocab_size"], rows, length)
    ours = Ours(hf_config, ids_BxL, blocks=16, dtype="bfloat16", remat=remat)
    seconds = time_steps(ours, steps)
    device = jax.devices()[0].device_kind
    return {"seconds": seconds, "rows": rows, "flops": ours.flops, "device": device}


def theirs_on_gpu(rows: int, length: int, steps: int) -> dict:
    """Seconds of a step and rows, half of them again and again until memory suffices.

    {} where PyTorch is not installed or has no GPU.
    """
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    hf_config = json.loads(LARGE.read_text())
    while True:
        ids_BxL = some_tokens(hf_config["vocab_size"], rows, length)
        try:
            seconds = time_steps(Theirs(hf_config, ids_BxL, "cuda", compiled=True), steps)
            return {"seconds": seconds, "rows": rows}
        except torch.cuda.OutOfMemoryError:
            if rows == 1:
                raise
        rows //= 2
        torch.cuda.empty_cache()


def time_steps(one, steps: int, windows: int = 5) -> float:
    """Median seconds of a step, over windows of so many steps; compiling and first steps apart.

    The loss is fetched at the end of a window only, so that steps follow each other as in training.
    """
    for _ in range(3):
        float(one.step())
    seconds = []
    for _ in range(windows):
        began = time.perf_counter()
        for _ in range(steps):
            loss = one.step()
        if not np.isfinite(float(loss)):
            raise SystemExit("the loss is not finite")
        seconds.append((time.perf_counter() - began) / steps)
    return statistics.median(seconds)


def on_gpu(args) -> None:
    """Prints a table of both, or a sentence where there is no GPU."""
    from marker_lm.sharding.chips import find_chip

    found = {}
    for which in ("ours", "theirs"):  # one after the other: each wants the whole memory
        options = [f"--rows={args.rows}", f"--length={args.length}", f"--steps={args.steps}"]
        command = [sys.executable, __file__, f"--measure={which}", f"--remat={args.remat}"]
        done = subprocess.run(command + options, stdout=subprocess.PIPE, text=True, check=True)
        found[which] = json.loads(done.stdout.splitlines()[-1])
        if not found["ours"]:
            print("JAX finds no GPU here (pip install 'marker-lm[cuda]'): nothing was measured.")
            return
    ours, theirs = found["ours"], found["theirs"]
    chip = find_chip(ours["device"])
    print(f"{LARGE.stem} on {ours['device']}, {args.length} tokens a row, remat={args.remat}\n")
    print(
        "| | rows | ms a step | tokens/s | TFLOP/s | useful-token MFU |\n|---|---|---|---|---|---|"
    )
    flops_of_row = ours["flops"] / ours["rows"]
    for name, one in (("marker_lm", ours), ("PyTorch, compiled, SDPA", theirs)):
        if not one:
            print("\nPyTorch finds no GPU or is not installed: ours was measured alone.")
            return
        rate = one["rows"] / one["seconds"]
        mfu = f"{rate * flops_of_row / chip.bf16_flops:.1%}" if chip else "peak not known"
        print(
            f"| {name} | {one['rows']} | {one['seconds'] * 1e3:.1f} | {rate * args.length:.0f} "
            f"| {rate * flops_of_row / 1e12:.0f} | {mfu} |"
        )
    ratio = (ours["rows"] / ours["seconds"]) / (theirs["rows"] / theirs["seconds"])
    print(f"\nours is {ratio:.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rows", type=int, help="of a batch; 8, on a GPU 4")
    parser.add_argument("--length", type=int, help="tokens of a row; 256, on a GPU 4,096")
    parser.add_argument("--rounds", type=int, default=7, help="on CPU")
    parser.add_argument("--steps", type=int, default=5, help="of a round")
    parser.add_argument("--remat", default="none", help="of ours, on a GPU")
    parser.add_argument("--measure", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--turns", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    gpu = args.gpu or args.measure
    args.rows = args.rows or (4 if gpu else 8)
    args.length = args.length or (4096 if gpu else 256)
    if args.measure == "ours":
        print(json.dumps(ours_on_gpu(args.rows, args.length, args.steps, args.remat)))
    elif args.measure == "theirs":
        print(json.dumps(theirs_on_gpu(args.rows, args.length, args.steps)))
    elif args.turns:
        serve_turns(args.turns, args.folder, args.rows, args.length)
    elif args.gpu:
        on_gpu(args)
    else:
        on_cpu(args.rows, args.length, args.rounds, args.steps)


if __name__ == "__main__":
    main()
