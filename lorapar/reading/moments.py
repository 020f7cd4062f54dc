"""Times of day and dates: one value for the ways of writing each.

A time without `am` or `pm` is one only where its hour says which half of the day it is (`15:45`, not `3:45`). Dates
have the month in a word, or are written as 2024-01-05: of 05/01/2024 nobody knows which number is the month.
"""

from __future__ import annotations

import re

_AM_PM = re.compile(
    r"(?:at\s+)?(?P<hour>1[0-2]|0?[0-9])(?:[:.](?P<minute>[0-5][0-9]))?\s*(?P<half>[ap])\.?\s?m\.?", re.IGNORECASE
)
_OF_24 = re.compile(
    r"(?:at\s+)?(?P<hour>1[3-9]|2[0-3]|00?):(?P<minute>[0-5][0-9])(?:\s?h(?:ours|rs)?\.?)?", re.IGNORECASE
)
_NAMED = {"noon": (12, 0), "12 noon": (12, 0), "midday": (12, 0), "midnight": (0, 0), "12 midnight": (0, 0)}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:,?\s+(?P<year>[0-9]{4}))?"
_DATES = (
    re.compile(rf"(?:on\s+)?(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}{_YEAR}", re.IGNORECASE),
    re.compile(rf"(?:on\s+)?{_MONTH}\s+(?:the\s+)?{_DAY}{_YEAR}", re.IGNORECASE),
    re.compile(rf"(?:in\s+)?{_MONTH},?\s+(?P<year>[0-9]{{4}})", re.IGNORECASE),
    re.compile(r"(?P<year>[0-9]{4})([-/])(?P<number>[0-9]{1,2})\2(?P<day>[0-9]{1,2})"),
)
_LONGEST = 40

Moment = tuple[str, int, int, int]
"""What it is, and its numbers from the largest to the smallest; 0 for a year or a day that nobody names."""


def moment_of(text: str) -> Moment | None:
    """The time of day or the date that a text is; None where it is none."""
    text = text.strip().rstrip(",;")
    if len(text) > _LONGEST:
        return None
    return _time_of(text) or _date_of(text.removesuffix("."))


def _time_of(text: str) -> Moment | None:
    named = _NAMED.get(text.removesuffix(".").casefold())
    if named is not None:
        return ("time", *named, 0)
    if (found := _AM_PM.fullmatch(text)) is not None:
        hour = int(found["hour"]) % 12 + 12 * (found["half"] in "pP")
    elif (found := _OF_24.fullmatch(text.removesuffix("."))) is not None:
        hour = int(found["hour"])
    else:
        return None
    return ("time", hour, int(found["minute"] or 0), 0)


def _date_of(text: str) -> Moment | None:
    for pattern in _DATES:
        found = pattern.fullmatch(text)
        if found is None:
            continue
        parts = found.groupdict()
        month = int(parts["number"]) if "number" in parts else _MONTHS.index(parts["month"][:3].casefold()) + 1
        return ("date", int(parts["year"] or 0), month, int(parts.get("day") or 0))
    return None
