"""Shapes of scoring batches: rounded up, so that few programs are compiled, and not by much."""

from marker_lm.decoding.steps import round_up
from marker_lm.model.layout import parts
from marker_lm.sharding.rules import batch_shards

PIECE_LOGITS = 1 << 26  # float32 logits of a device that exist at once: 256 MiB


def bucket(n: int, least: int = 32) -> int:
    """n rounded up: to a multiple of `least`, and of an eighth of the power of two it is under."""
    step = max(least, 1 << max((n - 1).bit_length() - 3, 0))
    return round_up(n, step)


def rows_for(n: int, most: int, mesh) -> int:
    """Rows of a batch for n sequences: a power of two that the mesh splits, or `most`."""
    return min(most, max(batch_shards(mesh), 1 << (n - 1).bit_length()))


def loss_blocks(vocab: int, B: int, L: int) -> int:
    """Pieces for `model.likelihood.weighted_nll` of so few logits that they fit; in `use_mesh`."""
    rows, lengths = parts("batch"), parts("length")
    tokens = B * L if B % rows or L % lengths else B * L // (rows * lengths)
    blocks = 1
    while tokens // blocks * vocab > PIECE_LOGITS and tokens % (2 * blocks) == 0:
        blocks *= 2
    return blocks
