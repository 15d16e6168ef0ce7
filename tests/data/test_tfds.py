"""TensorFlow Datasets as sources of tasks, by name and by folder, with a builder written here."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from marker_lm.data.cache import Cache
from marker_lm.data.prepare import prepare
from marker_lm.data.sources import RejectShareError, SourceError
from marker_lm.data.tasks import tfds_rows
from marker_lm.data.tokenizers.bytes import ByteTokenizer
from tests.tiny import tiny_config, write_data


class MarkerLmGreetings(tfds.core.GeneratorBasedBuilder):
    """Rows as TFDS has them: bytes for text, numbers of NumPy, nested features."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "ask": tfds.features.Text(),
            "reply": {"text": tfds.features.Text(), "words": np.int64},
            "lang": tfds.features.ClassLabel(names=["en", "de"]),
            "name": tfds.features.Text(),
            "scores": tfds.features.Sequence(np.float32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(4)}

    def _generate_examples(self, rows):
        for i in range(rows):
            reply = "ja" if i % 2 else "yes 東"
            yield (
                i,
                {
                    "ask": f"{i} ok?" if i != 3 else b"\xff",
                    "reply": {"text": reply, "words": len(reply.split())},
                    "lang": i % 2,
                    "name": f"row-{i}",
                    "scores": [0.5] * (i % 3),
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    MarkerLmGreetings(data_dir=folder).download_and_prepare()
    return folder


def by_folder(data_dir):
    return str(data_dir / "marker_lm_greetings" / "1.2.0")


def make_config(tmp_path, data_dir, name, **task):
    config = tiny_config(write_data(tmp_path, 5, 5)).unlock()
    known = {"train": "train", "heldout": "test", "rate": 1.0, "tfds": name}
    config.data.tasks = {"greetings": known | task}
    config.data.update(tfds_folder=str(data_dir), max_reject_share=0.3)
    with config.data.rows.ignore_type():
        config.data.rows.update(
            prompt="ask",
            completion="reply.text",
            id="name",
            markers={"lang": "lang", "words": "reply.words"},
            value_maps={"lang": {"0": "en", "1": "de"}},
        )
    return config


def test_rows_are_plain_python(data_dir):
    rows = {row["name"]: row for row in tfds_rows(by_folder(data_dir), "train")}
    assert len(rows) == 20
    assert rows["row-2"] == {
        "ask": "2 ok?",
        "reply": {"text": "yes 東", "words": 2},
        "lang": 0,
        "name": "row-2",
        "scores": [0.5, 0.5],
    }
    assert rows["row-3"]["ask"] == b"\xff"
    names = [row["name"] for row in tfds_rows(by_folder(data_dir), "train[:50%]")]
    assert names == list(rows)[:10]


@pytest.mark.parametrize("name", ["marker_lm_greetings:1.2.0", None])
def test_a_task_of_a_dataset_becomes_a_cache(tmp_path, data_dir, name):
    config = make_config(tmp_path, data_dir, name or by_folder(data_dir))
    manifests = prepare(config, config.data.prepared, lambda line: None)
    # The row whose prompt is no text is rejected, in both splits.
    assert {s: m["rows"] for s, m in manifests.items()} == {"train": 19, "heldout": 3}
    assert manifests["train"]["rejects"]["kinds"] == {"prompt is not a string": 1}
    assert manifests["train"]["tasks"] == [{"name": "greetings", "rows": 19, "rate": 1.0}]
    cache = Cache(tmp_path / "prepared" / "train")
    found = {one.id: one for one in map(cache.read, range(19))}
    assert ByteTokenizer().decode(found["row-4"].prompt) == "4 ok?"
    assert ByteTokenizer().decode(found["row-4"].completion) == "yes 東"
    assert set(found["row-4"].markers) == {"words", "size", "lang"}
    lines = []
    prepare(config, config.data.prepared, lines.append)
    assert "prepared already" in lines[0]


def test_what_is_wrong_is_said(tmp_path, data_dir):
    folder = by_folder(data_dir)
    for name, split, match in (
        (folder, "dev", "Should be one of"),
        ("marker_lm_no_such_dataset", "train", "'marker_lm_no_such_dataset'"),
        ("marker_lm_greetings:9.9.9", "train", "marker_lm_greetings:9.9.9"),
    ):
        with pytest.raises(SourceError, match=f"TFDS gives no.*{match}"):
            next(tfds_rows(name, split, str(data_dir)))
    config = make_config(tmp_path, data_dir, folder, heldout="")
    config.data.max_reject_share = 0.0
    with pytest.raises(RejectShareError, match="1 of 20 rows"):
        prepare(config, config.data.prepared, lambda line: None)
