"""SmolLM2-135M-Instruct from its package: time and memory of the import, and perplexity.

    python tests/benchmarks/smollm2.py

Each import runs in a process of its own: from opening the GGUF file to the last parameter in its
place, with the tokenizer; wall clock and processor seconds. The peak is the kernel's (ru_maxrss),
Python and JAX included. The bars are 60 s and 1.5 GB.

Perplexity: 200 English rows of heldout-dev of the mix, evenly spaced among all whose conversation
fits in 512 tokens, in the order of their ids. Instruction, line break and input are the user's
message and output the answer, written by the model's chat template. exp of the mean nats of the
answers' tokens, each with its <|im_end|>; float32 weights and computation, no markers.
"""

import argparse
import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.mix import Clock, peak_gigabytes  # noqa: E402

HELDOUT = ROOT.parent / "shared" / "data" / "mix" / "heldout-dev.jsonl.gz"
LENGTH, BATCH = 512, 4


def load(param_dtype: str):
    """(params, config, tokenizer) of the packaged model."""
    from configs.smollm2 import checkpoint
    from marker_lm.convert.check import model_config
    from marker_lm.convert.checkpoint import open_pretrained
    from marker_lm.convert.load import load_params
    from marker_lm.sharding.mesh import make_mesh

    opened = open_pretrained(checkpoint())
    config = model_config(opened, param_dtype=param_dtype)
    return load_params(opened, config, make_mesh()), config, opened.tokenizer()


def measure(param_dtype: str) -> dict:
    """Imports, and says how long it took and how much memory this process has had at most."""
    import jax

    clock = Clock()
    params, _, tokenizer = load(param_dtype)
    jax.block_until_ready(params)
    wall, cpu = clock.read()
    return {
        "wall": wall,
        "cpu": cpu,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "tokens": tokenizer.size,
        "peak": peak_gigabytes(),
    }


def in_its_own_process(param_dtype: str) -> dict:
    command = [sys.executable, __file__, f"--measure={param_dtype}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def conversations(tokenizer, count: int) -> list[tuple[list[int], list[int]]]:
    """Ids of prompt and answer of so many English rows."""
    from marker_lm.data.chat import Chat

    chat = Chat(tokenizer.chat_template, tokenizer.special)
    with gzip.open(HELDOUT, "rt") as file:
        rows = [row for row in map(json.loads, file) if row["language"] == "en"]
    found = []
    for row in sorted(rows, key=lambda row: row["id"]):
        prompt = "\n".join(text for text in (row["instruction"], row["input"]) if text)
        [turn] = chat.turns(chat.plain(prompt, row["output"]))
        ids = tokenizer.encode(turn.prompt), [*tokenizer.encode(turn.completion), tokenizer.eos_id]
        if sum(map(len, ids)) <= LENGTH:
            found.append(ids)
    return [found[i * len(found) // count] for i in range(count)]


def perplexity(params, config, pairs) -> tuple[float, int]:
    """exp of the mean nats of the answers' tokens, and how many tokens that are."""
    import jax

    from marker_lm.model.likelihood import batch_nll

    @jax.jit
    def nats(params, batch, wanted_BxL):
        weights_BxL = wanted_BxL.astype(np.float32)
        return batch_nll(params, config, batch, weights_BxL, wanted_BxL, blocks=8)[0]

    total = tokens = 0
    pairs = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        # Few lengths, so that few programs are compiled.
        longest = max(len(prompt) + len(answer) for prompt, answer in some)
        length = next(n for n in (64, 128, 256, LENGTH) if n >= longest)
        ids_BxL = np.zeros((BATCH, length + 1), np.int32)
        wanted_BxL = np.zeros((BATCH, length), bool)
        segments_BxL = np.zeros((BATCH, length), np.int32)
        for i, (prompt, answer) in enumerate(some):
            end = len(prompt) + len(answer)
            ids_BxL[i, :end] = prompt + answer
            wanted_BxL[i, len(prompt) - 1 : end - 1] = True
            segments_BxL[i, :end] = 1
        batch = {
            "tokens": ids_BxL[:, :-1],
            "targets": ids_BxL[:, 1:],
            "positions": np.broadcast_to(np.arange(length, dtype=np.int32), (BATCH, length)),
            "segment_ids": segments_BxL,
        }
        total += float(nats(params, batch, wanted_BxL))
        tokens += int(wanted_BxL.sum())
    return math.exp(total / tokens), tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--measure", default="", help="one import, in this process")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    print("| parameters | seconds | processor seconds | peak GB |\n|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        found = in_its_own_process(dtype)
        millions = found["parameters"] / 1e6
        figures = (found["wall"], found["cpu"], found["peak"])
        print(f"| {millions:.1f} M {dtype} | " + " | ".join(f"{x:.2f}" for x in figures) + " |")
    if not HELDOUT.exists():
        raise SystemExit(f"{HELDOUT} is not there; perplexity needs its rows")
    params, config, tokenizer = load("float32")
    pairs = conversations(tokenizer, args.rows)
    clock = Clock()
    value, tokens = perplexity(params, config, pairs)
    print(
        f"perplexity of {len(pairs)} English rows: {value:.3f} on {tokens:,} tokens of answers "
        f"({clock.read()[0]:.0f} s)"
    )


if __name__ == "__main__":
    main()
