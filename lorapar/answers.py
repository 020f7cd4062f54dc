"""Finding an answer in a model's text and comparing it with the reference: one set of rules for rewards and accuracy.

Where the rules come from:
- the answer stands between `<answer>` tags, as in the paper (Huang et al. 2025, section 4.2) and the GRPO example by
  W. Brown ("grpo_demo.py") that its reward functions follow; like there, the last answer counts;
- the lenient rule, the last number in the text, is `flexible-extract` of EleutherAI's lm-evaluation-harness
  (`lm_eval/tasks/gsm8k/gsm8k.yaml`), which also says what is ignored: thousands commas, `$`, a closing full stop, case;
- a percent sign is dropped as in Hendrycks et al.'s MATH comparison (`math_equivalence.py`).

Numbers are compared as decimal numbers, never as floats: 0.1 + 0.2 style surprises and lost digits cannot happen.
"""

from __future__ import annotations

import re
from decimal import Decimal

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
# Digits with or without thousands commas; an exponent of at most three digits keeps comparing cheap.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?|\.[0-9]+"
_MINUS = "\u2212"  # the typographic minus sign
_SIGN = rf"[-+{_MINUS}]"
# Between two numbers a sign is a step of a calculation (7-2), anywhere else it belongs to the number (=-2).
_NUMBER_IN_TEXT = re.compile(rf"(?:(?<![0-9A-Za-z)]){_SIGN})?[$€£]?(?:{_DIGITS})")
_ONE_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN}?)\s*(?:[$€£]\s*(?P<inner_sign>{_SIGN}?))?(?P<digits>{_DIGITS})\s*[%$€£]?\.?"
)


def extract_tagged(text: str) -> str | None:
    """The text inside the last complete pair of `<answer>` tags, stripped; None where there is no such pair."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else None


def last_number(text: str) -> str | None:
    """The last number in the text as it is written there (`$1,000`, `-2`, `3.5`); None where there is none."""
    found = _NUMBER_IN_TEXT.findall(text)
    return found[-1] if found else None


def as_number(text: str) -> Decimal | None:
    """The exact value of a text that is one number and nothing else, such as `$1,000.00` or `50%`; None otherwise."""
    match = _ONE_NUMBER.fullmatch(text.strip())
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    sign = match["sign"] or match["inner_sign"] or ""
    return Decimal(sign.replace(_MINUS, "-") + match["digits"].replace(",", ""))


def same_answer(a: str, b: str) -> bool:
    """Whether two answers are equal: as numbers where both are numbers, else as words.

    `1,000`, `1000`, `1000.0` and `$1,000` are one number. Words are equal when they differ only in case, white space
    and a closing full stop. A number never equals words: `5 apples` is not `5`.
    """
    first, second = as_number(a), as_number(b)
    if first is not None and second is not None:
        return first == second
    return first is None and second is None and _words(a) == _words(b)


def _words(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").casefold()
