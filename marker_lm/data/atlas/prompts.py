"""The Atlas's prompts: English questions, and what they say about language, format and length."""

from collections.abc import Mapping
from random import Random

from marker_lm.data.atlas import facts, languages
from marker_lm.data.atlas.facts import Fact

KIND_WORDS: Mapping[str, tuple[str, str]] = {  # one, several
    "territory": ("country", "countries"), "currency": ("currency", "currencies"),
    "language": ("language", "languages"), "month": ("month", "months"),
    "weekday": ("day", "days"), "unit": ("unit", "units"), "number": ("number", "numbers"),
}  # fmt: skip
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "currency_of": ("Currency of {x}?", "What is the currency of {x}?", "Money of {x}?"),
    "language_of": ("Main language of {x}?", "What is spoken in {x}?"),
    "home_of_currency": ("Which country uses {x}?", "Where is {x} used?"),
    "unit_of_symbol": ("What does {x} stand for?", "Name the unit {x}."),
    "month_of_number": ("Which month is number {x}?", "Name month {x} of the year."),
    "translate": ("Translate: {x}.", "Translation of {x}?"),
    "about_territory": ("Tell me about {x}.", "Explain {x}."),
    "about_currency": ("Tell me about {x}.", "Explain {x}."),
    "about_language": ("Tell me about {x}.", "Explain {x}."),
    "list": ("List {kinds} from {x}.", "Name {kinds} from {x} on."),
    "list_number": ("Count from {x} million.", "Count millions from {x}."),
    "later_month": ("Which month is {n} after {x}?", "{x} plus {n} months?"),
    "later_day": ("Which day is {n} after {x}?", "{x} plus {n} days?"),
    "currency_where": ("Currency where {x} is spoken?", "Currency of {x} speakers?"),
    "sum": ("{a} {scale} plus {b} {scale}?", "Add {a} {scale} and {b} {scale}."),
    "continent_of": ("Which continent is {x} in?", "Continent of {x}?"),
    "day_or_month": ("Days or months: {x}?", "{x}: days or months?"),
    "date": ("Write the date {x}.", "Long date: {x}."),
    "amount": ("Write the amount {x}.", "Amount {x} in words."),
    "quantity": ("Write the quantity {x}.", "Spell out {x}."),
    "number": ("Write the number {x}.", "Shorten {x}."),
    "find": ("Find the {kind}: {x}.", "Which is the {kind}: {x}?"),
}  # fmt: skip
LANGUAGE_WORDS = ("in {x}", "{x}", "use {x}")
FORMAT_WORDS: Mapping[str, tuple[str, ...]] = {
    "Plain": ("plain text", "in plain text"),
    "JSON": ("JSON", "as JSON"),
    "XML": ("XML", "as XML"),
    "Enumeration": ("numbered", "numbered list"),
    "Tabular": ("table", "as a table"),
    "Markdown": ("Markdown", "as Markdown"),
}
LENGTH_WORDS: Mapping[str, tuple[str, ...]] = {
    "concise": ("briefly", "short"),
    "medium": ("medium", "medium length"),
    "long": ("in detail", "long"),
}


def question(fact: Fact, lang: str, rng: Random) -> str:
    """The question of a fact; `lang` is the language of the names to search in (ask `find`)."""
    ask, slots = fact["ask"], {}
    if ask == "translate":
        names = [languages.name(fact["kind"], key, fact["source"]) for key in fact["keys"]]
        slots["x"] = ", ".join(names)
    elif ask == "find":
        slots["x"] = ", ".join(languages.name(*entity, lang) for entity in fact["among"])
        slots["kind"] = KIND_WORDS[fact["kind"]][0]
    elif ask == "list_number":
        slots["x"] = fact["from"]
    elif ask.startswith("list_"):
        slots["x"] = languages.name(fact["kind"], fact["from"], "English")
        slots["kinds"] = KIND_WORDS[fact["kind"]][1]
        ask = "list"
    elif ask == "sum":
        slots = {key: fact[key] for key in ("a", "b", "scale")}
    elif ask == "number":
        slots["x"] = fact["value"] * facts.SCALES[fact["scale"]]
    elif ask == "date":
        slots["x"] = fact["value"]
    elif ask == "amount":
        slots["x"] = f"{fact['of']} {fact['value']}"
    elif ask == "quantity":
        slots["x"] = f"{fact['value']} {facts.SYMBOLS[fact['of']]}"
    elif ask == "unit_of_symbol":
        slots["x"] = facts.SYMBOLS[fact["of"]]
    elif ask == "month_of_number":
        slots["x"] = fact["of"]
    else:
        slots = {"x": languages.name(*subject(fact), "English"), "n": fact.get("by")}
    return rng.choice(TEMPLATES[ask]).format(**slots)


def subject(fact: Fact) -> facts.Entity:
    """The one entity that a question is about."""
    of = fact["of"]
    match fact["ask"]:
        case "about_currency":
            return "currency", facts.TERRITORIES[of][1]
        case "about_language":
            return "language", facts.TERRITORIES[of][2]
        case "home_of_currency":
            return "currency", of
        case "currency_where":
            return "language", of
        case "later_month":
            return "month", of
        case "later_day":
            return "weekday", of
        case "day_or_month":
            return fact["kind"], of
        case _:
            return "territory", of


def wishes(said: Mapping[str, str], rng: Random) -> str:
    """What the prompt says about lang, format and length_bucket: 'in German, as JSON, briefly'."""
    parts = []
    for category, value in said.items():
        if category == "lang":
            code = languages.LANGUAGES[value][0]
            native = languages.clean(languages.cldr(value)["languages"][code])
            shown = native if rng.random() < 0.2 else value
            parts.append(rng.choice(LANGUAGE_WORDS).format(x=shown))
        else:
            words = FORMAT_WORDS if category == "format" else LENGTH_WORDS
            parts.append(rng.choice(words[value]))
    rng.shuffle(parts)
    return ", ".join(parts)


def prompt(fact: Fact, lang: str, said: Mapping[str, str], rng: Random) -> str:
    """A question with its wishes before or after it."""
    base, wish = question(fact, lang, rng), wishes(said, rng)
    if not wish:
        return base
    if rng.random() < 0.5:
        return f"{wish[0].upper()}{wish[1:]}: {base}"
    return f"{base} {wish[0].upper()}{wish[1:]}."
