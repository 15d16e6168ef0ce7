"""Language of the completion, told by py3langid: offline, 139 languages, no network.

py3langid is naive Bayes over byte n-grams. Its posterior, tempered by the length of the text,
is the confidence here: over what it knows it is on the safe side (0.55 is right in 5 of 6 cases),
over texts of which some are in languages that it does not know it is about right
(tests/benchmarks/language_identifiers.py prints both). All its languages compete, not only those of
the taxonomy: a text in another one gets a low confidence instead of a wrong value. No prior over
the languages of the data is used: it would trade the rare ones for the frequent.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from marker_lm.annotate.annotator import Found
from marker_lm.annotate.prose import count_letters, prose
from marker_lm.annotate.settings import SettingsError, settings_from
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import Taxonomy

# The identifier's label -> the code that says the same: its Norwegian is Bokmål beside Nynorsk.
_MEANT = {"no": "nb"}
# Code -> what it takes in when the taxonomy has no value for that (ISO 639-3 macrolanguages).
_VARIETIES = {
    "ar": ("ary", "arz"), "ff": ("fuv",), "ku": ("sdh",), "lv": ("ltg",), "no": ("nb", "nn"),
    "uz": ("uzs",), "zh": ("wuu", "yue"),
}  # fmt: skip
# English names in use beside CLDR's.
_NAMES = {
    "bengali": "bn", "central khmer": "km", "farsi": "fa", "mandarin": "zh",
    "mandarin chinese": "zh", "norwegian bokmal": "nb", "oriya": "or", "sinhalese": "si",
    "uighur": "ug",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """The annotator's section of a config.

    category: the closed category to fill.
    threshold: least confidence; under it the marker is left out.
    letters: least number of letters.
    characters: how much of a text is looked at, markup left out.
    codes: value of the taxonomy -> its ISO 639 code, or several, where neither the value nor its
      English name says it.
    """

    category: str = "lang"
    threshold: float = 0.15
    letters: int = 2
    characters: int = 400
    codes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise SettingsError(f"lang: threshold is {self.threshold}; it must be in 0..1")
        for value, given in self.codes.items():
            codes = [given] if isinstance(given, str) else given
            if not isinstance(codes, list | tuple) or not all(isinstance(c, str) for c in codes):
                raise SettingsError(
                    f"lang: codes has {given!r} for {value!r}; give an ISO 639 code or several"
                )


class Language:
    """An Annotator for the language of the completion.

    Attributes:
      unsaid: values of the taxonomy that the identifier can't tell. Completions in these languages
        stay unmarked, or get the value of a related language with a low confidence.
      notes: what a user should know, a sentence each.
    """

    name = "lang"

    def __init__(self, settings: Settings, taxonomy: Taxonomy):
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._settings = settings
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.categories = (settings.category,)
        category = taxonomy.category(settings.category)
        for value in settings.codes:
            category.check(value)
        labels = {canonical(label): label for label in self._identifier.labels}
        values = value_of_code(category.values, settings.codes, labels)
        self._value = {labels[code]: value for code, value in values.items()}
        self.unsaid = tuple(v for v in category.values if v not in self._value.values())
        if not self._value:
            raise SettingsError(
                f"lang: the identifier knows none of the values of {settings.category!r}, such as"
                f" {self.unsaid[0]!r}; give their ISO 639 codes under 'codes'"
            )
        self.notes = ()
        if self.unsaid:
            known = len(category.values) - len(self.unsaid)
            self.notes = (
                f"lang: the identifier tells {known} of {len(category.values)} values of"
                f" {settings.category}; it can't tell {', '.join(self.unsaid)}.",
            )

    def annotate(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        return [self._annotate(example.completion) for example in examples]

    def tag_all(self, examples: Sequence[Example]) -> list[dict[str, Found]]:
        """As `annotate`, of prompts without a completion: answers are in the prompt's language."""
        return [self._annotate(example.prompt) for example in examples]

    def _annotate(self, completion: str) -> dict[str, Found]:
        text = prose(completion)[: self._settings.characters]
        if count_letters(text, self._settings.letters) < self._settings.letters:
            return {}
        shares: dict[str, float] = {}
        for label, share in self._identifier.rank(text):
            value = self._value.get(label)
            if value is not None:
                shares[value] = shares.get(value, 0.0) + share
        best = max(shares, key=shares.__getitem__)
        # Rounded, so that other hardware and other libraries of linear algebra agree.
        confidence = round(min(shares[best], 1.0), 4)
        if confidence < self._settings.threshold:
            return {}
        return {self._settings.category: Found(best, confidence)}


def make(config: Mapping[str, Any], taxonomy: Taxonomy) -> Language:
    """The annotator from its section of the config, see Settings.

    Raises SettingsError for a key or value that can't be used, MarkerError when the taxonomy has no
    such category.
    """
    return Language(settings_from(Settings, config, "lang"), taxonomy)


def canonical(code: str) -> str:
    """The CLDR code of an ISO 639-1, -2 or -3 code, without script and territory: 'deu' is 'de'."""
    from babel.core import get_global

    code = code.replace("_", "-").split("-")[0].lower()
    code = get_global("language_aliases").get(code, code).split("_")[0]
    return _MEANT.get(code, code)


def value_of_code(
    values: Iterable[str], codes: Mapping[str, Any], known: Iterable[str]
) -> dict[str, str]:
    """Canonical code -> the value it is marked with, for all codes in `known` that have one.

    A value is a code ('de', 'deu', 'de-AT'), an English name ('German'), or has its code or codes
    in `codes`. Values that share a code ('pt-BR', 'pt-PT') can't be told apart: it has none.
    """
    wanted: dict[str, list[str]] = {}
    for value in values:
        given = codes.get(value) or _codes_and_names().get(value.casefold(), value)
        for code in (given,) if isinstance(given, str) else given:
            wanted.setdefault("no" if code == "no" else canonical(code), []).append(value)
    said = {code: found[0] for code, found in wanted.items() if len(found) == 1}
    for code, varieties in _VARIETIES.items():
        for variety in varieties if code in said else ():
            if variety not in wanted:
                said[variety] = said[code]
    return {code: said[code] for code in known if code in said}


@cache
def _codes_and_names() -> dict[str, str]:
    """What a language may be called, in lower case -> its CLDR code. Codes come before names."""
    from babel import Locale

    names = Locale("en").languages
    codes = {code.lower(): code for code in names}
    return {name.casefold(): code for code, name in names.items()} | _NAMES | codes
