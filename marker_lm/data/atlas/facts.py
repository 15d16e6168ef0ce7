"""What the Atlas asks, and the content of the answers: names and phrases, not yet a format.

A fact is a small dict that JSON can hold: `ask` names the question, the rest are its arguments.
`content` computes the answer of a fact in a language: paragraphs, each a list of items. It is
defined for every language and length, so that the exact answer is known wherever a lever is moved.
"""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from marker_lm.data.atlas import languages

Fact = dict
Content = list[list[str]]
Entity = tuple[str, str]  # kind and key, see languages.name

# territory -> continent (UN M49 code), currency and main language (of the official ones in CLDR
# the most spoken; Mexico, the US and Australia have none there).
TERRITORIES: Mapping[str, tuple[str, str, str]] = {
    "CN": ("142", "CNY", "zh"), "IN": ("142", "INR", "hi"), "ID": ("142", "IDR", "id"),
    "JP": ("142", "JPY", "ja"), "TR": ("142", "TRY", "tr"), "IR": ("142", "IRR", "fa"),
    "EG": ("002", "EGP", "ar"), "NG": ("002", "NGN", "en"), "ET": ("002", "ETB", "am"),
    "RU": ("150", "RUB", "ru"), "DE": ("150", "EUR", "de"), "FR": ("150", "EUR", "fr"),
    "US": ("019", "USD", "en"), "MX": ("019", "MXN", "es"), "BR": ("019", "BRL", "pt"),
    "AU": ("009", "AUD", "en"),
}  # fmt: skip
CURRENCIES = tuple(dict.fromkeys(row[1] for row in TERRITORIES.values()))
SPOKEN = tuple(dict.fromkeys(row[2] for row in TERRITORIES.values()))
SYMBOLS: Mapping[str, str] = {
    "length-kilometer": "km", "length-meter": "m", "length-centimeter": "cm", "length-mile": "mi",
    "mass-kilogram": "kg", "mass-gram": "g", "volume-liter": "L", "area-hectare": "ha",
    "duration-second": "s", "duration-minute": "min", "duration-hour": "h", "electric-volt": "V",
}  # fmt: skip
# Of these every language has a word; some write the others as in '5 Hz'.
QUANTITIES = tuple(
    unit for unit, symbol in SYMBOLS.items()
    if symbol != "L"
)  # fmt: skip
POOLS: Mapping[str, tuple[str, ...]] = {
    "territory": tuple(TERRITORIES),
    "currency": CURRENCIES,
    "language": SPOKEN,
    "month": tuple(str(i) for i in range(1, 13)),
    "weekday": tuple(str(i) for i in range(7)),
    "unit": tuple(SYMBOLS),
}
# Lists are moved by the length lever, and one item must stay concise in every language: these
# names have four words in French or Vietnamese.
LISTS: Mapping[str, tuple[str, ...]] = POOLS | {
    "currency": tuple(c for c in CURRENCIES if c not in ("USD", "TRY")),
    "language": tuple(c for c in SPOKEN if c not in ("es", "pt", "tr")),
}
DOMAINS: Mapping[str, str] = {
    "territory": "Geography", "currency": "Finance", "language": "Languages",
    "month": "Calendar", "weekday": "Calendar", "unit": "Measurement", "number": "Numbers",
}  # fmt: skip
MILLION = 10**6
SCALES = {"million": MILLION, "billion": 10**9}
MEDIUM_ITEMS = 5
LONG_ITEMS = 21  # At least 21 words, however short the names are.
RECORDS = 6


def _only(column: int) -> dict[str, str]:
    """Currency or language -> its territory, for those that one territory alone has."""
    values = [row[column] for row in TERRITORIES.values()]
    return {row[column]: t for t, row in TERRITORIES.items() if values.count(row[column]) == 1}


HOME_OF_CURRENCY = _only(1)
HOME_OF_LANGUAGE = _only(2)


def cycle(pool: tuple[str, ...], start: str, count: int) -> list[str]:
    """`count` of the pool in its order, from `start` on, round and round."""
    first = pool.index(start)
    return [pool[(first + i) % len(pool)] for i in range(count)]


