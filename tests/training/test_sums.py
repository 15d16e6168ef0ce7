"""A damaged file is known by its size or checksum, whoever wrote the sums."""

import shutil
from pathlib import Path

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from marker_lm.training import sums
from marker_lm.training.sums import find_faults, is_finished, write_sums

FILES = {"top.json": b"{}", "params/a": b"x" * 1000, "params/d/b": b"", "optimizer/c": b"yz" * 50}


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "step" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return epath.Path(tmp_path / "step")


@pytest.mark.parametrize("writers", [1, 2, 3, 7])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_any_number_of_processes_share_the_work(folder, writers, readers):
    for process in reversed(range(writers)):
        assert not is_finished(folder)
        write_sums(folder, process, writers)
    assert is_finished(folder)
    every = range(readers)
    assert [find_faults(folder, (), process, readers) for process in every] == [[]] * readers
    (folder / "params/a").write_bytes(b"x" * 999 + b"z")
    found = [find_faults(folder, (), process, readers) for process in every]
    assert sum(found, []) == ["params/a has changed: its checksum is another"]


def test_a_process_whose_sums_are_missing(folder):
    write_sums(folder, 0, 2)
    assert not is_finished(folder)
    assert find_faults(folder) == ["sums.1-of-2.json is missing"]


def test_without_sums_nothing_is_finished(folder):
    assert not is_finished(folder)
    assert find_faults(folder) == ["sums.0-of-1.json is missing"]


def test_only_some_parts_may_be_read(folder):
    write_sums(folder)
    (folder / "optimizer/c").write_bytes(b"yy" * 50)
    assert find_faults(folder, ["params"]) == []
    assert find_faults(folder, ["optimizer"]) == find_faults(folder) != []
    (folder / "optimizer/c").write_bytes(b"y")  # sizes are looked at in any case
    assert find_faults(folder, ["params"]) == ["optimizer/c has 1 bytes, not 100"]
    (folder / "top.json").write_bytes(b"[]")
    assert "top.json has changed" in " ".join(find_faults(folder, ["params"]))


def test_a_kill_while_the_sums_are_written_leaves_none(folder, monkeypatch):
    def killed(path, data):
        path.open("wb").write(data[:5])
        raise SystemExit

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(SystemExit):
        write_sums(folder)
    assert not is_finished(folder)


def test_a_half_written_file_of_another_process_is_not_counted(folder):
    (folder / ".sums.1-of-2.json.123.partial").write_text("{")
    write_sums(folder)
    (folder / ".sums.1-of-2.json.123.partial").unlink()
    assert find_faults(folder) == []


def test_large_files_are_read_in_blocks(folder, monkeypatch):
    write_sums(folder)
    monkeypatch.setattr(sums, "_BLOCK", 7)
    assert find_faults(folder) == []


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_sums_themselves_is_found(tmp_path_factory, at, bit):
    folder = epath.Path(tmp_path_factory.mktemp("sums"))
    (folder / "params").mkdir()
    (folder / "params/a").write_bytes(b"data")
    (folder / "b").write_bytes(b"more")
    write_sums(folder)
    path = folder / "sums.0-of-1.json"
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))
    assert find_faults(folder) != []
    shutil.rmtree(folder)
