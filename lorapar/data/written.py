"""Parse lists and structures that a cell holds as text, in JSON or as printed by Python, NumPy and pandas.

A CSV file has no lists. `csv` and pandas write what Python prints: `['a', 'b']` for a list, `['a' 'b']` for an array,
and `{'text': array(['a', 'b'], dtype=object)}` for a structure with an array in it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

_BEGINS = re.compile(r"\s*(?:[\[{]|(?:np\.|numpy\.)?array\()")
_TOKEN = re.compile(
    r"""(?P<gap>\s*)(?:
      (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<name>[A-Za-z_][\w.]*)
    | (?P<sign>[\[\](){},:=])
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = {"None": None, "null": None, "nan": math.nan, "NaN": math.nan}
_WORDS |= {"True": True, "true": True, "False": False, "false": False}
_WORDS |= {"np.True_": True, "np.False_": False}
_WRAPPER = re.compile(r"list|(?:np\.|numpy\.)?(?:array|str_|bool_|u?int\d+|float\d+)")
"""What NumPy prints around a value: `array(…, dtype=object)`, `np.str_(…)`, `list(…)`."""
_ESCAPE = re.compile(
    r"""\\(?:(?P<sign>[\\'"/])|(?P<short>[nrt])|(?:x(?P<x>[0-9a-fA-F]{2})|u(?P<u>(?![dD][89a-fA-F])[0-9a-fA-F]{4})"""
    r"""|U(?P<U>000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})))"""
)
"""The escapes that Python prints, and `\\/` of JSON."""
_SHORT = {"n": "\n", "r": "\r", "t": "\t"}
_LISTS = {"[": "]", "(": ")"}
_STRUCTURES = {"{": "}"}
"""Opening brackets, with their closing ones."""
_DEEPEST = 20
_ODD_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[bf]")
"""The backspace and the form feed of JSON, which no text has: `"\\frac"` and `"\\beta"` are written by hand."""
_Token = tuple[str, str, bool]
"""Kind, text, and whether white space stands before it."""


def read_written(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or structure in a text; None where it is neither.

    JSON is read as JSON. In other lists one escape that Python does not print (`["\\usepackage", "b"]`) shows that they
    are written by hand: every backslash is then a plain character. So does a backspace or a form feed in a list of
    texts that is JSON (`["\\frac{1}{2}"]`). Line breaks within a text are part of it.
    """
    if not _BEGINS.match(text):
        return None
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return _printed(text)
    if isinstance(found, list) and all(isinstance(one, str) for one in found) and _ODD_ESCAPE.search(text):
        return _printed(text) or found
    return found if isinstance(found, list | dict) else None


def _printed(text: str) -> list[Any] | dict[str, Any] | None:
    tokens = _tokens(text)
    found = _Printed(tokens).whole() if tokens else None
    return found if isinstance(found, list | dict) else None


def texts_in(text: str) -> list[str] | None:
    """The texts in a written list, without missing values; None where it is not a list of texts, or one of numbers."""
    found = read_written(text)
    if not isinstance(found, list):
        return None
    texts = [one for one in found if isinstance(one, str)]
    gaps = [one for one in found if one is None or (isinstance(one, float) and math.isnan(one))]
    return texts if texts and len(texts) + len(gaps) == len(found) else None


def _tokens(text: str) -> list[_Token] | None:
    found: list[_Token] = []
    place, text = 0, text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        kind = str(match.lastgroup)
        found.append((kind, match[kind], bool(match["gap"])))
        place = match.end()
    return found


def _decoder(bodies: list[str]) -> Callable[[str], str]:
    """A function that decodes a quoted text; it keeps all backslashes where one of them is not an escape."""
    by_hand = any("\\" in _ESCAPE.sub("", body) for body in bodies)
    return (lambda body: body) if by_hand else (lambda body: _ESCAPE.sub(_character, body))


def _character(escape: re.Match[str]) -> str:
    if escape["sign"] or escape["short"]:
        return escape["sign"] or _SHORT[escape["short"]]
    return chr(int(escape["x"] or escape["u"] or escape["U"], 16))


class _NotPrintedError(ValueError):
    """The text is not what Python or NumPy prints."""


class _Printed:
    """Reads the tokens of what Python or NumPy printed."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._decoded = _decoder([token[1:-1] for kind, token, _ in tokens if kind == "text"])

    def whole(self) -> Any:
        """The value of all tokens; None where they form none."""
        try:
            value = self._value(0)
        except ValueError:  # also of a number with thousands of digits
            return None
        return value if self._place == len(self._tokens) else None

    def _next(self) -> _Token:
        if self._place == len(self._tokens):
            raise _NotPrintedError
        self._place += 1
        return self._tokens[self._place - 1]

    def _take(self, sign: str) -> bool:
        """Skip a sign, if it is the next token."""
        taken = self._place < len(self._tokens) and self._tokens[self._place][:2] == ("sign", sign)
        self._place += taken
        return taken

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise _NotPrintedError

    def _value(self, depth: int) -> Any:
        kind, token, _ = self._next()
        if depth > _DEEPEST:
            raise _NotPrintedError
        if kind == "text":
            return self._decoded(token[1:-1])
        if kind == "number":
            return int(token) if token.lstrip("+-").isdigit() else float(token)
        if kind == "name" and token in _WORDS:
            return _WORDS[token]
        if kind == "name" and _WRAPPER.fullmatch(token):
            return self._wrapped(depth)
        if token in _LISTS:
            return self._items(_LISTS[token], lambda: self._value(depth + 1))
        if token in _STRUCTURES:
            return dict(self._items(_STRUCTURES[token], lambda: self._pair(depth)))
        raise _NotPrintedError

    def _wrapped(self, depth: int) -> Any:
        self._need("(")
        value = self._value(depth + 1)
        while self._take(","):
            self._next()  # dtype
            self._need("=")
            self._next()
        self._need(")")
        return value

    def _pair(self, depth: int) -> tuple[str, Any]:
        kind, token, _ = self._next()
        if kind != "text":
            raise _NotPrintedError
        self._need(":")
        return self._decoded(token[1:-1]), self._value(depth + 1)

    def _items(self, end: str, item: Callable[[], Any]) -> list[Any]:
        """The items up to the closing bracket, separated by commas or, in NumPy's form, by white space."""
        found: list[Any] = []
        divided = True
        while not self._take(end):
            if not divided and not self._tokens[self._place][2]:
                raise _NotPrintedError
            found.append(item())
            divided = self._take(",")
            if self._place == len(self._tokens):
                raise _NotPrintedError
        return found
