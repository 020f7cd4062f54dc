"""What a Chinese or Japanese sentence says of an answer that it names: that it is not it, or only a bound of it.

The rule: an answer counts only behind a word that names it (such as `is`, `has`, `choose`, or a colon) or where its
clause begins, and only in a clause without a sign of denying, bounding, guessing or joining. What the sentence goes on
to say is not understood, but for a short clause that takes the answer back.
"""

from __future__ import annotations

import re

from lorapar.plain_text import UNSPACED

_ONE = re.compile(f"[{UNSPACED}]")
_KANA = re.compile("[\u3041-\u3096]")
_ENDS = re.compile(r"[,;.!?](?![0-9])|\n")
"""What ends a clause."""
_DENIES = (
    "[\u4e0d\u6ca1\u6c92\u672a\u975e\u65e0\u7121\u5426\u9519\u932f\u8bef\u8aa4\u9055\u6392]"
    "|\u522b\u9009|\u5225\u9078|\u306a\u3044|\u307e\u305b\u3093"
)
_BOUNDS = (
    "[\u7ea6\u7d04\u8fd1\u6982\u8d85\u81f3\u82e5]|\u6700[\u591a\u5c11\u5927\u5c0f\u9ad8\u4f4e]|\u9664\u4e86|\u5982\u679c|\u8fd8\u662f|\u9084\u662f"
    "|\u96f6\u4e0b|\u5c11\u306a\u304f|\u591a\u304f|\u304a\u3088\u305d|\u307b\u307c|\u3082\u3057"
)
"""Before an answer: about, at least, except, if."""
_NOT_NAMED = re.compile(f"{_DENIES}|{_BOUNDS}")
_NAMES = re.compile(
    "(?:[\u662f\u4e3a\u70ba\u6709\u5171\u5f97\u4e86\u5269\u8981\u9009\u9078\u62e9\u64c7\u9879\u9805\u6848\u53eb\u51fa"
    "\u306f\u304c\u3067\u3048\u8a08\u8ba1:=]|\u7b49[\u4e8e\u65bc]|\u5269\u4e0b)\\Z"
)
_ANSWER = re.compile(r"\u6848|\u7b54\u3048|:\Z")
_OPENING = re.compile(r"[\s*$({\[\"'\u00a5\u20ac\u00a3\\-]*\Z")
_SAYS_MORE = re.compile(
    f"{_DENIES}"
    "|[\u4ee5\u5de6\u53f3\u591a\u5230\u81f3\u6216\u548c\u4e0e\u8207\u8ddf\u53ca\u4f59\u9918\u8d85\u6ee1\u6e80\u7a0b\u5f31\u5f3a\u5f37\u5185\u5167\u5417\u55ce\u4e4b]"
    "|\u8fd8\u662f|\u9084\u662f|\u4e0a\u4e0b|\u6765\u4e2a|\u4f86\u500b|\u307b\u3069|\u304f\u3089\u3044|\u3050\u3089\u3044|\u307e\u3067|\u3088\u308a|\u304b"
    "|\\A\\s*\u7684"
)
"""Behind a number or letter: or more, to, and, about."""
_STATES = re.compile(
    "(?:\\A\\s*[\u3064\u3053]|\u3067\u3059|\u3060|\u3067\u3042\u308b|\u3067\u3057\u305f|\u307e\u3059|\u307e\u3057\u305f)[.)\\]}*$\\s\"']*\\Z"
)
"""The end of a Japanese sentence that says that something is so, or a word that only counts."""
_CLOSING = re.compile(r"[)\]}*$\s\"']*(?:\u3067\u3059|\u3060|\u3067\u3042\u308b|\u3067\u3057\u305f)?[)\]}*$\s\"']*")
_TAKES_BACK = re.compile(r"\u4e0d(?!\s?\u662f\s?[^\s,.;!?])|[\u9519\u932f\u8bef\u8aa4\u9055]")
_OF_ANOTHER = re.compile(r"[A-Za-z0-9]|\A\s*[\u56e0\u7531]")
_NEARBY = 80
"""Characters on either side that are looked at."""
_LONGEST_OF_IT = 8
"""Signs of a clause that is about the answer before it, as `this is wrong` is."""


def is_named(before: str, behind: str) -> bool:
    """Whether Chinese or Japanese around a number or letter lets it be the answer; true where there is none."""
    clause, *others = _ENDS.split(behind[:_NEARBY])
    return _is_led(_clause_of(before)) and not says_more(clause) and not _is_taken_back(others)


def is_all_of_it(found: re.Match[str]) -> bool:
    """As `is_named`, of a word, which must end its clause; one of one sign must begin it or be called the answer."""
    clause, *others = _ENDS.split(found.string[found.end() : found.end() + _NEARBY])
    led = _clause_of(found.string[max(0, found.start() - _NEARBY) : found.start()])
    if len(found[0]) == 1 and led and _ANSWER.search(led) is None:
        return False
    return _is_led(led) and _CLOSING.fullmatch(clause) is not None and not _is_taken_back(others)


def says_more(signs: str) -> bool:
    """Whether Chinese or Japanese signs behind a number say more than what it counts: `or more`, `is wrong`."""
    if _ONE.search(signs) is None:
        return False
    return _SAYS_MORE.search(signs) is not None or (_KANA.search(signs) is not None and not _STATES.search(signs))


def is_not_named(name: str) -> bool:
    """Whether what stands before an answer denies or bounds it in Chinese or Japanese: `wrong answer:`, `at least:`."""
    return _ONE.search(name) is not None and _NOT_NAMED.search(name) is not None


def _clause_of(before: str) -> str:
    return _OPENING.sub("", _ENDS.split(before[-_NEARBY:])[-1])


def _is_led(clause: str) -> bool:
    if not clause:
        return True
    return not is_not_named(clause) and (_ONE.match(clause[-1]) is None or _NAMES.search(clause) is not None)


def _is_taken_back(clauses: list[str]) -> bool:
    """Whether the clause behind takes an answer back; not one that names another number or letter, or a reason."""
    following = next((one for one in clauses if one.strip()), "")
    signs = len(_ONE.findall(following))
    about_it = 0 < signs <= _LONGEST_OF_IT and _OF_ANOTHER.search(following) is None
    return about_it and _TAKES_BACK.search(following) is not None
