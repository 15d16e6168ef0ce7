"""Peak host memory and time of an import: a generated bf16 checkpoint, kept in bf16, on CPU.

    python tests/benchmarks/convert.py --gigabytes=2

Each import runs in a process of its own. The peak is the kernel's (ru_maxrss), Python and JAX
included; the bar is 1.3 times the size of the checkpoint.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
WIDTH, HEADS, KV_HEADS, HEAD_SIZE, FF, VOCAB = 2048, 16, 4, 128, 6144, 128_000


def write_checkpoint(folder: str, gigabytes: float, shards: int) -> int:
    """A random Llama of about this size; returns its bytes. No more than a tensor is in memory."""
    import ml_dtypes
    import numpy as np
    from etils import epath

    from marker_lm.convert.safetensors_writer import Planned, write_file, write_index
    from marker_lm.data.tokenizers.bytes import ByteTokenizer
    from tests.convert.pretrained import CONFIG, shapes

    def config(layers):
        return CONFIG | {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_SIZE,
            "intermediate_size": FF,
            "tie_word_embeddings": True,
        }

    bfloat16 = np.dtype(ml_dtypes.bfloat16)

    def planned(layers):
        return [Planned(name, shape, bfloat16) for name, shape in shapes(config(layers)).items()]

    one, two = (sum(t.size for t in planned(layers)) for layers in (1, 2))
    layers = max(round((gigabytes * 1e9 - one) / (two - one)) + 1, 1)
    random = np.random.default_rng(0)

    def pieces(tensor):
        numbers = random.integers(0, 2**14, tensor.shape, np.uint16)  # all are finite in bf16
        yield numbers.view(bfloat16)

    folder = Path(folder)
    folder.mkdir()
    tensors = planned(layers)
    files = {
        f"model-{i + 1:05}-of-{shards:05}.safetensors": tensors[i::shards] for i in range(shards)
    }
    for name, part in files.items():
        write_file(epath.Path(folder / name), part, pieces)
    write_index(epath.Path(folder), files)
    (folder / "config.json").write_text(json.dumps(config(layers)))
    ByteTokenizer().save(folder)
    return sum(t.size for t in tensors)


def measure(folder: str, param_dtype: str) -> dict:
    """Imports, and says how long it took and how much memory this process has had at most."""
    import jax

    from marker_lm.convert.checkpoint import open_pretrained
    from marker_lm.convert.load import load_config, load_params
    from marker_lm.model.params import parameter_count
    from marker_lm.sharding.mesh import make_mesh

    mesh = make_mesh()
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.monotonic()
    config = load_config(folder, param_dtype=param_dtype)
    params = load_params(open_pretrained(folder), config, mesh)
    jax.block_until_ready(params)
    return {
        "parameters": parameter_count(config),
        "seconds": time.monotonic() - began,
        "idle": idle,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def apart(call: str):
    """Result of a call of this module in a process of its own, whose peak is then its own.

    A process starts with the peak of the one that it comes from, so this one stays small.
    """
    code = f"import json, tests.benchmarks.convert as c; print(json.dumps(c.{call}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--param-dtype", default="bfloat16")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        size = apart(f"write_checkpoint({model!r}, {args.gigabytes}, {args.shards})")
        facts = apart(f"measure({model!r}, {args.param_dtype!r})")
    print("| checkpoint GB | parameters | idle process GB | peak GB | peak / size | s | s per GB |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {size / 1e9:.2f} | {facts['parameters'] / 1e6:.0f} M | {facts['idle'] / 1e9:.2f} "
        f"| {facts['peak'] / 1e9:.2f} | {facts['peak'] / size:.2f} | {facts['seconds']:.1f} "
        f"| {facts['seconds'] / (size / 1e9):.1f} |"
    )


if __name__ == "__main__":
    main()
