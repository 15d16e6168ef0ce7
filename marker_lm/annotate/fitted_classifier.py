"""The classifier that was learned: it fills markers, and is saved to and loaded from a folder."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from marker_lm.annotate.annotator import Found
from marker_lm.annotate.text_model import TextModel
from marker_lm.data.example import Example
from marker_lm.data.whole_files import whole_file
from marker_lm.markers.taxonomy import Taxonomy

FILE = "classifier.npz"


class ClassifierError(ValueError):
    """Settings or a saved classifier that can't be used; one sentence."""


class ClassifierAnnotator:
    """Finds the markers that it has learned; an Annotator, which can be pickled.

    Attributes:
      categories: all that it was to learn; those without a model are never found.
      learned: category -> facts for a manifest: its rows, values, and what `text_model.fit` says.
    """

    name = "classifier"

    def __init__(
        self,
        threshold: float,
        max_chars: int,
        describes: Mapping[str, str],
        models: Mapping[str, TextModel],
        learned: Mapping[str, Mapping[str, Any]],
    ):
        self.threshold = threshold
        self.max_chars = max_chars
        self.categories = tuple(describes)
        self.models = dict(models)
        self.learned = dict(learned)
        self._describes = dict(describes)

    def facts(self) -> dict[str, Any]:
        """What was learned of each category, for a manifest."""
        return dict(self.learned)

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        found: list[dict[str, Found]] = [{} for _ in examples]
        for name, model in self.models.items():
            lacking = [i for i, example in enumerate(examples) if name not in example.markers]
            if not lacking:
                continue
            part = self._describes[name]
            texts = [shorten(getattr(examples[i], part), self.max_chars) for i in lacking]
            probability_NxK = model.probabilities(texts)
            best_N = probability_NxK.argmax(axis=1)
            for i, best, row_K in zip(lacking, best_N, probability_NxK, strict=True):
                if row_K[best] >= self.threshold:
                    found[i][name] = Found(model.values[best], float(row_K[best]))
        return found

    def save(self, folder: epath.PathLike) -> None:
        """Writes `folder/classifier.npz`, which `load` reads."""
        about = {
            "max_chars": self.max_chars,
            "describes": self._describes,
            "values": {name: model.values for name, model in self.models.items()},
            "learned": self.learned,
        }
        arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
        for name, model in self.models.items():
            arrays[f"{name}.weights"] = model.weights_FxK
            arrays[f"{name}.bias"] = model.bias_K
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / FILE) as path, path.open("wb") as file:
            np.savez(file, **arrays)


def load(
    folder: epath.PathLike,
    taxonomy: Taxonomy,
    describes: Mapping[str, str] | None = None,
    threshold: float = 0.5,
) -> ClassifierAnnotator:
    """The annotator that was saved to a folder.

    describes: the categories to fill; None is all that it has learned.
    Raises ClassifierError when it is missing, damaged, or has learned what the taxonomy has not.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        raise ClassifierError(
            f"there is no saved classifier {path}; set classifier.save to make it"
        )
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            models = {
                name: TextModel(tuple(values), stored[f"{name}.weights"], stored[f"{name}.bias"])
                for name, values in about["values"].items()
            }
        max_chars, learned = about["max_chars"], about["learned"]
        saved = {name: about["describes"][name] for name in models}
    except (ValueError, LookupError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ClassifierError(
            f"the saved classifier {path} is damaged ({error}); learn it again"
        ) from None
    describes = saved if describes is None else dict(describes)
    models = {name: model for name, model in models.items() if name in describes}
    for name, model in models.items():
        strange = [v for v in model.values if v not in taxonomy.category(name).values]
        if strange or saved[name] != describes[name]:
            what = (
                f"the value {strange[0]!r}" if strange else f"that it describes the {saved[name]}"
            )
            raise ClassifierError(
                f"the saved classifier {path} has learned of {name!r} {what}, unlike the taxonomy "
                f"{taxonomy.name!r}; learn it again"
            )
    learned = {name: learned[name] for name in models}
    return ClassifierAnnotator(threshold, max_chars, describes, models, learned)


def shorten(text: str, most: int) -> str:
    """The text, or its first and last half of `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}\n{text[-half:]}"
