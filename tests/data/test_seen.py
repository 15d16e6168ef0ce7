"""Ids that came before, in sorted blocks."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.data import seen as seen_module
from marker_lm.data.seen import SeenIds

ROOT = Path(__file__).resolve().parents[2]


@given(st.lists(st.lists(st.integers(0, 30) | st.integers(0, 2**64 - 1), max_size=40), max_size=12))
def test_the_same_as_a_set(parts):
    seen, known = SeenIds(), set()
    for part in parts:
        expected = []
        for one in part:
            expected.append(one not in known)
            known.add(one)
        assert seen.add(np.asarray(part, np.uint64)).tolist() == expected
    assert len(seen) == len(known)


@pytest.mark.parametrize("piece", [1, 3, 64])
@given(st.lists(st.lists(st.integers(0, 30) | st.integers(0, 2**64 - 1), max_size=40), max_size=12))
def test_blocks_in_files_are_merged_as_those_in_memory(piece, parts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen_module, "_IN_MEMORY", 8)
        patch.setattr(seen_module, "_PIECE", piece)
        patch.setattr(seen_module, "_PAGE", 2)
        test_the_same_as_a_set.hypothesis.inner_test(parts)


def test_memory_does_not_grow_with_the_rows():
    random = np.random.default_rng(0)
    most = []
    for rows in (300_000, 1_200_000):
        seen, started, peak = SeenIds(), resident(), 0
        for _ in range(rows // 512):
            hashes = random.integers(0, 2**64, 512, np.uint64)
            assert seen.add(hashes).all()
            peak = max(peak, resident() - started)
        assert not seen.add(hashes).any()
        assert len(seen) == rows // 512 * 512
        most.append(peak)
    assert most[1] - most[0] < 3e6  # of the 7 MB that the further rows take in files


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_no_room_for_the_files_is_one_sentence():
    code = (
        "import resource, numpy as np; from marker_lm.data.seen import SeenIds\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try: SeenIds().add(np.arange(10)), [s.add(np.arange(i * 50_000, (i + 1) * 50_000)) "
        "for s in [SeenIds()] for i in range(9)]\n"
        "except OSError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "could not be written to" in done.stdout and "TMPDIR" in done.stdout
