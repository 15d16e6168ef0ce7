"""The Atlas's languages: names from CLDR, words, numbers of speakers, shares of rows.

CLDR is read from the files that Babel ships, not through `babel.Locale`: Babel resolves an alias
by writing into the data that all locales share, so that what `Locale('hi').months['stand-alone']`
says depends on which locale was asked before.
"""

import datetime
import pickle
from collections.abc import Mapping
from functools import cache, lru_cache

import regex
from babel import dates, localedata, numbers
from babel.core import get_global

# name (value of `lang`) -> CLDR code and ISO 15924 script.
LANGUAGES: Mapping[str, tuple[str, str]] = {
    "English": ("en", "Latn"), "Chinese": ("zh", "Hans"), "Hindi": ("hi", "Deva"),
    "Spanish": ("es", "Latn"), "Arabic": ("ar", "Arab"), "French": ("fr", "Latn"),
    "Portuguese": ("pt", "Latn"), "Russian": ("ru", "Cyrl"), "Indonesian": ("id", "Latn"),
    "German": ("de", "Latn"), "Japanese": ("ja", "Jpan"), "Vietnamese": ("vi", "Latn"),
    "Turkish": ("tr", "Latn"), "Korean": ("ko", "Kore"), "Italian": ("it", "Latn"),
    "Thai": ("th", "Thai"), "Polish": ("pl", "Latn"), "Ukrainian": ("uk", "Cyrl"),
    "Greek": ("el", "Grek"), "Hebrew": ("he", "Hebr"), "Swedish": ("sv", "Latn"),
    "Amharic": ("am", "Ethi"), "Khmer": ("km", "Khmr"), "Georgian": ("ka", "Geor"),
    "Armenian": ("hy", "Armn"), "Lao": ("lo", "Laoo"),
}  # fmt: skip

# Populations in millions, 2024, rounded from the UN World Population Prospects 2024: the most
# populous territories and the homes of the smaller languages above. CLDR has the shares of
# speakers of a territory, Babel leaves out its populations.
POPULATIONS: Mapping[str, float] = {
    "IN": 1451, "CN": 1419, "US": 345, "ID": 283, "PK": 251, "NG": 233, "BR": 212, "BD": 174,
    "RU": 145, "ET": 132, "MX": 131, "JP": 124, "EG": 117, "PH": 116, "CD": 109, "VN": 101,
    "IR": 92, "TR": 87, "DE": 85, "TH": 72, "GB": 69, "TZ": 69, "FR": 67, "ZA": 64, "IT": 59,
    "KE": 56, "MM": 55, "CO": 53, "KR": 52, "SD": 50, "UG": 50, "ES": 48, "DZ": 47, "IQ": 46,
    "AR": 46, "AF": 43, "YE": 41, "CA": 40, "PL": 39, "MA": 38, "AO": 38, "UA": 38, "UZ": 36,
    "MY": 36, "MZ": 35, "GH": 34, "PE": 34, "SA": 34, "MG": 32, "CI": 32, "NP": 30, "CM": 29,
    "VE": 28, "NE": 27, "AU": 27, "KP": 27, "SY": 25, "ML": 24, "BF": 24, "TW": 23, "LK": 23,
    "KZ": 21, "CL": 20, "RO": 19, "EC": 18, "GT": 18, "NL": 18, "KH": 18, "SN": 18, "TN": 12,
    "BE": 12, "CU": 11, "DO": 11, "JO": 12, "AE": 11, "PT": 10, "SE": 11, "GR": 10, "HU": 10,
    "BY": 9, "IL": 9, "AT": 9, "CH": 9, "TJ": 11, "LA": 8, "HK": 7, "SG": 6, "FI": 5.6,
    "GE": 3.8, "AM": 3.0, "IS": 0.39, "CY": 1.4,
}  # fmt: skip


@cache
def cldr(lang: str) -> localedata.LocaleDataDict:
    """CLDR data of a language, its aliases resolved; a copy of our own (see the module)."""
    data: dict = {}
    for name in ("root", LANGUAGES[lang][0]):
        with open(localedata.resolve_locale_filename(name), "rb") as file:
            localedata.merge(data, pickle.load(file))
    return localedata.LocaleDataDict(data)


_INVISIBLE = regex.compile(r"[\u200b\u200e\u200f\u061c\u2060\u00ad]")
_SPACES = regex.compile(r"\s+")
_BOUNDARY = regex.compile(r"\b", flags=regex.WORD | regex.V1)
_IN_WORD = regex.compile(r"[\p{L}\p{N}]")


def clean(text: str) -> str:
    """Without invisible break and direction marks; every kind of space is a blank."""
    return _SPACES.sub(" ", _INVISIBLE.sub("", text))


KINDS = ("territory", "currency", "language", "month", "weekday", "unit")


