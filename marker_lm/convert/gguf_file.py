"""GGUF files in: quantized weights become float32 arrays, one tensor at a time.

A GGUF file (llama.cpp's format) holds metadata, tokenizer and weights in one. The `gguf` package
reads and dequantizes it; here its tensors get Hugging Face's names and layouts.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from etils import epath

from marker_lm.convert import gguf_config, gguf_tokenizer
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.gguf_config import Metadata
from marker_lm.convert.pretrained import Pretrained
from marker_lm.convert.source import Index

_MAGIC = b"GGUF"
_ROPE_FACTORS = "rope_freqs.weight"
# So many rows are dequantized at a time: it bounds the memory that gguf takes beside the result.
_ROWS = 4096


def open_gguf(path: epath.PathLike) -> Pretrained:
    """The model in a GGUF file; no weight is read before it is asked for.

    Raises:
      ConvertError: there is no file, or one of another kind, damaged or cut short; a quantization,
        an architecture or a RoPE scaling is not known; a tensor or metadata is missing.
    """
    reader = _reader(path)
    metadata = Metadata(str(path), {key: field.contents() for key, field in reader.fields.items()})
    found = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf_config.tensor_names(metadata, found)
    _check_types(path, found)
    source = _tensor_source(metadata, {name: found[theirs] for theirs, name in names.items()})
    factors = found.get(_ROPE_FACTORS)
    config = gguf_config.hf_config(
        metadata,
        vocab=int(found["token_embd.weight"].shape[1]),
        tied="output.weight" not in found,
        rope_factors_N2=None if factors is None else _dequantize(factors),
    )
    return Pretrained(
        path=str(path),
        config=config,
        tensors=source,
        generation=gguf_tokenizer.generation(metadata),
        load_tokenizer=lambda: gguf_tokenizer.tokenizer(metadata),
    )


def _reader(path: epath.PathLike) -> gguf.GGUFReader:
    if "://" in str(path):
        raise ConvertError(
            f"{path} is not on a local disk, and a GGUF file is mapped into memory; copy it to one"
        )
    if not Path(path).is_file():
        raise ConvertError(f"there is no checkpoint at '{path}'; give a .gguf file")
    with Path(path).open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise ConvertError(
            f"{path} is not a GGUF file (it begins with {start!r} instead of {_MAGIC!r})"
        )
    try:
        return gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise ConvertError(
            f"{path} cannot be read as GGUF ({error}); it is cut short or damaged (get it again), "
            "or newer than the installed gguf package (update that)"
        ) from None


def _check_types(path: epath.PathLike, tensors: Mapping[str, gguf.ReaderTensor]) -> None:
    """Raises ConvertError where a tensor is of a type that gguf names but cannot dequantize."""
    first = {tensor.tensor_type: tensor for tensor in tensors.values()}
    for kind, tensor in first.items():
        try:
            gguf.quants.dequantize(np.asarray(tensor.data[:1]), kind)
        except NotImplementedError:
            raise ConvertError(
                f"{path}: the tensor '{tensor.name}' is of the type {kind.name}, which the gguf "
                "package cannot dequantize; get the file in another quantization"
            ) from None


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor of the file, and how it differs from Hugging Face's.

    Attributes:
      stored: gguf's ReaderTensor, whose data are rows of bytes in the mapped file.
      order: row `order[i]` of the file is row i of Hugging Face's tensor.
      offset: what the file has added to every value.
    """

    stored: gguf.ReaderTensor
    order: np.ndarray
    offset: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self.stored.shape))


class GGUFTensors:
    """The tensors of a GGUF file as a TensorSource: all are float32."""

    def __init__(self, tensors: Mapping[str, _Tensor]):
        self._tensors = dict(tensors)

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(np.float32)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """float32 values of a tensor, or of `index` in it; rows outside it are not read."""
        tensor = self._tensors[name]
        first, *others = index or (slice(None),)
        rows = tensor.order[first]
        if len(tensor.shape) == 1:
            return _dequantize(tensor.stored)[rows] - np.float32(tensor.offset)
        values = np.empty((len(rows), *tensor.shape[1:]), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            values[part] = _dequantize(tensor.stored, rows[part])
        return values[:, *others]


def _dequantize(stored: gguf.ReaderTensor, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    return gguf.quants.dequantize(np.ascontiguousarray(stored.data[rows]), stored.tensor_type)


def _tensor_source(metadata: Metadata, stored: Mapping[str, gguf.ReaderTensor]) -> GGUFTensors:
    """`stored` is by Hugging Face name."""
    family = gguf_config.find_architecture(metadata)
    size = gguf_config.head_size(metadata)
    tensors = {}
    for name, tensor in stored.items():
        order = np.arange(int(tensor.shape[-1]))
        if family.permuted and ("q_proj" in name or "k_proj" in name):
            order = _halves(order, size)
        offset = family.norm_offset if name.endswith("norm.weight") else 0.0
        tensors[name] = _Tensor(tensor, order, offset)
    return GGUFTensors(tensors)


def _halves(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows of heads whose RoPE turns pairs (2i, 2i + 1), in the order of halves (i, i + N/2)."""
    return rows.reshape(-1, size // 2, 2).swapaxes(1, 2).reshape(-1)