def _list(fact: Fact, lang: str, bucket: str) -> Content:
    kind = fact["kind"]
    size = 12 if kind == "month" else 7
    count = {"concise": 1, "medium": MEDIUM_ITEMS}.get(bucket, -(-LONG_ITEMS // size) * size)
    if kind == "number":
        items = [languages.number((fact["from"] + i) * MILLION, lang) for i in range(count)]
    else:
        keys = cycle(LISTS[kind], fact["from"], count)
        items = [languages.name(kind, key, lang) for key in keys]
    return [items[i : i + size] for i in range(0, count, size)]


def _about(fact: Fact, lang: str, bucket: str) -> Content:
    """Where it is (of a territory its continent), its record, or those of the next ones too."""
    if bucket == "concise":
        where = TERRITORIES[fact["of"]][0] if fact["first"] == "territory" else fact["of"]
        return [[languages.name("territory", where, lang)]]
    records = []
    for key in cycle(POOLS["territory"], fact["of"], 1 if bucket == "medium" else RECORDS):
        continent, currency, language = TERRITORIES[key]
        entities = {
            "territory": ("territory", key),
            "continent": ("territory", continent),
            "currency": ("currency", currency),
            "language": ("language", language),
        }
        order = sorted(entities, key=lambda name: name != fact["first"])
        records.append([languages.name(*entities[name], lang) for name in order])
    return records


def _names(entities: Callable[[Fact], list[Entity]]):
    def content(fact: Fact, lang: str, bucket: str) -> Content:
        return [[languages.name(*entity, lang) for entity in entities(fact)]]

    return content


def _phrase(phrase: Callable[[Fact, str], str]):
    def content(fact: Fact, lang: str, bucket: str) -> Content:
        return [[phrase(fact, lang)]]

    return content


@dataclass(frozen=True)
class Ask:
    """A kind of question.

    domain is a value or, where it depends on the fact, a function of it; draw makes a fact's
    arguments; content the answer; lever: the length is free unless the prompt says it.
    """

    task: str
    domain: str | Callable[[Fact], str]
    weight: float
    draw: Callable[[Random], Fact]
    content: Callable[[Fact, str, str], Content]
    lever: bool = False


def _pick(name: str, pool) -> Callable[[Random], Fact]:
    values = tuple(pool)
    return lambda rng: {name: rng.choice(values)}


def _draw_translate(rng: Random) -> Fact:
    kind = rng.choice(languages.KINDS)
    keys = rng.sample(POOLS[kind], 1 if rng.random() < 0.6 else 4)
    # By speakers, as everywhere; never from the answer's language (see rows).
    source = rng.choices(*zip(*languages.shares().items(), strict=True))[0]
    return {"kind": kind, "keys": keys, "source": source}


def _draw_find(rng: Random) -> Fact:
    kinds = rng.sample(languages.KINDS, 3)
    return {"kind": rng.choice(kinds), "among": [[k, rng.choice(POOLS[k])] for k in kinds]}


def _draw_shift(kind: str):
    size = len(POOLS[kind])
    return lambda rng: {"of": rng.choice(POOLS[kind]), "by": rng.randrange(2, min(size, 7))}


def _shifted(kind: str):
    return _names(lambda f: [(kind, cycle(POOLS[kind], f["of"], f["by"] + 1)[-1])])


def _draw_date(rng: Random) -> Fact:
    # From the second on: '1. Mai' in plain text would read as an enumeration.
    day = datetime.date(rng.randrange(2001, 2031), rng.randrange(1, 13), rng.randrange(2, 29))
    return {"value": day.isoformat()}


def _draw_list(kind: str):
    if kind == "number":
        return lambda rng: {"kind": kind, "from": rng.randrange(2, 12)}
    return lambda rng: {"kind": kind, "from": rng.choice(LISTS[kind])}


def _about_ask(first: str, domain: str, homes) -> Ask:
    pick = _pick("of", homes)
    return Ask("Explanation", domain, 1.5, lambda r: pick(r) | {"first": first}, _about, True)


def _list_ask(kind: str, weight: float) -> Ask:
    return Ask("OpenEnded", DOMAINS[kind], weight, _draw_list(kind), _list, True)


ASKS: Mapping[str, Ask] = {
    "currency_of": Ask(
        "QuestionAnswering", "Finance", 1.2, _pick("of", TERRITORIES),
        _names(lambda f: [("currency", TERRITORIES[f["of"]][1])]),
    ),
    "language_of": Ask(
        "QuestionAnswering", "Languages", 1.2, _pick("of", TERRITORIES),
        _names(lambda f: [("language", TERRITORIES[f["of"]][2])]),
    ),
    "home_of_currency": Ask(
        "QuestionAnswering", "Geography", 1.0, _pick("of", HOME_OF_CURRENCY),
        _names(lambda f: [("territory", HOME_OF_CURRENCY[f["of"]])]),
    ),
    "unit_of_symbol": Ask(
        "QuestionAnswering", "Measurement", 1.0, _pick("of", SYMBOLS),
        _names(lambda f: [("unit", f["of"])]),
    ),
    "month_of_number": Ask(
        "QuestionAnswering", "Calendar", 0.4, _pick("of", POOLS["month"]),
        _names(lambda f: [("month", f["of"])]),
    ),
    "translate": Ask(
        "Translation", lambda f: DOMAINS[f["kind"]], 4.0, _draw_translate,
        _names(lambda f: [(f["kind"], key) for key in f["keys"]]),
    ),
    "about_territory": _about_ask("territory", "Geography", TERRITORIES),
    "about_currency": _about_ask("currency", "Finance", HOME_OF_CURRENCY.values()),
    "about_language": _about_ask("language", "Languages", HOME_OF_LANGUAGE.values()),
    "list_territory": _list_ask("territory", 1.2),
    "list_currency": _list_ask("currency", 1.0),
    "list_language": _list_ask("language", 1.0),
    "list_month": _list_ask("month", 0.8),
    "list_weekday": _list_ask("weekday", 0.6),
    "list_unit": _list_ask("unit", 1.0),
    "list_number": _list_ask("number", 0.6),
    "later_month": Ask("Reasoning", "Calendar", 0.7, _draw_shift("month"), _shifted("month")),
    "later_day": Ask("Reasoning", "Calendar", 0.6, _draw_shift("weekday"), _shifted("weekday")),
    "currency_where": Ask(
        "Reasoning", "Finance", 0.8, _pick("of", HOME_OF_LANGUAGE),
        _names(lambda f: [("currency", TERRITORIES[HOME_OF_LANGUAGE[f["of"]]][1])]),
    ),
    "sum": Ask(
        "Reasoning", "Numbers", 0.8,
        lambda r: {"a": r.randrange(2, 10), "b": r.randrange(2, 10), "scale": r.choice([*SCALES])},
        _phrase(lambda f, lang: languages.number((f["a"] + f["b"]) * SCALES[f["scale"]], lang)),
    ),
    "continent_of": Ask(
        "Classification", "Geography", 1.2, _pick("of", TERRITORIES),
        _names(lambda f: [("territory", TERRITORIES[f["of"]][0])]),
    ),
    "day_or_month": Ask(
        "Classification", "Calendar", 0.8,
        lambda r: dict(zip(("kind", "of"), r.choice(DAYS_AND_MONTHS), strict=True)),
        _names(lambda f: [("unit", UNIT_OF_KIND[f["kind"]])]),
    ),
    "date": Ask(
        "Rewrite", "Calendar", 0.9, _draw_date,
        _phrase(lambda f, lang: languages.date(f["value"], lang)),
    ),
    "amount": Ask(
        "Rewrite", "Finance", 0.9,
        lambda r: {"value": r.randrange(2, 100), "of": r.choice(CURRENCIES)},
        _phrase(lambda f, lang: languages.amount(f["value"], f["of"], lang)),
    ),
    "quantity": Ask(
        "Rewrite", "Measurement", 0.9,
        lambda r: {"value": r.randrange(2, 100), "of": r.choice(QUANTITIES)},
        _phrase(lambda f, lang: languages.quantity(f["value"], f["of"], lang)),
    ),
    "number": Ask(
        "Rewrite", "Numbers", 0.9,
        lambda r: {"value": r.randrange(2, 100), "scale": r.choice([*SCALES])},
        _phrase(lambda f, lang: languages.number(f["value"] * SCALES[f["scale"]], lang)),
    ),
    "find": Ask(
        "InformationExtraction", lambda f: DOMAINS[f["kind"]], 2.5, _draw_find,
        _names(lambda f: [tuple(e) for e in f["among"] if e[0] == f["kind"]]),
    ),
}  # fmt: skip
DAYS_AND_MONTHS = tuple((kind, key) for kind in ("month", "weekday") for key in POOLS[kind])
UNIT_OF_KIND = {"month": "duration-month", "weekday": "duration-day"}


def content(fact: Fact, lang: str, length_bucket: str = "") -> Content:
    """The answer of a fact: paragraphs of items. Only facts of levers look at the bucket."""
    return ASKS[fact["ask"]].content(fact, lang, length_bucket)


def domain(fact: Fact) -> str:
    found = ASKS[fact["ask"]].domain
    return found if isinstance(found, str) else found(fact)
