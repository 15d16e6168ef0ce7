import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from marker_lm.convert import safetensors_file
from marker_lm.convert.checkpoint import open_pretrained
from marker_lm.convert.errors import ConvertError
from marker_lm.convert.safetensors_file import SafetensorsSource
from marker_lm.convert.safetensors_writer import Planned, plan_files, write_file
from tests.convert.pretrained import CONFIG, tensors, write_pretrained


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    numbers = np.random.default_rng(0).normal(size=(7, 5, 6))
    arrays = {
        "bf16": numbers.astype(ml_dtypes.bfloat16),
        "f16": numbers[0].astype(np.float16),
        "f32": numbers[0, 0].astype(np.float32),
        "scalar": np.full((), 3, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(arrays, path)
    return path, arrays


def test_all_of_a_file_is_read_as_the_package_reads_it(file):
    path, arrays = file
    source = SafetensorsSource(path.parent)
    assert sorted(source.names()) == sorted(arrays)
    for name, want in load_file(path).items():
        assert source.shape(name) == want.shape and source.dtype(name) == want.dtype
        np.testing.assert_array_equal(source.read(name), want)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_part_is_read(file, data):
    """Runs of any length are read alone or cut out of what lies between them."""
    path, arrays = file
    want = arrays["bf16"]
    index = []
    for n in want.shape:
        start = data.draw(st.integers(0, n))
        index.append(slice(start, data.draw(st.integers(start, n))))
    index = tuple(index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors_file, "SHORTEST_RUN", data.draw(st.sampled_from((1, 8, 10**6))))
        patch.setattr(safetensors_file, "PIECE", data.draw(st.sampled_from((1, 100, 10**6))))
        got = SafetensorsSource(path).read("bf16", index)
    np.testing.assert_array_equal(got, want[index])


def test_only_the_bytes_of_the_part_are_read(tmp_path, monkeypatch):
    """A file whose other bytes are cut off: rows 0 and 1 are still read, row 2 is not."""
    path = tmp_path / "model.safetensors"
    save_file({"a": np.arange(12, dtype=np.float32).reshape(3, 4)}, path)
    source = SafetensorsSource(path)
    path.write_bytes(path.read_bytes()[:-16])
    rows = source.read("a", (slice(0, 2), slice(None)))
    np.testing.assert_array_equal(rows, np.arange(8).reshape(2, 4))
    with pytest.raises(ConvertError, match="ended while it was read"):
        source.read("a")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5), st.data())
def test_what_is_written_is_what_the_package_reads(tmp_path_factory, shapes, data):
    random = np.random.default_rng(0)
    arrays = {f"t{i}": random.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}
    planned = [Planned(name, x.shape, x.dtype) for name, x in arrays.items()]
    path = tmp_path_factory.mktemp("written") / "model.safetensors"
    cut = data.draw(st.integers(0, 4))

    def pieces(tensor):
        x = arrays[tensor.name]
        yield from (x[:cut], x[cut:]) if x.ndim else (x,)

    write_file(epath.Path(path), planned, pieces)
    found = load_file(path)
    assert found.keys() == arrays.keys()
    for name, x in arrays.items():
        np.testing.assert_array_equal(found[name], x)


def test_files_are_filled_in_order():
    tensors = [
        Planned(name, (n,), np.dtype(np.float32))
        for name, n in zip("abcd", (2, 2, 9, 1), strict=True)
    ]
    files = plan_files(tensors, largest=16)
    assert [[t.name for t in group] for group in files.values()] == [["a", "b"], ["c"], ["d"]]
    assert list(files)[0] == "model-00001-of-00003.safetensors"
    assert list(plan_files(tensors)) == ["model.safetensors"]


def fault(path) -> str:
    with pytest.raises(ConvertError) as error:
        open_pretrained(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def change_header(path: Path, change) -> None:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + size :])


def test_a_damaged_file_is_named_with_the_mend(tmp_path):
    folder = write_pretrained(tmp_path / "m")
    path = folder / "model.safetensors"
    whole = path.read_bytes()

    path.write_bytes(whole[:-10])
    message = fault(folder)
    assert "is truncated" in message and "model." in message and "again" in message

    for short in (b"", whole[:5], whole[:100]):
        path.write_bytes(short)
        assert "truncated or no safetensors file" in fault(folder)

    path.write_bytes(whole[:8] + b"x" + whole[9:])
    assert "the header of" in fault(folder) and "damaged" in fault(folder)

    path.write_bytes(whole)
    change_header(path, lambda h: h["lm_head.weight"].update(dtype="F8_E4M3"))
    assert "lm_head.weight" in fault(folder) and "F8_E4M3" in fault(folder)

    path.write_bytes(whole)
    change_header(path, lambda h: h["lm_head.weight"].update(shape=[1, 2]))
    assert "lm_head.weight of shape (1, 2)" in fault(folder)

    path.write_bytes(whole)
    change_header(path, lambda h: h["lm_head.weight"].pop("shape"))
    assert "damaged (KeyError: 'shape')" in fault(folder)


def test_an_index_that_does_not_fit_its_files_is_an_error(tmp_path):
    folder = write_pretrained(tmp_path / "m", shards=3)
    assert len(open_pretrained(folder).tensors.names()) == len(tensors(CONFIG))
    second = folder / "model-00002-of-00003.safetensors"
    raw = second.read_bytes()
    second.unlink()
    message = fault(folder)
    assert "model-00002-of-00003.safetensors, which is not there" in message
    assert "such as model." in message
    second.write_bytes(raw)

    index = folder / "model.safetensors.index.json"
    about = json.loads(index.read_text())
    about["weight_map"]["ghost.weight"] = second.name
    index.write_text(json.dumps(about))
    assert "the tensor ghost.weight is in" in fault(folder)
    index.write_text("{}")
    assert "no 'weight_map'" in fault(folder)
    index.write_text("{")
    assert "is no JSON" in fault(folder)


def test_what_is_no_checkpoint_is_told(tmp_path):
    assert "there is no checkpoint at" in fault(tmp_path / "nowhere")
    assert "config.json" in fault(tmp_path)
    folder = write_pretrained(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = fault(folder)
    assert "there is no" in message and "pytorch_model.bin" in message and "Only" in message
