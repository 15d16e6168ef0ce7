"""UTF-8 bytes as ids."""

import hashlib
from collections.abc import Sequence

from etils import epath

from marker_lm.data.tokenizers.base import check_ids, check_text

BYTES_FILE = "tokenizer.bytes"


class ByteTokenizer:
    """UTF-8 bytes as ids: pad 0, eos 1, unk 2, byte b is 3 + b."""

    size = 259
    pad_id = 0
    eos_id = 1
    bos_id = None
    unk_id = 2
    lossless = True
    hash = hashlib.sha256(b"marker_lm bytes, offset 3").hexdigest()

    def encode(self, text: str) -> list[int]:
        return [3 + b for b in check_text(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        ids = check_ids(ids, self.size)
        raw = b"".join(bytes([i - 3]) if i >= 3 else b"\xff" if i == 2 else b"" for i in ids)
        return raw.decode("utf-8", errors="replace")

    def piece(self, id: int) -> str:
        [id] = check_ids([id], self.size)
        if id < 3:
            return ("<pad>", "<eos>", "<unk>")[id]
        return chr(id - 3) if id - 3 < 128 else f"<0x{id - 3:02X}>"

    def save(self, folder: epath.PathLike) -> None:
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BYTES_FILE).write_text(self.hash + "\n")
