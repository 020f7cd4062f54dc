"""The letter of a choice: in an answer that is one, and in a longer text that ends up with one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lorapar.plain_text import without_lead, without_markup
from lorapar.reading.claims import is_denied
from lorapar.reading.unspaced import is_named

_LETTER = r"[^\W\d_]"
_CHOICE = re.compile(
    r"(?:(?:the\s+)?(?:(?:correct|right|final|best)\s+)?(?:(?:answer|option|choice)(?=[\s:=(\[{<]))(?:\s+is)?\s*[:=]?\s*"
    r"(?:(?:option|choice)\s+)?)?"
    rf"(?P<open>[(\[{{<]?)(?P<letter>{_LETTER})(?P<close>[)\]}}>]?[.:,]?)(?:(?P<gap>\s+-\s+|\s+)(?P<text>\S.*))?",
    re.IGNORECASE | re.DOTALL,
)
_IS_RIGHT = re.compile(
    r"is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice|one))?\.?"
    r"|is\s+(?:the|my)\s+(?:final\s+)?(?:answer|choice)\.?",
    re.IGNORECASE,
)
_ANOTHER_CHOICE = re.compile(
    rf"(?<!\w)(?:[(\[]{_LETTER}[)\]]|{_LETTER}[).:](?!\w)|(?-i:[A-Z])(?!\w)\s*$"
    r"|(?:answer|option|choice)\s+(?:is\s+)?(?-i:[A-Z])(?!\w)"
    r"|(?:(?<=[.!?])|(?:think|believe|say|but|no,?))\s+(?:that\s+)?(?-i:[B-H])\s+(?:is|must\s+be)\s+(?:the\s+)?"
    r"(?:right|correct|answer)\b(?!\s+angle))",
    re.IGNORECASE,
)
"""A second choice in the text behind the first: `(C)`, `C)`, `option C`, a capital at the end, `no, C is right`."""
_LATEX_LETTER = re.compile(
    r"\$?\\(?:text|textbf|textrm|mathrm|mathbf|boldsymbol)\{\s*\(?([A-Za-z])\)?[.:]?\s*\}\$?(?:\\[ ,;]|\\q?quad|~|\s)*"
)
_STATED = re.compile(
    r"(?<![\w'\u2019.+-])[(\[]?(?P<letter>(?<=[(\[])[A-Za-z](?=[)\]])|[A-Z](?![\w'\u2019+-]|\.\w)"
    r"(?!(?<=I)\*{0,2}\s+[a-z])(?!(?<=A)\*{0,2}\s+(?!(?:is|was|and|or|over|because|since|rather|instead|looks|seems|but|not"
    r"|with)\b)[a-z]))(?P<bracket>\*{0,2}[)\].:]?)"
)
_OPEN = r"\s*[:=]?\s*\*{0,2}(?:(?:the\s+)?(?:option|choice|letter)\s+)?[(\[]?\*{0,2}"
_ONE_LETTER = r"(?P<letter>[A-Za-z])(?![\w'\u2019])(?!(?<=[aAI])\s+[a-z])"
_IS = r"(?:\s+(?:is|should\s+be|must\s+be|has\s+to\s+be|would\s+be))"
_LED = re.compile(
    rf"(?:\b(?:answer{_IS}?|(?:option|choice|one){_IS})|[\u9009\u9078]|(?:\u7b54\u6848|\u7b54\u3048|\u6b63\u89e3)[\u662f\u4e3a\u70ba\u306f]?)"
    rf"(?=[\s:=(\[*]){_OPEN}{_ONE_LETTER}",
    re.IGNORECASE,
)
"""What follows `the answer is`, in English, Chinese or Japanese."""
_ALONE = re.compile(r"(?:\A|[.!?:\n]\s*)\*{0,2}[(\[]?(?P<letter>[A-Z])\*{0,2}[)\]]?\*{0,2}\.?\s*\Z")
"""A letter by itself that ends the text."""
_CONCLUDED = re.compile(
    r"\b(?:(?:choose|chose|pick|picked|select|say|guess|go\s+(?:with|for))|it\s+(?:is|must\s+be|should\s+be)|it's|so|thus"
    rf"|hence|therefore),?(?=[\s(\[*]){_OPEN}(?P<letter>(?-i:[A-Z])|(?<=[(\[])[a-z](?=[)\]]))(?![\w'\u2019])"
    r"(?!(?<=[AI])\s+(?-i:[a-z]))",
    re.IGNORECASE,
)
_CALLED_RIGHT = re.compile(
    r"(?<![\w'\u2019.+-])[(\[]?(?P<letter>[A-Z])[)\].]?\*{0,2}\s+(?:is|must\s+be|looks|seems)\s+(?:clearly\s+)?(?:the\s+|my\s+)?"
    r"(?:right|correct|answer|true|best|final\s+answer)\b"
)
_OPTION = re.compile(rf"\b(?:option|choice)(?=[\s:(\[*]){_OPEN}{_ONE_LETTER}", re.IGNORECASE)
_LESS_BEFORE = re.compile(
    r"\b(?:over|than|against|from|beats|before)\s+(?:(?:option|choice)\s+)?[(\[*]*\Z", re.IGNORECASE
)
_REFUTED = re.compile(
    r"[)\].:*]*\s*(?:is\s|are\s|was\s)?(?:clearly\s|also\s|simply\s)?(?:wrong|incorrect|not|no|false|isn't|never)\b",
    re.IGNORECASE,
)
_JOINED_BEFORE = re.compile(r"(?<![\w'])[A-Z][)\]]?(?:\s*(?:,|/|&|\bor\b|\band\b)\s*(?:\b(?:or|and)\s+)?| )[(\[]?\Z")
_JOINED_BEHIND = re.compile(
    r"[)\]]?(?:\s*(?:/|&|\bor\b|\band\b)\s*[(\[]?|,\s*(?:or\s+|and\s+)?[(\[]?)[A-Z](?![\w'])(?P<rest>.*)"
)
_GOES_ON = re.compile(r",|\s+(?:because|since)\b")
_NEARBY = 60
"""Characters before a letter that are looked at for what denies it."""


def letter_of(text: str, *, alone: bool) -> str | None:
    """The letter of a choice, in lower case; None where the text is none, or names a second one.

    `alone`: text behind the letter needs a bracket before it, so that `E. coli` is no choice.
    """
    text = _dressed(text)
    match = _CHOICE.fullmatch(without_lead(text)) or _CHOICE.fullmatch(without_markup(text))
    if match is None or not match["letter"].isalpha():
        return None
    behind = match["text"]
    if behind is None or (not alone and _IS_RIGHT.fullmatch(behind)):
        return match["letter"].casefold() if match["close"] != "," else None
    in_brackets = behind.startswith("(") and behind.endswith(")")
    marked = (
        match["close"][:1] in tuple(")]}>") if alone else bool(match["close"] or match["gap"].strip() or in_brackets)
    )
    if not marked or _ANOTHER_CHOICE.search(behind) or is_denied("", f" {behind}"):
        return None
    return match["letter"].casefold()


def last_choice(text: str) -> str | None:
    """The letter of the choice that a text ends up with, in small letters; None where it names none, or two at once.

    In this order: what follows `the answer is`, or a letter by itself at the end, whichever is later; what is concluded
    (`so (B)`, `I choose B`, `B is right`); `option B`; a letter that the text begins with, as in `B) blue`; the last
    letter in brackets or capital by itself. A letter that is denied, refuted or less good than another (`B over A`) is
    never the one. `A` and `I` before a word in small letters are words.
    """
    text = _dressed(text)
    for find in (_stated, _concluded, _options, _mentioned):
        chosen = find(text)
        if chosen is not None:
            return None if _is_joined(text, chosen) else chosen["letter"].casefold()
    return None


def _dressed(text: str) -> str:
    """`\\textbf{(B)}\\ 5` as `(B) 5`."""
    return _LATEX_LETTER.sub(r"(\1) ", text)


def _kept(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """What a pattern finds, without letters that are denied."""
    for one in pattern.finditer(text):
        start, end = one.span("letter")
        before, behind = text[max(0, one.start() - _NEARBY) : start], text[end:]
        nearer = text[max(0, one.start() - _NEARBY) : one.start()]
        if _LESS_BEFORE.search(before) or _REFUTED.match(behind) or not is_named(before, behind):
            continue
        if not (is_denied(before, behind) or is_denied(nearer, "")):
            yield one


def _last(text: str, *patterns: re.Pattern[str]) -> re.Match[str] | None:
    found = [one for pattern in patterns for one in _kept(text, pattern)]
    return max(found, key=_place, default=None)


def _place(found: re.Match[str]) -> int:
    return found.start("letter")


def _stated(text: str) -> re.Match[str] | None:
    return _last(text, _LED, _ALONE)


def _concluded(text: str) -> re.Match[str] | None:
    return _last(text, _CONCLUDED, _CALLED_RIGHT)


def _options(text: str) -> re.Match[str] | None:
    return _last(text, _OPTION)


def _mentioned(text: str) -> re.Match[str] | None:
    found = list(_kept(text, _STATED))
    if not found or _is_list(text, found):
        return None
    begins = not text[: found[0].start()].strip(" *") and (found[0]["bracket"] or _GOES_ON.match(text, found[0].end()))
    return found[0] if begins else found[-1]


def _is_list(text: str, found: list[re.Match[str]]) -> bool:
    """Whether a text only repeats the choices: `(A) 3 (B) 5`."""
    letters = "".join(one["letter"].casefold() for one in found)
    marked = all(text[one.end("letter") : one.end("letter") + 1] in (")", "]", ".", ":") for one in found)
    return marked and len(letters) > 1 and "abcdefghij".startswith(letters)


def _is_joined(text: str, chosen: re.Match[str]) -> bool:
    """Whether a second letter stands beside: `B or C`, `A, B and C`."""
    start, end = chosen.span("letter")
    if _JOINED_BEFORE.search(text[:start]):
        return True
    behind = _JOINED_BEHIND.match(text, end)
    return behind is not None and not _REFUTED.match(behind["rest"])
