"""Units of measure and money: one spelling for each, and whether two of them are the same.

Nothing is converted: 60 minutes are not 1 hour. Units by another (`km/h`, `dollars an hour`) are compared part by part.
A word that means several units is any of them: `pounds` are pounds of money and of weight, `degrees` those of Celsius
and of Fahrenheit, `tons` tonnes too.
"""

from __future__ import annotations

import re

_SPELLINGS = {
    "dollar": "$ us$ usd buck",
    "cent": "\u00a2",
    "euro": "\u20ac eur",
    "pound sterling": "\u00a3 gbp quid",
    "pound": "",
    "yen": "\u00a5 jpy",
    "rupee": "\u20b9 inr rs",
    "franc": "chf fr sfr",
    "yuan": "cny rmb",
    "won": "\u20a9 krw",
    "rouble": "\u20bd rub ruble",
    "percent": "% pct",
    "degree": "\u00b0 deg",
    "metre": "m meter",
    "kilometre": "km kilometer",
    "centimetre": "cm centimeter",
    "millimetre": "mm millimeter",
    "kilogram": "kg kgs kilo kilogramme",
    "gram": "g gramme",
    "milligram": "mg",
    "tonne": "t",
    "ton": "",
    "lb": "lbs",
    "ounce": "oz",
    "litre": "l liter",
    "millilitre": "ml milliliter",
    "gallon": "gal gals",
    "second": "sec s secs",
    "minute": "min mins",
    "hour": "h hr hrs",
    "day": "",
    "week": "wk wks",
    "month": "mo mos",
    "year": "yr yrs",
    "inch": "in inche",
    "foot": "ft feet",
    "yard": "yd yds",
    "mile": "mi",
    "hectare": "ha",
    "byte": "",
    "kilobyte": "kb",
    "megabyte": "mb",
    "gigabyte": "gb",
    "terabyte": "tb",
    "kilobit": "kbit",
    "megabit": "mbit",
    "gigabit": "gbit",
    "nanometre": "nm nanometer",
    "micrometre": "\u03bcm um micrometer micron",
    "microgram": "\u03bcg mcg",
    "microlitre": "\u03bcl microliter",
    "decilitre": "dl deciliter",
    "centilitre": "cl centiliter",
    "pint": "pt",
    "quart": "qt",
    "fluid ounce": "",
    "cup": "",
    "tablespoon": "tbsp",
    "teaspoon": "tsp",
    "acre": "ac",
    "nanosecond": "ns",
    "microsecond": "\u03bcs",
    "millisecond": "ms msec",
    "newton": "n",
    "joule": "j",
    "kilojoule": "kj",
    "watt": "w",
    "milliwatt": "mw",
    "kilowatt": "kw",
    "kilowatt hour": "kwh kilowatt-hour kw\u00b7h",
    "volt": "v",
    "millivolt": "mv",
    "kilovolt": "kv",
    "amp": "ampere",
    "milliamp": "ma milliampere",
    "ohm": "\u03c9",
    "hertz": "hz",
    "kilohertz": "khz",
    "megahertz": "mhz",
    "gigahertz": "ghz",
    "pascal": "pa",
    "hectopascal": "hpa",
    "kilopascal": "kpa",
    "megapascal": "mpa",
    "atmosphere": "atm",
    "mole": "mol",
    "calorie": "cal",
    "kilocalorie": "kcal",
    "decibel": "db",
    "piece": "pc pcs",
    "radian": "rad",
    "light year": "ly light-year lightyear",
    "knot": "kn kts",
    "canadian dollar": "cad c$ ca$",
    "australian dollar": "aud a$ au$",
    "kilometre/hour": "kph kmh kmph",
    "mile/hour": "mph",
}
_ONE_SPELLING = {spelling: unit for unit, others in _SPELLINGS.items() for spelling in (unit, *others.split())} | {
    "per cent": "percent",
    "us dollar": "dollar",
    "pounds sterling": "pound sterling",
    "british pound": "pound sterling",
    "fl oz": "fluid ounce",
    "swiss franc": "franc",
    "indian rupee": "rupee",
    "japanese yen": "yen",
    "metric ton": "tonne",
    **dict.fromkeys(("\u00b0c", "\u00b0 c", "degree celsius", "degrees celsius", "celsius"), "celsius"),
    **dict.fromkeys(("\u00b0f", "\u00b0 f", "degree fahrenheit", "degrees fahrenheit", "fahrenheit"), "fahrenheit"),
}
"""Ways of writing one unit, in small letters and the singular."""
_BY_CASE = {
    **{"Kb": "kilobit", "Mb": "megabit", "Gb": "gigabit", "A": "amp", "kN": "kilonewton", "mPa": "millipascal"},
    **dict.fromkeys(("KN", "Kn"), "kilonewton"),
    **{"MW": "megawatt", "Mw": "megawatt", "MJ": "megajoule", "MV": "megavolt"},
}
"""Units that another case would make another one of."""
_KNOWN = frozenset(part for unit in (*_ONE_SPELLING.values(), *_BY_CASE.values()) for part in unit.split("/"))
_MEANS_SEVERAL = {"pound": ("pound sterling", "lb"), "degree": ("celsius", "fahrenheit"), "ton": ("tonne",)}
_BY_TIME = "seconds?|sec|s|minutes?|min|hours?|hr|h|days?|weeks?|months?|years?|yr"
_PER = re.compile(rf"\s*/\s*|(?:^|\s+)per\s+|(?:^|\s+)an?\s+(?=(?:{_BY_TIME}|miles?|piece|person)\b)", re.IGNORECASE)
_SQUARE_OR_CUBIC = re.compile(
    r"(?:(?P<square>square|sq\.?)|cubic|cu\.?)\s+(?P<behind>.+)"
    r"|(?P<before>.+?)(?:(?P<squared>\s+squared|\u00b2)|\s+cubed|\u00b3)"
)
BY_TIME = re.compile(rf"(?<=[0-9])\s?/\s?(?=(?:{_BY_TIME})\b)", re.IGNORECASE)
"""The slash of `$9/hour`."""


