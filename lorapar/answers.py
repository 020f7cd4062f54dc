"""Finding an answer in a model's text and comparing it with the reference: one set of rules for rewards and accuracy.

Where the rules come from:
- the answer stands between `<answer>` tags, as in the paper (Huang et al. 2025, section 4.2) and the GRPO example by
  W. Brown ("grpo_demo.py") that its reward functions follow; like there, the last answer counts;
- the lenient rule, the last number in the text, is `flexible-extract` of EleutherAI's lm-evaluation-harness
  (`lm_eval/tasks/gsm8k/gsm8k.yaml`), which also says what is ignored: thousands commas, `$`, a closing full stop, case;
- a percent sign counts as a unit, so 50% is 50 as in Hendrycks et al.'s MATH comparison (`math_equivalence.py`).

Numbers are compared as fractions, never as floats: 0.1 + 0.2 style surprises and lost digits cannot happen. How a
number is written, and what may stand around it, is said in `lorapar.quantities`; the characters and the markup of any
answer in `lorapar.plain_text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

from lorapar.plain_text import plain_characters, without_lead, without_markup, words_of
from lorapar.quantities import Quantity, last_number, quantity_of, said_number, units_differ

References = str | tuple[str, ...]
"""The short exact answer, or several of which any is right."""

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_LETTER = r"[^\W\d_]"
_CHOICE = re.compile(
    r"(?:(?:the\s+)?(?:(?:correct|right|final)\s+)?(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*)?"
    rf"(?P<open>[(\[{{<]?)(?P<letter>{_LETTER})(?P<close>[)\]}}>]?[.:,]?)(?:(?P<gap>\s+-\s+|\s+)(?P<text>\S.*))?",
    re.IGNORECASE | re.DOTALL,
)
_IS_RIGHT = re.compile(r"is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice|one))?\.?", re.IGNORECASE)
_LIST = re.compile(r"(?P<open>[(\[{])(?P<inner>[^()\[\]{}]*)[)\]}]")
_THOUSANDS = re.compile(r"[-+]?[$\u20ac\u00a3]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_ANOTHER_CHOICE = re.compile(rf"(?<!\w)(?:[(\[]{_LETTER}[)\]]|{_LETTER}[).:](?!\w)|(?-i:[A-Z])(?!\w)\s*$)")
"""A second choice in the text behind the first: `(C)`, `C)`, or a capital letter at the end."""
_LATEX_LETTER = re.compile(
    r"\$?\\(?:text|textbf|textrm|mathrm|mathbf|boldsymbol)\{\s*\(?([A-Za-z])\)?[.:]?\s*\}\$?(?:\\[ ,;]|\\q?quad|~|\s)*"
)
_SAID_CHOICE = re.compile(
    r"(?<![\w'\u2019.+-])[(\[]?(?P<letter>(?<=[(\[])[A-Za-z](?=[)\]])|[A-Z](?![\w'\u2019+-]|\.\w)(?!(?<=[AI])\*{0,2}\s+[a-z]))"
    r"(?P<bracket>\*{0,2}[)\].:]?)"
)
_LED_CHOICE = re.compile(
    r"\b(?:answer|option|choice)(?:\s+(?:is|should\s+be|must\s+be))?\s*[:=]?\s*\*{0,2}(?P<bracket>[(\[]?)\*{0,2}"
    r"(?P<letter>[A-Za-z])(?![\w'\u2019])(?!(?<=[aAI])\s+[a-z])",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not|isn't|never|except|neither|nor)\s+[(\[]?\Z", re.IGNORECASE)
_REFUTED = re.compile(r"[)\].:*]*\s*(?:is\s|are\s)?(?:wrong|incorrect|not|no|false|isn't)\b", re.IGNORECASE)
_JOINED_BEFORE = re.compile(r"(?<![\w'])[A-Z][)\]]?\s*(?:,|/|&|\bor\b|\band\b)\s*[(\[]?\Z")
_JOINED_BEHIND = re.compile(r"[)\]]?\s*(?:/|&|\bor\b|\band\b)\s*[(\[]?[A-Z](?![\w'])")


def extract_tagged(text: str) -> str | None:
    """The text inside the last complete pair of `<answer>` tags, stripped; None where there is no such pair."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else None


