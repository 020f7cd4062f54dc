"""lorapar's own rules for answers in LaTeX, applied before math-verify, which reads some of it wrongly.

math-verify 0.9 takes 50% for 0.5 and for 50, `2 1/2` for 1 or 3/2, `1e3` for 1e, `3:30` for 3, `5 cm` for `5 m`, `A`
for `a`, the last number of a sentence for the sentence, and any word for a product of its letters. So LaTeX is written
in plain text first, and numbers, units, letters of a choice and words are compared by `lorapar.answers`. What is left,
expressions on both sides, is handed on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from lorapar.answers import pair_of, same_answer
from lorapar.comparing.forms import REPEATING, alike, in_full, is_same_text, without_units
from lorapar.plain_text import without_lead
from lorapar.quantities import Quantity, quantity_of
from lorapar.reading.boxes import last_boxed

_LONGEST = 400
"""Characters of an expression that is still compared."""
_SPACES = re.compile(
    r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|(?<=\S)~|\\hspace\{[^}]*\}|\\(?:displaystyle|limits|left|right)(?![a-zA-Z])"
)
_AROUND = (
    re.compile(r"\$\$(.*)\$\$", re.DOTALL),
    re.compile(r"\$([^$]*[^$\\])\$"),
    re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"\\\[(.*)\\\]", re.DOTALL),
    re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL),
    re.compile(r"\*\*(.*)\*\*", re.DOTALL),
)
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textit|mathit|rm|mbox|operatorname)\s*\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(
    r"\\frac\s*(?:([0-9a-z])\s*([0-9a-z])|\{([^{}]+)\}\s*([0-9a-z])|([0-9a-z])\s*\{([^{}]+)\})"
)
_WHOLE_FRACTION = re.compile(r"([0-9]\s*)?\\frac\s*\{\s*([0-9]{1,9})\s*\}\s*\{\s*([0-9]{1,9})\s*\}")
_ROOT = re.compile(r"\\sqrt\s*(\[[^\]]*\])?\s*([0-9a-zA-Z])")
_ROOT_SIGN = re.compile("\u221a\\s*([0-9]+(?:\\.[0-9]+)?|[a-zA-Z])")
_CHARACTERS = {
    **{"\u03c0": "\\pi ", "\u221a": "\\sqrt", "\u221e": "\\infty ", "\u00b1": "\\pm ", "\u222a": "\\cup "},
    **{"\u2264": "\\le ", "\u2265": "\\ge ", "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u2208": "\\in "},
}
"""Characters of mathematics as LaTeX has them."""
_RAISED = re.compile("[\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_PLAIN_DIGITS = str.maketrans("\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789")
_TEN = re.compile(
    r"(?:(?<![0-9.])([0-9]+(?:\.[0-9]+)?)\s*(?:\\times|\\cdot|\u00d7|\*)\s*)?"
    r"(?<![0-9.])10\s*\^\s*(?:\{\s*(-?[0-9]{1,3})\s*\}|([0-9]{1,3}))(?![0-9])"
)
_ASSIGNED = re.compile(r"\\?[a-zA-Z]+\s*(?:=|\\in(?![a-zA-Z]))\s*([^=<>]+)")
_UNKNOWN = "[kmnpqt-z]"
_UNSOLVED = re.compile(
    rf"[-+]?(?:(?:[0-9.]+(?:/[0-9]+)?|\\frac\{{[0-9]+\}}\{{[0-9]+\}})\s*{_UNKNOWN}(?:\^\{{?[0-9]+\}}?)?"
    rf"|{_UNKNOWN}(?:\^\{{?[0-9]+\}}?|/[0-9]+)|\\frac\{{{_UNKNOWN}\}}\{{[0-9]+\}}|\\sqrt\{{{_UNKNOWN}\}})\s*=.*"
)
"""An equation that is to be solved for an unknown, of which math-verify takes the right side: `2x = 5`, `x^2 = 5`.

