"""What a sentence says of an answer that it names: that it is only a bound of it, or that it is not it.

`At most 5`, `under 5` and `5 or more` do not say how many; `not 5`, `it cannot be 5` and `5 is wrong` say what it is
not.
`About 5` and `5, I think` name 5, only less firmly: the strict rule takes no sentence, and the lenient one asks which
number it ends up with.

A number that is spoken of takes the singular (`5 is wrong`, `5 was rejected`), what it counts the plural (`5 were
rejected`), so that `5 answers are wrong` names 5.
"""

from __future__ import annotations

import re

_HEDGE = r"about|around|roughly|approximately|approx\.?|circa|ca\.?|some|exactly|precisely|just|even|really"
_BETWEEN = (
    rf"(?:\s?(?:\b(?:{_HEDGE}|be|been|being|equals?|to|of|or|the|an?|answer|number|value|result|option|choice)(?=[\s(\[*$])"
    r"|[~\u2248]))*\s?"
)
"""Words that may stand between a denial or a bound and what it is about."""
_OPENING = r"[(\[*\"'$\u20ac\u00a3]{0,4}\Z"
_DENIAL = (
    r"(?:\b(?:not|cannot|never|neither|nor|no\slonger|except(?:\sfor)?|excluding|excludes?|eliminates?|rejects?|instead\sof"
    r"|rather\sthan|other\sthan|(?:any|every)thing\sbut|all\sbut|unlike|wrongly|rules?\sout|rul(?:ed|ing)\sout"
    r"|doubt\s(?:that\s)?(?:it|this)(?:\sis|'s))|n't)(?![^\W\d_])"
)
_BOUND = (
    r"\b(?:at\s(?:the\s)?(?:most|least)|than|under|below|above|beyond|(?<!left\s)(?<!carried\s)over|exceed(?:s|ed|ing)?"
    r"|within|almost|nearly|short\sof|upwards?\sof|in\sexcess\sof|nowhere\snear|max(?:imum|\.)?|minimum"
    r"|(?<!add\s)(?<!adds\s)(?<!adding\s)(?<!added\s)(?<!sum\s)(?<!sums\s)(?<!comes\s)(?<!come\s)up\sto)(?![^\W\d_])"
)
_DENIED_BEFORE = re.compile(_DENIAL + _BETWEEN + _OPENING, re.IGNORECASE)
_BOUNDED_BEFORE = re.compile(_BOUND + _BETWEEN + _OPENING, re.IGNORECASE)

_OVER_TIME = re.compile(r"\bover\s(?:the\s|an?\s)?\Z", re.IGNORECASE)
_TIME = re.compile(
    r"[\s-](?:(?:work|week|school)?day|night|hour|minute|second|week|month|year|decade)s?\b(?!\sold)", re.IGNORECASE
)
"""`Over 5 days` says how long, not how many at least."""