_OF = " of "
"""Before what is measured: `3 kg of flour` are `3 kg`."""


def one_spelling(unit: str) -> str:
    """One text for the ways of writing a unit: small letters, no plural, one name for each currency."""
    plain = " ".join(unit.split()).rstrip(".") or unit
    if plain in _BY_CASE:
        return _BY_CASE[plain]
    head, of, what = plain.partition(_OF)
    if of and is_known(measured := one_spelling(head)):
        return f"{measured}{of}{what.casefold()}"
    cased, plain = plain, plain.casefold().removesuffix(" old") or unit
    cased = cased if cased.casefold() == plain else plain
    known = _ONE_SPELLING.get(plain)
    return known or "/".join(map(_simple, _PER.split(cased)))


def _simple(plain: str) -> str:
    """The one spelling of a unit that is not by another."""
    if plain in _BY_CASE:
        return _BY_CASE[plain]
    plain = plain.casefold()
    plain = re.sub(r"\^?([23])(?![0-9])", lambda found: "\u00b2\u00b3"[int(found[1]) - 2], plain.rstrip("."))
    raised = ""
    if power := _SQUARE_OR_CUBIC.fullmatch(plain):
        plain = power["behind"] or power["before"]
        raised = "\u00b2" if power["square"] or power["squared"] else "\u00b3"
    singular = plain if len(plain) <= len("gas") else plain.removesuffix("s")
    return _ONE_SPELLING.get(plain, _ONE_SPELLING.get(singular, singular)) + raised


def is_known(unit: str) -> bool:
    """Whether a unit in its one spelling is one of those that are known, or a square, a cube or a rate of them."""
    return all(part.rstrip("\u00b2\u00b3") in _KNOWN for part in unit.partition(_OF)[0].split("/"))


def same_unit(given: str, wanted: str) -> bool:
    """Whether two units in their one spelling are, or can be, one."""
    (given, _, of_what), (wanted, _, of_that) = given.partition(_OF), wanted.partition(_OF)
    if of_what and of_that and of_what != of_that:
        return False
    if given == wanted:
        return True
    parts, others = given.split("/"), wanted.split("/")
    return len(parts) == len(others) and all(map(_can_be_one, parts, others))


def _can_be_one(given: str, wanted: str) -> bool:
    return given == wanted or wanted in _MEANS_SEVERAL.get(given, ()) or given in _MEANS_SEVERAL.get(wanted, ())


def units_differ(given: str, wanted: str) -> bool:
    """Whether two units in their one spelling are known, and not the same."""
    (given, _, what), (wanted, _, that) = given.partition(_OF), wanted.partition(_OF)
    others = bool(what and that) and not {*what.split()} & {*that.split()}
    return is_known(given) and is_known(wanted) and (others or not same_unit(given, wanted))
