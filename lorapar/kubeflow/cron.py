"""A schedule's cron expression, checked as Kubeflow's scheduled workflows read it (robfig/cron, seconds first)."""

from __future__ import annotations

import re

from lorapar.errors import BadInputError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_WORDS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_PART = re.compile(r"(?P<low>\*|\?|\w+)(-(?P<high>\w+))?(/(?P<step>\d+))?")
_EVERY = re.compile(r"@every ([0-9]+(\.[0-9]+)?(h|m|s|ms))+")


def check_cron(cron: str) -> None:
    """Raise BadInputError naming the field that is wrong; six fields, or a word such as `@daily`."""
    if cron in _WORDS or _EVERY.fullmatch(cron):
        return
    if cron.startswith("@"):
        raise BadInputError(f"CRON '{cron}': no such word; known: {', '.join(_WORDS)}, and '@every 12h'")
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        raise BadInputError(f"CRON '{cron}': expected six fields, the first of them seconds, such as '0 0 3 * * *'")
    for text, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        if not all(_fits(part, low, high, words) for part in text.split(",")):
            named = f" or {words[0]} to {words[-1]}" if words else ""
            raise BadInputError(
                f"CRON '{cron}': {name} '{text}': expected {low} to {high}{named}, `*`, a range `{low}-{high}`, a step "
                "`*/5`, or several with commas; the fields are second, minute, hour, day of month, month, day of week"
            )


def _fits(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    found = _PART.fullmatch(part)
    if found is None or found["step"] == "0" or (found["low"] in "*?" and found["high"]):
        return False
    if found["low"] in "*?":
        return True
    first = _number(found["low"], low, words)
    last = first if found["high"] is None else _number(found["high"], low, words)
    return first is not None and last is not None and low <= first <= last <= high


def _number(text: str, low: int, words: tuple[str, ...]) -> int | None:
    if text.lower() in words:
        return words.index(text.lower()) + low
    return int(text) if text.isascii() and text.isdigit() else None
