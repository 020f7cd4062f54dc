"""Units of measure and money: one spelling for each, and whether two of them are the same.

Nothing is converted: 60 minutes are not 1 hour. Units by another (`km/h`, `dollars an hour`) are compared part by part.
A word that means several units is any of them: `pounds` are pounds of money and of weight, `degrees` those of Celsius
and of Fahrenheit, `tons` tonnes too.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SPELLINGS = {
    # money
    "dollar": "$ us$ usd buck",
    "cent": "\u00a2",
    "euro": "\u20ac eur",
    "pound sterling": "\u00a3 gbp quid",
    "penny": "p pence pennie",
    "pound": "",
    "yen": "\u00a5 jpy",
    "rupee": "\u20b9 inr rs",
    "franc": "chf fr sfr",
    "yuan": "cny rmb",
    "won": "\u20a9 krw",
    "rouble": "\u20bd rub ruble",
    "krona": "kr kronor krone kroner",
    "koruna": "czk",
    "zloty": "z\u0142 zl pln",
    "canadian dollar": "cad c$ ca$",
    "australian dollar": "aud a$ au$",
    # parts and angles
    "percent": "% pct",
    "percentage point": "",
    "pp": "",
    "basis point": "bp bps",
    "part per million": "ppm",
    "part per billion": "ppb",
    "degree": "\u00b0 deg",
    "radian": "rad",
    # lengths, areas, volumes
    "metre": "m meter",
    "kilometre": "km kilometer",
    "decimetre": "dm decimeter",
    "centimetre": "cm centimeter",
    "millimetre": "mm millimeter",
    "micrometre": "\u03bcm um micrometer micron",
    "nanometre": "nm nanometer",
    "inch": "in inche",
    "foot": "ft feet",
    "yard": "yd yds",
    "mile": "mi",
    "light year": "ly light-year lightyear",
    "light second": "ls light-second",
    "hectare": "ha",
    "acre": "ac",
    "litre": "l L liter lt ltr",
    "kilolitre": "kl kiloliter",
    "decilitre": "dl dL deciliter",
    "centilitre": "cl cL centiliter",
    "millilitre": "ml mL milliliter",
    "microlitre": "\u03bcl \u03bcL ul uL microliter",
    "gallon": "gal gals",
    "pint": "pt",
    "quart": "qt qts",
    "barrel": "bbl",
    "fluid ounce": "floz",
    "cup": "",
    "tablespoon": "tbsp",
    "teaspoon": "tsp",
    # weights
    "kilogram": "kg kgs kilo kilogramme",
    "gram": "g gr gm gramme",
    "milligram": "mg",
    "microgram": "\u03bcg ug mcg",
    "tonne": "t T",
    "ton": "",
    "lb": "lbs",
    "ounce": "oz",
    "carat": "karat",
    "ct": "",
    # times and rates
    "nanosecond": "ns",
    "microsecond": "\u03bcs us",
    "millisecond": "ms msec",
    "second": "sec s secs",
    "minute": "min mins",
    "hour": "h H hr hrs",
    "day": "",
    "week": "wk wks",
    "month": "mo mos mth",
    "year": "yr yrs yo y/o",
    "kilometre/hour": "kph kmh kmph",
    "mile/hour": "mph",
    "mile/gallon": "mpg",
    "revolution/minute": "rpm",
    "beat/minute": "bpm",
    "frame/second": "fps",
    "knot": "kn kt kts",
    # data and screens
    "byte": "",
    "kilobyte": "kB kb",
    "megabyte": "MB mb",
    "gigabyte": "GB gb",
    "terabyte": "TB tb",
    "kilobit": "Kb kbit",
    "megabit": "Mb mbit",
    "gigabit": "Gb gbit",
    "kilobit/second": "kbps",
    "megabit/second": "Mbps mbps",
    "gigabit/second": "Gbps gbps",
    "pixel": "px",
    "dot/inch": "dpi",
    "word/minute": "wpm",
    "foot\u00b3/minute": "cfm",
    "gallon/minute": "gpm",
    "gallon/hour": "gph",
    "litre/minute": "lpm",
    "em": "",
    # physics and chemistry
    "newton": "N",
    "kilonewton": "kN KN Kn",
    "millinewton": "mN",
    "joule": "J",
    "kilojoule": "kJ kj",
    "megajoule": "MJ",
    "watt": "W",
    "nanowatt": "nW",
    "milliwatt": "mW mw",
    "kilowatt": "kW kw",
    "megawatt": "MW Mw",
    "watt hour": "Wh wh watt-hour",
    "kilowatt hour": "kWh kwh kilowatt-hour kw\u00b7h",
    "megawatt hour": "MWh mwh",
    "horsepower": "hp HP",
    "volt": "V",
    "microvolt": "\u03bcV uV",
    "millivolt": "mV",
    "kilovolt": "kV kv",
    "megavolt": "MV",
    "electronvolt": "eV ev",
    "amp": "A ampere",
    "milliamp": "mA milliampere",
    "amp hour": "Ah ah amp-hour",
    "ohm": "\u03a9",
    "coulomb": "",
    "farad": "",
    "microfarad": "\u03bcF uF uf",
    "nanofarad": "nF nf",
    "picofarad": "pF pf",
    "hertz": "Hz hz",
    "kilohertz": "kHz khz",
    "megahertz": "MHz mhz",
    "gigahertz": "GHz ghz",
    "pascal": "Pa",
    "hectopascal": "hPa",
    "kilopascal": "kPa",
    "megapascal": "MPa",
    "millipascal": "mPa",
    "atmosphere": "atm",
    "bar": "",
    "pound/inch\u00b2": "psi",
    "millimetre of mercury": "mmhg",
    "mole": "mol",
    "calorie": "cal",
    "kilocalorie": "kcal",
    "decibel": "dB db",
    "lumen": "lm",
    "lux": "lx",
    "international unit": "iu",
    # counts
    "piece": "pc pcs stk szt",
    "person": "people ppl",
    "point": "pts",
    "each": "ea",
    "sq": "",
    "package": "pkg pkgs",
    "page": "pg pgs",
    "pack": "pk",
}
"""The ways of writing each unit, as people write them; the plural with an s, and other capitals, are understood.

