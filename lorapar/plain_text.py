"""An answer's text reduced to its content: one character for each way of writing it, no markup, no introductory words.

Characters are folded by their class and never by NFKC over the whole text: that would make `5\u00b2` into `52`. What is
folded: digits of every script, full-width and mathematical letters, circled letters, vulgar fractions, dashes, quotes,
decimal and thousands marks of Arabic, and characters that show nothing.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ONE_FOR_EACH = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4\uff07", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d\u300e\u300f\u2033\uff02", '"'),
    **dict.fromkeys("\u2044\u2215", "/"),
    "\u066b": ".",
    "\u066c": ",",
    "\u066a": "%",
    **dict.fromkeys("\u00ba\u02da", "\u00b0"),
    "\u301c": "~",
    "\u2103": "\u00b0C",
    "\u2109": "\u00b0F",
    "\u3000": " ",
    "\u3001": ",",
    "\u3002": ".",
    "\u060c": ",",
    "\u3010": "[",
    "\u3011": "]",
}
_FOLDED_FORMS = ("<wide>", "<narrow>", "<font>", "<circle>", "<small>")
"""Unicode's names of forms of a character that mean the character itself; a superscript is none of them."""
_LIGATURES = range(0xFB00, 0xFB07)
_INNER = re.compile(
    r"(?:\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\{(?P<command>.*)\}"
    r"|\*\*(?P<bold>(?:(?!\*\*).)*)\*\*|__(?P<under>(?:(?!__).)*)__|\*(?P<star>[^*]*)\*|_(?P<line>[^_]*)_"
    r"|<(?P<tag>b|i|u|em|strong|code|span|p)>(?P<html>.*)</(?P=tag)>"
    r"|\$\$(?P<shown>[^$]*)\$\$|(?<!\\)\$(?P<maths>(?:\\\$|[^$])*)\$|\\\((?P<round>.*)\\\)|\\\[(?P<square>.*)\\\]"
    r"|```(?:\w*\n)?(?P<fence>[^`]*)```|`(?P<code>[^`]*)`|\"(?P<quote>[^\"]*)\"|'(?P<single>[^']*)')[.,;:!]?",
    re.DOTALL,
)
_BOLD_PART = re.compile(r"(?<![\w*])\*\*(\S(?:[^*\n]*\S)?)\*\*(?![\w*])")
_ESCAPED = re.compile(r"\\([%$#&{}\u20ac])")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_DEEPEST = 6
"""Layers of markup that are taken off: `**$\\boxed{\\text{B}}$**` has four."""
_LEAD = re.compile(
    r"(?:\#{1,6}\s+"
    r"|(?:so|thus|hence|therefore)?[,\s]*(?:(?:the|my|our)\s+)?(?:(?:correct|right|final)\s+)?"
    r"(?:answer|solution|result)(?:\s+is\s*:?|\s*[:=])\s*"
    r"|(?:it\s+is|it's|(?:so|thus|hence|therefore),?)\s+(?=\S+$)"
    r"|(?:\u6b63\u786e|\u6700\u7ec8|\u6700\u5f8c)?\u7684?(?:\u7b54\u6848|\u7b54\u3048|\u6b63\u89e3|\uc815\ub2f5)(?:\u662f|\u4e3a|\u70ba|\u9009|\u306f|\uc740)?\s*[:=]?\s*"
    r"|(?:=+>?|->|\u2192|\u21d2|\u2234)\s*)(?=\S)",
    re.IGNORECASE,
)
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Signs of Chinese and Japanese, which are written without blanks."""
_ONE_UNSPACED = re.compile(f"[{UNSPACED}]")
_BESIDE_UNSPACED = re.compile(rf"(?<=[{UNSPACED}])(?<!\u7b2c)(?=[^\W{UNSPACED}])|(?<=[^\W_{UNSPACED}])(?=[{UNSPACED}])")
"""Where another letter or digit stands beside one, but for the ordinal sign."""
_CLOSING = re.compile(r"(?:(?<=[^\W\d_]{2})[!?,;:.]+|\.)$")


def plain_characters(text: str) -> str:
    """The text with one character for each way of writing it: full-width, Arabic-Indic and so on.

    Superscripts stay what they are. Spaces stay too, because a thin or no-break one may stand between thousands.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    folded = "".join(map(_folded, text))
    # A fraction behind a whole number: 2\u00bd is 2 1/2.
    return re.sub("(?<=[0-9]) ?\x00", " ", folded).replace("\x00", "")


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    if character.isascii():
        return "" if character == "\x00" else character
    known = _ONE_FOR_EACH.get(character)
    if known is not None:
        return known
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    form = unicodedata.decomposition(character)
    if form.startswith("<fraction>"):
        return "\x00" + unicodedata.normalize("NFKD", character).replace("\u2044", "/")
    if form.startswith(_FOLDED_FORMS) or ord(character) in _LIGATURES:
        return unicodedata.normalize("NFKC", character)
    return character


def without_markup(text: str) -> str:
    """A text in plain characters, without white space, quotes, bold type or LaTeX's box around all of it."""
    text = _BOLD_PART.sub(r"\1", plain_characters(text).strip())
    for _ in range(_DEEPEST):
        match = _INNER.fullmatch(text)
        if match is None or not _is_one(match["command"] or ""):
            break
        text = next(part for name, part in match.groupdict().items() if part is not None and name != "tag").strip()
    return _ESCAPED.sub(r"\1", text)


def _is_one(content: str) -> bool:
    """Whether the braces around a content belong together, as those of `\\boxed{2} and \\boxed{3}` do not."""
    depth = 0
    for brace in _BRACES.findall(content):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return True


def without_lead(text: str) -> str:
    """A text without markup, and without the words that lead up to an answer: `The final answer is:`, `#### `."""
    text = without_markup(text)
    match = _LEAD.match(text)
    return text if match is None else without_markup(text[match.end() :])


def has_unspaced(text: str) -> bool:
    """Whether a text has a sign of Chinese or Japanese, beside which a word needs no blank."""
    return _ONE_UNSPACED.search(text) is not None


def set_apart(text: str) -> str:
    """A text with blanks between Chinese or Japanese signs and other letters and digits: `\u5171 72 \u4e2a`."""
    return text if text.isascii() else _BESIDE_UNSPACED.sub(" ", text)


def words_of(text: str) -> str:
    """The words of an answer to compare: no lead, no case, one space between them, no closing punctuation."""
    return _CLOSING.sub("", " ".join(without_lead(text).split())).casefold()