_UNIT = r"(?:\s?[%\u00b0$\u20ac\u00a3]|(?:\s(?!(?:is|was|are|were)\b)[^\W\d_][\w'/-]*){1,2}?)"
_BOUND_BEHIND = (
    r"(?:,\stops\b|\s(?:at\s(?:the\s)?(?:very\s)?(?:most|least)\b|or\s(?:more|less|fewer|greater|higher|lower|above|below|over|under)\b"
    r"|and\s(?:up|above|over|below)\b|(?:max(?:imum)?|minimum)(?=\s*(?:[.,;!)]|\Z))))"
)
_WRONG = (
    r"(?:wrong|incorrect|false|rejected|excluded|impossible|ruled\sout|discarded|eliminated|refuted|dismissed|untrue"
    r"|invalid|mistaken|(?:mistake|error|trap|distractor|decoy)|unlikely|too\s\w+|out(?=\s*(?:[.,;!]|\Z))"
    r"|no\s(?:answer|solution|option))\b"
)
_RIGHT = (
    r"(?:right|correct|true|it|so|possible|(?:the|an?|my)\s(?:right\s|correct\s)?(?:answer|one|solution|result|choice|case)"
    r"|enough|valid|allowed)\b"
)
_ADVERBS = (
    r"(?:\s(?:clearly|simply|obviously|definitely|also|just|far|still|certainly|probably|surely|much|thus|already|way"
    r"|quite|an?|the|be))*"
)
_IS = r"(?:is|was|seems|looks|(?:has|had)\sbeen|(?:would|must|will|should|could|may|might)\sbe)"
_IS_NOT = (
    r"(?:isn't|wasn't|(?:is|was)\s(?:not|never)|(?:can't|cannot|can\snot|couldn't|could\snot|won't|wouldn't|would\snot)"
    r"(?:\spossibly)?\sbe)"
)
_IS_WRONG = rf"(?:{_IS}{_ADVERBS}\s{_WRONG}|{_IS_NOT}{_ADVERBS}(?:\s{_RIGHT}|\s*(?:[.,;!]|\Z)))"
_FAILS = (
    r"(?:fails\b|(?:doesn't|does\snot|didn't|did\snot|can't|cannot|won't)\s(?:work|fit|hold|match|satisfy|check|solve"
    r"|make\ssense)\b)"
)
_CLOSING = r"[)\]*\"']*[.:]?[)\]*\"']*"
_OF_A_NUMBER = re.compile(
    rf"\b(?:{_HEDGE}|estimated|perhaps|always|sometimes|{_WRONG}|{_FAILS})|{_DENIAL}", re.IGNORECASE
)
_WRONG_BEHIND = re.compile(
    rf"{_CLOSING}(?:(?:,\s(?:which|but\s(?:this|that|it))|\s)?\s?(?:{_IS_WRONG}|{_FAILS})|\?\s*(?:no|nope|wrong|incorrect)\b"
    r"|\s?[(:-]\s?(?:wrong|incorrect)\b)",
    re.IGNORECASE,
)
_COUNTED_WRONG_BEHIND = re.compile(rf"{_CLOSING}{_UNIT}(?:,\swhich)?\s{_IS_WRONG}", re.IGNORECASE)
_BOUNDED_BEHIND = re.compile(rf"{_CLOSING}{_UNIT}?{_BOUND_BEHIND}", re.IGNORECASE)

_VERB = re.compile(
    r"(?:is|was|would|could|should|may|might|must|can(?=\s(?:be|not)\b)|cannot|has|had|seems|looks|does|did|fails|will|be"
    r"|equals|[a-z]+n't)(?![^\W\d_])",
    re.IGNORECASE,
)
_STILL_NAMES_IT = re.compile(
    r"(?:is|was|must be)\s+(?:(?:clearly|definitely|indeed|therefore)\s+)?"
    r"(?:right|correct|left|remaining|(?:the|my)\s+(?:(?:right|correct|final)\s+)?(?:answer|result|solution|total))",
    re.IGNORECASE,
)


def is_denied(before: str, behind: str) -> bool:
    """Whether a text denies what stands between these two parts of it: `not 5`, `5 is wrong`."""
    return _DENIED_BEFORE.search(before) is not None or _WRONG_BEHIND.match(behind) is not None


def takes_back(number: str, before: str, behind: str) -> bool:
    """Whether a text denies the number between these two parts, or only bounds it by it."""
    one = number.lstrip("$\u20ac\u00a3+-") == "1"  # "1 answer is wrong" counts one
    bounded = _BOUNDED_BEFORE.search(before) and not (_OVER_TIME.search(before) and _TIME.match(behind))
    return bool(
        bounded
        or is_denied(before, behind)
        or _BOUNDED_BEHIND.match(behind) is not None
        or (not one and _COUNTED_WRONG_BEHIND.match(behind) is not None)
    )


def speaks_of_it(words: str) -> bool:
    """Whether words say how sure or right a number is, and not what it counts: `approximately`, `wrong answers`."""
    return _OF_A_NUMBER.search(words) is not None or is_statement(words)


def is_statement(words: str) -> bool:
    """Whether words behind a number say something about it other than what it counts: `5 would be too many`."""
    return _VERB.match(words) is not None and _STILL_NAMES_IT.fullmatch(words.rstrip(".")) is None
