"""Where tensors come from: named arrays of which any part can be read without the rest."""

from typing import Protocol

import numpy as np

Index = tuple[slice, ...]
PIECE = 64 * 1024 * 1024  # bytes of a tensor that are held on the host at once


class TensorSource(Protocol):
    """The tensors of a checkpoint under Hugging Face's names and in its layouts."""

    def names(self) -> list[str]:
        """All tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""

    def dtype(self, name: str) -> np.dtype:
        """What `read` gives; ml_dtypes.bfloat16 for BF16."""

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """A tensor, or the part of it that `index` names: one slice with step 1 an axis."""