@cache
def name(kind: str, key: str, lang: str) -> str:
    """The CLDR name of an entity in a language.

    Kinds and their keys: territory 'JP' (or a continent '142'), currency 'JPY', language 'ja',
    month '1'..'12', weekday '0' (Monday)..'6', unit 'length-kilometer' (its plural name).
    """
    data = cldr(lang)
    if kind == "territory":
        found = data["territories"][key]
    elif kind == "currency":
        found = data["currency_names"][key]
    elif kind == "language":
        found = data["languages"][key]
    elif kind == "month":
        found = data["months"]["stand-alone"]["wide"][int(key)]
    elif kind == "weekday":
        found = data["days"]["stand-alone"]["wide"][int(key)]
    elif kind == "unit":
        found = _long(data["unit_display_names"][key])
    else:
        raise ValueError(f"unknown kind {kind!r}: one of {', '.join(KINDS)}")
    return clean(found)


def _long(forms) -> str:
    """The long form of a unit, or the short one where CLDR has them equal."""
    return forms["long"] if "long" in forms else forms["short"]


@cache
def date(value: str, lang: str) -> str:
    """An ISO date in the language's long form: '13. Mai 2024'."""
    day = datetime.date.fromisoformat(value)
    return clean(dates.format_date(day, "long", LANGUAGES[lang][0]))


@cache
def number(value: int, lang: str) -> str:
    """A big number in words as far as CLDR has them: '3 Millionen'."""
    # Chinese, Japanese and Korean have the long form under 'short' only.
    form = "long" if "long" in cldr(lang)["compact_decimal_formats"] else "short"
    code = LANGUAGES[lang][0]
    text = numbers.format_compact_decimal(value, format_type=form, locale=code, fraction_digits=2)
    return clean(text)


@cache
def amount(value: int, currency: str, lang: str) -> str:
    """A whole amount of money with the currency's name: '43 Japanische Yen'."""
    text = numbers.format_currency(
        value,
        currency,
        locale=LANGUAGES[lang][0],
        format="#,##0",
        format_type="name",
        currency_digits=False,
    )
    return clean(text)


@cache
def quantity(value: int, unit: str, lang: str) -> str:
    """A quantity with the unit's name: '5 Kilometer'."""
    # Not babel.units.format_unit: it writes '5 length-kilometer' in Chinese.
    forms = cldr(lang)["unit_patterns"][unit]
    merged = dict(forms["short"]) | dict(forms["long"] if "long" in forms else {})
    plural = cldr(lang)["plural_form"](value)
    pattern = merged[plural] if plural in merged else merged["other"]
    return clean(pattern).replace("{0}", str(value))


@lru_cache(maxsize=100_000)
def words(text: str) -> tuple[str, ...]:
    """The words of a text by UAX 29, those that touch taken as one.

    UAX 29 without a dictionary cuts Chinese, Japanese, Thai, Lao and Khmer into characters; taken
    together, a run of them counts once, so that a name counts alike in every script.
    """
    found: list[str] = []
    touching = False
    for piece in _BOUNDARY.split(text):
        is_word = _IN_WORD.search(piece) is not None
        if is_word and touching:
            found[-1] += piece
        elif is_word:
            found.append(piece)
        touching = is_word
    return tuple(found)


@cache
def speakers() -> dict[str, float]:
    """Millions of speakers by language, most first: CLDR's share of each territory's people."""
    shares = get_global("territory_languages")
    total = dict.fromkeys(LANGUAGES, 0.0)
    for territory, millions in POPULATIONS.items():
        for language, entry in shares[territory].items():
            for lang, (code, _) in LANGUAGES.items():
                if language == code or language.startswith(code + "_"):
                    total[lang] += millions * entry["population_percent"] / 100
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def tail_languages() -> tuple[str, ...]:
    """The half of the languages with fewer speakers: the long tail, fixed before training."""
    return tuple(speakers())[len(LANGUAGES) // 2 :]


TAIL_SHARE = 0.046
POWER = 0.5
FLOOR = 0.0016


@cache
def shares() -> dict[str, float]:
    """Share of training rows by language; sums to 1.

    Within the larger and within the smaller half, languages are drawn in proportion to
    speakers ** POWER; the smaller half has TAIL_SHARE of the rows in total, and each language at
    least FLOOR. One power for all would have to be over 1.07 for a smaller half under 5 %: it
    would sharpen what it should compress, and leave Italian, of the larger half, under 1 %.
    """
    tail = tail_languages()
    head = [lang for lang in speakers() if lang not in tail]
    return _split(head, 1 - TAIL_SHARE) | _split(tail, TAIL_SHARE)


def _split(langs, total: float) -> dict[str, float]:
    """`total` shared out by speakers ** POWER; those under FLOOR are lifted to it first."""
    raised: list[str] = []
    while True:
        rest = total - FLOOR * len(raised)
        weights = {lang: speakers()[lang] ** POWER for lang in langs if lang not in raised}
        found = {lang: rest * w / sum(weights.values()) for lang, w in weights.items()}
        low = [lang for lang, share in found.items() if share < FLOOR]
        if not low:
            return {lang: found.get(lang, FLOOR) for lang in langs}
        raised += low
