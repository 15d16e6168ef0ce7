"""Prepared data that the training tests share: TensorFlow is needed once."""

import pytest

from marker_lm.data.prepare import prepare
from tests.tiny import tiny_config, write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with files and prepared caches; for reading only."""
    folder = write_data(tmp_path_factory.mktemp("tiny"))
    config = tiny_config(folder)
    prepare(config, config.data.prepared, lambda line: None)
    return folder