Only letters that unknowns have: of `AB^2 = 52`, `r^2 = 25` and `i^2 = -1` the right side may be what is asked for.
"""
_NAMED = re.compile(
    r"(?<![\\a-zA-Z])(sqrt|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|min|max|gcd|pi|theta|alpha|beta|gamma)(?![a-zA-Z])"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\.")
_LETTERS = re.compile(r"[^\W\d_]+")
_OPERATOR = re.compile(r"[0-9^_+*/=<>|!()\[\]-]")
_CALLED = re.compile(r"\\(sqrt|exp)\s*\(([^()]*)\)")
_TIMES = re.compile(r"((?<![_^0-9.a-zA-Z\\])[0-9.]+)\s*\(")
_MATRIX = re.compile(r"\\(?:begin|end)\{[a-z]+\}")
_MATRIX_OF = re.compile(r"\\begin\{[pb]?matrix\}\s*(.*?)\s*\\end\{[pb]?matrix\}", re.DOTALL)
"""In round or square brackets, which are the same; in straight lines they are determinants and norms."""
_WITH_LETTERS = re.compile(r"-?(?:[0-9][0-9./]*|\\frac\{[0-9]+\}\{[0-9]+\})[a-zA-Z]{1,3}(?:\^\{?[23]\}?)?")
"""A number with letters right behind it, which may be variables: `2x`."""
_COEFFICIENT = re.compile(r"(?<![a-zA-Z0-9])[0-9]+[a-z]{1,5}(?![a-zA-Z])")
"""A number and the variables of its product: `5abcd`."""
_NEVER = re.compile(
    r"(?<![\^_0-9])[0-9]+\s*_|(?<![0-9.])0x[0-9A-F]|[%:;?\"'`#&@\u20ac\u00a3\u00a5$\u00b0]|!!|(?<![_^0-9.])[0-9.]+\s+[0-9]|(?<![_^{a-zA-Z])[a-zA-Z]+\s*[0-9]"
)
"""What math-verify is never asked about: percent, times, money, degrees, two numbers side by side, `x2`."""
_MOST_LETTERS_IN_A_ROW = 3


@dataclass(frozen=True)
class MathTexts:
    """Two expressions in LaTeX that math-verify may compare."""

    answer: str
    reference: str


def decided(answer: str, reference: str, *, units: bool = True) -> bool | MathTexts:
    """Whether two answers are the same, or, where these rules cannot decide, what math-verify is asked.

    `units`: whether a unit behind an expression may be taken off, which is done once.
    """
    reference = as_list(reference)
    if same_answer(answer, reference):
        return True
    given, wanted = alike(*_sides(_plain(answer), _plain(reference)))
    both = given + wanted
    if both.count("=") == 1 and "\\pm" not in both and (_UNSOLVED.fullmatch(given) or _UNSOLVED.fullmatch(wanted)):
        return False
    if same_answer(given, wanted) or is_same_text(given, wanted):
        return True
    fits = max(len(given), len(wanted)) <= _LONGEST
    if units and fits and (measured := without_units(given, wanted)) is not None:
        return measured.same_unit and decided(measured.answer, measured.reference, units=False)
    cells, others = _cells(given), _cells(wanted)
    if cells is not None and others is not None:
        whole = MathTexts(_in_latex(given), _in_latex(wanted))
        fits = max(len(whole.answer), len(whole.reference)) <= _LONGEST
        return _same_cells(cells, others, whole if fits else False)
    found, sought = (None if _is_row(text) else quantity_of(text) for text in (given, wanted))
    if found is not None and sought is not None:
        return False  # numbers and their units are compared by `exact`, which has just said no
    left, right = _expression(given, found), _expression(wanted, sought)
    if not left or not right or _is_ordered(left) != _is_ordered(right):
        return False
    if _is_ordered(left) and _rows_in(left) != _rows_in(right) and "\\cup" not in left + right:
        return False  # [[1], 2] is not [1, 2]
    return MathTexts(left, right)


def as_list(reference: str) -> str:
    """A reference such as `1,2`, a list here and no decimal, with a blank between its numbers."""
    pair = pair_of(_plain(reference))
    return reference if pair is None else ", ".join(pair)


def _cells(text: str) -> list[list[str]] | None:
    """The cells of a matrix in round or square brackets, row by row; None of anything else."""
    found = _MATRIX_OF.fullmatch(text)
    if found is None:
        return None
    return [[cell.strip() for cell in row.split("&")] for row in found[1].removesuffix("\\\\").split("\\\\")]


def _same_cells(cells: list[list[str]], others: list[list[str]], whole: bool | MathTexts) -> bool | MathTexts:
    """As `decided`, of two matrices; where a cell is left open, so is the whole."""
    if [len(row) for row in cells] != [len(row) for row in others]:
        return False
    verdicts = [
        decided(*pair) for row, other in zip(cells, others, strict=True) for pair in zip(row, other, strict=True)
    ]
    return whole if False not in verdicts and not all(one is True for one in verdicts) else False not in verdicts


def last_formula(text: str) -> str | None:
    r"""What the last `\boxed{}` of a text holds, or else its last formula between dollar signs or brackets."""
    if boxed := last_boxed(text):
        return boxed
    found = re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", text, re.DOTALL)
    return next(filter(None, found[-1])).strip() if found else None


def _plain(text: str) -> str:
    """LaTeX without what only sets it, and numbers written as plain text writes them."""
    kept = text.replace("\\{", "\\lbrace ").replace("\\}", "\\rbrace ")  # a set's braces are no markup
    text = without_lead(kept).replace("\\lbrace ", "\\{").replace("\\rbrace", "\\}")
    for pattern in _AROUND * 2:
        found = pattern.fullmatch(text)
        if found is not None:
            text = found[1].strip()
    text = text.removesuffix(".").replace("{,}", ",").replace("\\!", "")
    text = _SPACES.sub(" ", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree", "\u00b0", text)
    text = re.sub(r"\\([%$])", r"\1", text)
    text = _ROOT.sub(lambda found: f"\\sqrt{found[1] or ''}{{{found[2]}}}", text)
    text = _SHORT_FRACTION.sub(lambda found: "\\frac{{{}}}{{{}}}".format(*filter(None, found.groups())), text)
    text = _TEN.sub(_with_exponent, REPEATING.sub(in_full, text))
    text = _TEXT.sub(r" \1 ", text)
    whole = _WHOLE_FRACTION.sub(_slashed, text)
    if quantity_of(whole) is not None and _WITH_LETTERS.fullmatch(whole) is None:
        text = whole
    return " ".join(text.split())


def _slashed(found: re.Match[str]) -> str:
    return f"{found[1] or ''} {found[2]}/{found[3]}" if found[1] else f"{found[2]}/{found[3]}"


def _with_exponent(found: re.Match[str]) -> str:
    r"""`1.5 \times 10^3` as `1.5e3`."""
    return f"{found[1] or 1}e{found[2] or found[3]}"


def _sides(answer: str, reference: str) -> tuple[str, str]:
    r"""`x = 5` as `5`, and `x \in [0, 1]` as `[0, 1]`, where the other side names no variable."""
    given, wanted = _ASSIGNED.fullmatch(answer), _ASSIGNED.fullmatch(reference)
    if given is not None and wanted is None:
        return given[1].strip(), reference
    if wanted is not None and given is None:
        return answer, wanted[1].strip()
    return answer, reference


def _expression(text: str, quantity: Quantity | None) -> str | None:
    """A text as LaTeX that math-verify reads as it is meant; None where it is no expression."""
    if quantity is not None and (not quantity.unit or _WITH_LETTERS.fullmatch(text) is None):
        return None if quantity.unit else _number(quantity.value)
    text = _in_latex(text)
    bare = _COMMAND.sub("\u00b7", _MATRIX.sub(" ", text))
    if not text or len(text) > _LONGEST or _NEVER.search(bare):
        return None
    is_formula = "\\" in text or _OPERATOR.search(bare) is not None
    longest = max(map(len, _LETTERS.findall(_COEFFICIENT.sub(" ", bare))), default=0)
    return text if longest <= (_MOST_LETTERS_IN_A_ROW if is_formula else 1) else None


def _in_latex(text: str) -> str:
    """A text with characters and names of mathematics as LaTeX writes them."""
    text = _NAMED.sub(r"\\\1 ", text).replace("**", "^")
    text = _ROOT_SIGN.sub(r"\\sqrt{\1}", text)
    for character, command in _CHARACTERS.items():
        text = text.replace(character, command)
    text = _RAISED.sub(lambda found: "^{" + found[0].translate(_PLAIN_DIGITS) + "}", text)
    text = _CALLED.sub(lambda found: f"\\{found[1]}{{{found[2]}}}", text)
    text = re.sub(r"\)\s*\(", ")\\\\cdot (", text)
    text = re.sub(r"(?<![0-9./}])([0-9]+)/([0-9]+) (?=[a-z\\\\])", r"\\frac{\1}{\2}", text)
    return _TIMES.sub(r"\1\\cdot (", text)


def _is_row(text: str) -> bool:
    """Whether a text is several values in brackets, of which `(1,2)` could be read as 1.2."""
    return _is_ordered(text) or (text.startswith("\\{") and "," in text)


def _is_ordered(text: str) -> bool:
    """Whether a text is a pair, a longer row, or an interval: math-verify takes (1,2) for the set of 1 and 2."""
    return text[:1] in ("(", "[") and text[-1:] in (")", "]") and "," in text


def _rows_in(text: str) -> int:
    r"""How many square brackets open in a text, but for those of `\sqrt[3]`."""
    return text.count("[") - text.count("\\sqrt[")


def _number(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