One letter is a unit only as it stands here, and so are small letters glued to a number that could be variables (`5mA`).
"""
_LETTERS_OF_VARIABLES = frozenset(["ac", "kn", "p", "t"])
"""Units of small letters that may as well be variables where they are glued to a number: 4ac, 2t."""
_UNITS = {spelling: unit for unit, others in _SPELLINGS.items() for spelling in (unit, *others.split())} | {
    "C": "C",
    "F": "F",
    "per cent": "percent",
    "us dollar": "dollar",
    "pounds sterling": "pound sterling",
    "british pound": "pound sterling",
    "fl oz": "fluid ounce",
    "swiss franc": "franc",
    "indian rupee": "rupee",
    "japanese yen": "yen",
    "metric ton": "tonne",
    "cc": "centimetre\u00b3",
    "sqm": "metre\u00b2",
    "sqft": "foot\u00b2",
    **dict.fromkeys(("\u00b0c", "\u00b0 c", "degree celsius", "degrees celsius", "celsius"), "celsius"),
    **dict.fromkeys(("\u00b0f", "\u00b0 f", "degree fahrenheit", "degrees fahrenheit", "fahrenheit"), "fahrenheit"),
}
_IN_ANY_CASE = {spelling.casefold(): unit for spelling, unit in reversed(_UNITS.items()) if len(spelling) > 1}
"""Where two differ in their capitals only, the first of the table."""
_KNOWN = frozenset(part.rstrip("\u00b2\u00b3") for unit in _UNITS.values() for part in unit.split("/"))
_MEANS_SEVERAL = {
    "pound": ("pound sterling", "lb"),
    "degree": ("celsius", "fahrenheit"),
    "ton": ("tonne",),
    "ct": ("cent", "carat"),
    "pp": ("percentage point", "page"),
    "C": ("celsius", "coulomb", "degree"),
    "F": ("fahrenheit", "farad", "degree"),
}
_BY_TIME = "seconds?|sec|s|minutes?|min|hours?|hr|h|days?|weeks?|months?|years?|yr"
_PER = re.compile(rf"\s*/\s*|(?:^|\s+)per\s+|(?:^|\s+)an?\s+(?=(?:{_BY_TIME}|miles?|piece|person)\b)", re.IGNORECASE)
_SQUARE_OR_CUBIC = re.compile(
    r"(?:(?P<square>square|sq\.?)|cubic|cu\.?)\s+(?P<behind>.+)"
    r"|(?P<before>.+?)(?:(?P<squared>\s+squared|\u00b2)|\s+cubed|\u00b3)",
    re.IGNORECASE,
)
_POWER = re.compile(r"\^?([23])(?![0-9])")
_OLD = re.compile(r" old\Z", re.IGNORECASE)
BY_TIME = re.compile(rf"(?<=[0-9])\s?/\s?(?=(?:{_BY_TIME})\b)", re.IGNORECASE)
"""The slash of `$9/hour`."""


_OF = " of "
"""Before what is measured: `3 kg of flour` are `3 kg`."""


@lru_cache(maxsize=4096)
def one_spelling(unit: str) -> str:
    """One text for the ways of writing a unit: small letters, no plural, one name for each currency."""
    plain = " ".join(unit.split()).rstrip(".") or unit
    if plain in _UNITS:
        return _UNITS[plain]
    head, of, what = plain.partition(_OF)
    if of:
        return f"{one_spelling(head)}{of}{what.casefold()}"
    plain = _OLD.sub("", plain) or unit
    known = _named(plain)
    return known or "/".join(map(_simple, _PER.split(plain)))


def _named(plain: str) -> str | None:
    """The unit that is written so, in whatever capitals; None where the table has none."""
    return _UNITS.get(plain) or _IN_ANY_CASE.get(plain.casefold())


def _simple(plain: str) -> str:
    """The one spelling of a unit that is not by another."""
    base, raised = base_and_power(plain)
    return (_named(base) or _named(_singular(base)) or _singular(base).casefold()) + raised


def base_and_power(plain: str) -> tuple[str, str]:
    """What is raised, and its power: `m` and `\u00b2` of `m^2` and `square m`."""
    plain = _POWER.sub(lambda found: "\u00b2\u00b3"[int(found[1]) - 2], plain.rstrip("."))
    if (power := _SQUARE_OR_CUBIC.fullmatch(plain)) is None:
        return plain, ""
    return (power["behind"] or power["before"]).strip(), "\u00b2" if power["square"] or power["squared"] else "\u00b3"


def _singular(plain: str) -> str:
    """Without the s of the plural: `cats`, and `kms`, but not `gas`."""
    one = plain[:-1] if plain[-1:] in ("s", "S") else plain
    return one if len(plain) > len("gas") or (len(one) > 1 and one in _UNITS) else plain


def is_known(unit: str) -> bool:
    """Whether a unit in its one spelling is one of those that are known, or a square, a cube or a rate of them."""
    return all(part.rstrip("\u00b2\u00b3") in _KNOWN for part in unit.partition(_OF)[0].split("/"))


def is_unit(word: str) -> bool:
    """Whether a word is a unit of the table, or a square, a cube or a rate of such."""
    return is_known(one_spelling(word))


def is_usual(letters: str) -> bool:
    """Whether letters are a unit just as the table has them, and one that is no product of variables."""
    return letters in _UNITS and letters not in _LETTERS_OF_VARIABLES


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
    """Whether two units in their one spelling are known, and not the same, or the same one of other things."""
    (given, _, what), (wanted, _, that) = given.partition(_OF), wanted.partition(_OF)
    others = bool(what and that) and not {*what.split()} & {*that.split()}
    if given == wanted:
        return others
    return is_known(given) and is_known(wanted) and (others or not same_unit(given, wanted))