def as_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number, with its unit where it has one (`$1,000.00`, `18 apples`)."""
    quantity = quantity_of(text)
    return None if quantity is None else quantity.value


def all_references(reference: References) -> tuple[str, ...]:
    """The references of a row, of which any is right."""
    return (reference,) if isinstance(reference, str) else tuple(reference)


def first_reference(reference: References) -> str:
    """The reference that stands for all of a row."""
    return all_references(reference)[0]


def is_answer(text: str, references: References) -> bool:
    """Whether a text is one of the right answers, by `same_answer`."""
    return any(same_answer(text, reference) for reference in all_references(references))


def same_answer(answer: str, reference: str) -> bool:
    """Whether an answer says what the reference says: the same number, the same letter of a choice, the same words.

    `1,000`, `1 000`, `1000.0` and `$1,000` are one number. A unit may stand on one side only (`18 apples` for `18`),
    and so may a name (`x = 18`); where both have one, they must be the same. For the letter `B`, `(B)`, `B.` and
    `B) blue` are right as well. Words are equal when they differ only in case, white space and closing punctuation.
    Lists, tuples and sets are compared member by member, in their order.
    Markup, words that lead up to the answer and other characters for the same text never count.
    """
    if words_of(answer) == words_of(reference):
        return True
    members = _members(reference)
    if members is not None:
        return (found := _members(answer)) is not None and _same_members(found, members)
    wanted = quantity_of(reference)
    if wanted is not None:
        said = quantity_of(answer)
        return said is not None and _same_quantity(said, wanted)
    letter = _letter_of(reference, alone=True)
    return letter is not None and _letter_of(answer, alone=False) == letter


def is_found_in(text: str, references: References) -> bool:
    """Whether a text has one of the right answers in it, by laxer rules.

    For a number it is the last number in the text (`lorapar.quantities.said_number`), for a letter `last_choice`; for
    words, that they stand in the text as whole words; and whatever `is_answer` says of the whole text, or of an answer
    in tags that ends it.
    """
    said = extract_tagged(text)
    ends_with_it = said is not None and text.rstrip().endswith("</answer>")
    return any(
        same_answer(text, reference)
        or (said is not None and ends_with_it and same_answer(said, reference))
        or _has(text, reference)
        for reference in all_references(references)
    )


def _has(text: str, reference: str) -> bool:
    text = plain_characters(text)
    wanted = quantity_of(reference)
    if wanted is not None and wanted.name_is_sure:
        return _has_quantity(text, wanted)
    letter = _letter_of(reference, alone=True)
    if letter is not None and letter.isascii():
        return last_choice(text) == letter
    shown = letter if letter is not None else without_lead(reference).removesuffix(".")
    words = r"\s+".join(re.escape(word) for word in shown.split())
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def _has_quantity(text: str, wanted: Quantity) -> bool:
    """Whether the last number of a text is the one that is wanted; two units that are known must be the same."""
    whole = quantity_of(text)
    number = said_number(text) if whole is None else None
    said = whole if number is None else quantity_of(number) or quantity_of(last_number(number) or "")
    return said is not None and said.value == wanted.value and not units_differ(said.unit, wanted.unit)


def last_choice(text: str) -> str | None:
    """The letter of the choice that a text ends up with, in small letters; None where it names none, or two at once.

    It is what follows `the answer is`; else a letter that the text begins with, as in `B) blue`; else the last letter
    in brackets or capital by itself. `A` and `I` before a word in small letters are words, and what `not` stands
    before is not chosen.
    """
    text = _dressed_letters(text)
    led = list(_LED_CHOICE.finditer(text))
    said = _SAID_CHOICE.finditer(text)
    found = led or [
        one for one in said if not (_DENIED.search(text[: one.start()]) or _REFUTED.match(text[one.end() :]))
    ]
    if not found:
        return None
    begins = not led and not text[: found[0].start()].strip(" *")
    chosen = found[0] if begins and found[0]["bracket"] else found[-1]
    if _JOINED_BEFORE.search(text[: chosen.start("letter")]) or _JOINED_BEHIND.match(text[chosen.end("letter") :]):
        return None
    return chosen["letter"].casefold()


def _dressed_letters(text: str) -> str:
    """`\\textbf{(B)}\\ 5` as `(B) 5`."""
    return _LATEX_LETTER.sub(r"(\1) ", text)


def _same_quantity(said: Quantity, wanted: Quantity) -> bool:
    if said.value != wanted.value:
        return False
    if wanted.name and said.name != wanted.name and (said.name or not wanted.name_is_sure):
        return False  # "y = 5" is not "x = 5", and "13" is not "Apollo: 13"
    if wanted.unit and not said.unit:
        return wanted.unit_is_sure  # "12" is not "12 Monkeys", and not "12 May"
    return not wanted.unit or said.unit == wanted.unit


def _members(text: str) -> tuple[str, list[str]] | None:
    """The brackets of a list, a tuple or a set, and what stands in it; None where a text is none of two members."""
    match = _LIST.fullmatch(without_lead(text))
    inner = match["inner"].strip() if match is not None else ""
    if match is None or _THOUSANDS.fullmatch(inner):
        return None
    members = [one.strip() for one in (inner.split(";") if ";" in inner else inner.split(","))]
    return (match["open"], members) if len(members) > 1 and all(members) else None


def _same_members(said: tuple[str, list[str]], wanted: tuple[str, list[str]]) -> bool:
    """Brackets and order count: `(1, 2)` is no list `[1, 2]`, and no `(2, 1)`."""
    pairs = zip(said[1], wanted[1], strict=False)
    return said[0] == wanted[0] and len(said[1]) == len(wanted[1]) and all(same_answer(*pair) for pair in pairs)


def _letter_of(text: str, *, alone: bool) -> str | None:
    """The letter of a choice, in lower case; None where the text is none, or names a second one.

    `alone`: text behind the letter needs a bracket before it, so that `E. coli` is no choice.
    """
    text = _dressed_letters(text)
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
    if not marked or _ANOTHER_CHOICE.search(behind):
        return None
    return match["letter"].casefold()


def distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts in their order, each once, empty ones left out."""
    return tuple(dict.fromkeys(text for text in texts if text))
