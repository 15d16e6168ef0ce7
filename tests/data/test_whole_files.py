"""A file has its name when it is whole, and what was there before stays until then."""

import pytest

from marker_lm.data import whole_files
from marker_lm.data.whole_files import whole_file, write_whole


@pytest.fixture(params=["local", "remote"])
def target(request, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_files, "is_remote", lambda path: request.param == "remote")
    return tmp_path / "file.json"


def test_it_appears_at_the_end(target):
    with whole_file(target) as file:
        file.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


def test_one_that_fails_leaves_the_one_before(target):
    write_whole(target, b"old")
    with pytest.raises(RuntimeError, match="in the middle"), whole_file(target) as file:
        file.write_text("half")
        raise RuntimeError("in the middle")
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


def test_two_may_write_at_once(target):
    with whole_file(target) as first, whole_file(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # the one that ended last
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]
