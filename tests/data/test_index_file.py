"""A joined index is to the byte what NumPy writes of all rows at once."""

import numpy as np
import pytest

from marker_lm.data.index_file import join_columns


def columns(rows, seed):
    random = np.random.default_rng(seed)
    return {
        "hash_N": random.integers(0, 2**64, rows, np.uint64),
        "length_NxC": random.integers(0, 99, (rows, 3)).astype(np.int16),
    }


@pytest.mark.parametrize("begins", [(), (0, 1, 2), (1,), (2,)])
def test_the_bytes_of_numpy(tmp_path, begins):
    parts = [columns(rows, seed) for seed, rows in enumerate((5, 0, 1000))]
    for i in begins:
        parts[i]["begins_N"] = np.arange(len(parts[i]["hash_N"])) % 3 == 0
    join_columns(iter(parts), tmp_path / "joined.npz", missing={"begins_N": True})
    for part in parts:
        if begins:
            part.setdefault("begins_N", np.ones(len(part["hash_N"]), bool))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    np.savez(tmp_path / "whole.npz", **whole)
    assert (tmp_path / "joined.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"joined.npz", "whole.npz"}
