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
from functools import lru_cache
from typing import NamedTuple

from lorapar.plain_text import has_unspaced, plain_characters, set_apart, without_lead, words_of
from lorapar.quantities import Quantity, last_number, last_stated_number, quantity_of
from lorapar.reading.boxes import last_boxed
from lorapar.reading.choices import last_choice, letter_of
from lorapar.reading.moments import moment_of
from lorapar.reading.number_words import ordinal_of
from lorapar.reading.units import same_unit, units_differ
from lorapar.reading.unspaced import is_all_of_it

References = str | tuple[str, ...]
"""The short exact answer, or several of which any is right."""

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_LIST = re.compile(r"\\?(?P<open>[(\[{])(?P<inner>.*?)\\?(?P<close>[)\]}])", re.DOTALL)
_BLANKS = re.compile(r"\s{3,}")
"""What a policy that has collapsed writes by the thousand, and several rules would look through again and again."""
_MARK = re.compile(r"\s*([,;:()\[\]{}])\s*")
_BETWEEN_MEMBERS = re.compile(r";|,\s|\sand\s|(?<=[0-9]),(?=-?[0-9]|[^\W\d_]\w*\s*=)|(?<=[A-Z]),(?=[A-Z])")
_PAIR = re.compile(r"([-+]?[0-9]+),([1-9][0-9]?|0)")
_COMMA_OR_AND = re.compile(r"(?:\s*,)?\s+and\s+|\s*,\s+|,(?!\d{3}(?!\d))")
_AND = re.compile(r"(?:\s*,)?\s+and\s+")
_LONGEST_LIST = 200
_RATIO = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:\s?:\s?[0-9]+(?:\.[0-9]+)?)+")
_NO_NUMBER_BEFORE = r"(?<![0-9][,;])(?<![0-9][,;]\s)"
_NO_NUMBER_BEHIND = r"(?![,;]\s?[0-9])"
_FIRST_LETTERS = {"y": "yes", "n": "no", "t": "true", "f": "false"}
_THOUSANDS = re.compile(r"[-+]?[$\u20ac\u00a3]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")


class _Members(NamedTuple):
    """What is in a list, and the brackets around it, empty where there are none."""

    opens: str
    closes: str
    texts: list[str]


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

    `1,000`, `1 000`, `1000.0` and `$1,000` are one number, `twelve` is 12. A unit may be on one side only (`18
    apples` for `18`), and so may a name (`x = 18`); where both have one, they must be the same. For the letter `B`,
    `(B)`, `B.` and `B) blue` are right as well. Words are equal when they differ only in case, white space and closing
    punctuation. Lists, tuples and intervals are compared member by member, in their order, and sets in any. Times of
    day, dates, ratios and ordinal numbers are compared as such.
    Markup, words that lead up to the answer and other characters for the same text never count.
    """
    if _compact(words_of(answer)) == _compact(words_of(reference)):
        return _same_case_of_unit(answer, reference)
    members = _members(reference)
    if members is not None:
        return (found := _members(answer)) is not None and _same_members(found, members)
    wanted = quantity_of(reference)
    if wanted is not None:
        given = quantity_of(answer)
        if given is None and (pair := pair_of(reference)) is not None:
            found = _members(answer) or _bare_members(answer)
            return found is not None and _same_members(found, _Members("", "", list(pair)))
        return given is not None and _same_quantity(given, wanted)
    numbers = _bare_members(reference)
    if numbers is not None:
        return (found := _members(answer) or _bare_members(answer)) is not None and _same_members(found, numbers)
    letter = letter_of(reference, alone=True)
    if letter is not None:
        return letter_of(answer, alone=False) == letter
    return _same_otherwise(*(without_lead(text).removesuffix(".") for text in (answer, reference)))


def is_several(reference: str) -> bool:
    """Whether a reference is a list, a pair, a set or an interval, or several values side by side: `(1, 2)`, `1, 2`."""
    if _members(reference) is not None or pair_of(reference) is not None:
        return True
    return quantity_of(reference) is None and _bare_members(reference) is not None


def pair_of(text: str) -> tuple[str, str] | None:
    """The numbers of `1,2`, which is a list of two or has a decimal comma; None of any other text."""
    found = _PAIR.fullmatch(without_lead(text))
    return None if found is None else (found[1], found[2])


def _same_otherwise(answer: str, reference: str) -> bool:
    """Whether two texts are one ordinal number, time, date or ratio, or `y` stands for `yes`."""
    if len(answer) == 1:
        return _FIRST_LETTERS.get(answer.casefold()) == reference.casefold()
    wanted: object
    for read in (ordinal_of, moment_of, _ratio_of):
        if (wanted := read(reference)) is not None:
            return read(answer) == wanted
    return False


def _ratio_of(text: str) -> tuple[Fraction, ...] | None:
    """The parts of `3 : 5`; None where a text is no ratio."""
    return tuple(map(Fraction, text.split(":"))) if _RATIO.fullmatch(text) else None


def is_found_in(text: str, references: References) -> bool:
    """Whether a text has one of the right answers in it, by laxer rules.

    For a number it is the last number in the text (`lorapar.quantities.last_stated_number`), for a letter
    `last_choice`; for words, that they are in the text as whole words; and whatever `is_answer` says of the whole text,
    or of an answer in tags that ends it.
    """
    text = _BLANKS.sub(lambda found: "\n" if "\n" in found[0] else " ", text)
    given = extract_tagged(text) if text.rstrip().endswith("</answer>") else None
    boxes = last_boxed(text) if text.count("boxed") > 1 else ""
    whole = [one for one in (text, given, boxes if ", " in boxes else None) if one is not None]
    return any(
        any(same_answer(one, reference) for one in whole) or _has(text, reference)
        for reference in all_references(references)
    )


def _has(text: str, reference: str) -> bool:
    text = plain_characters(text.replace("\u3001", "\u6216"))  # what is listed is not named
    wanted = quantity_of(reference)
    apart = set_apart(text)
    found = _has_quantity(apart, wanted) if wanted is not None and wanted.name_is_sure else None
    if found or (found is not None and wanted is not None and not wanted.in_words):
        return found
    letter = letter_of(reference, alone=True)
    if letter is not None and letter.isascii():
        return last_choice(apart) == letter
    shown = letter if letter is not None else without_lead(reference).removesuffix(".")
    if not shown:
        return False
    found_words = _as_whole_words(shown).finditer(text)
    if has_unspaced(shown):
        return any(map(is_all_of_it, found_words))
    return next(found_words, None) is not None


@lru_cache(maxsize=1024)
def _as_whole_words(shown: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in shown.split())
    before, behind = ("", "") if has_unspaced(shown) else (r"(?<!\w)", r"(?!\w)")
    return re.compile(f"{before}{_NO_NUMBER_BEFORE}{words}{behind}{_NO_NUMBER_BEHIND}", re.IGNORECASE)


def _has_quantity(text: str, wanted: Quantity) -> bool:
    """Whether the last number of a text is the one that is wanted; two units that are known must be the same."""
    whole = quantity_of(text)
    number = last_stated_number(text) if whole is None else None
    given = whole if number is None else quantity_of(number) or quantity_of(last_number(number) or "")
    if given is None or given.value != wanted.value or _is_algebra_beside(given, wanted):
        return False
    return not units_differ(given.unit, wanted.unit)


def _is_algebra_beside(given: Quantity, wanted: Quantity) -> bool:
    """Whether one of two has letters that may be variables, and the other no unit that says what they are."""
    return (given.may_be_algebra and not wanted.unit) or (wanted.may_be_algebra and not given.unit)


def _same_quantity(given: Quantity, wanted: Quantity) -> bool:
    if given.value != wanted.value or _is_algebra_beside(given, wanted):
        return False
    if wanted.name and given.name != wanted.name and (given.name or not wanted.name_is_sure):
        return False  # "y = 5" is not "x = 5", and "13" is not "Apollo: 13"
    if wanted.unit and not given.unit:
        return wanted.unit_is_sure  # "12" is not "12 Monkeys", and not "12 May"
    return not wanted.unit or same_unit(given.unit, wanted.unit)


def _same_case_of_unit(answer: str, reference: str) -> bool:
    """Whether equal words are one quantity, too: `5 MW` are no `5 mW`."""
    given, wanted = quantity_of(answer), quantity_of(reference)
    return given is None or wanted is None or given.unit == wanted.unit


def _compact(words: str) -> str:
    """Words without white space beside marks and brackets; `1, 234` stays what it is, since `1,234` is one number."""

    def closed_up(mark: re.Match[str]) -> str:
        beside = words[mark.start() - 1 : mark.start()] + words[mark.end() : mark.end() + 1]
        return mark[0] if beside.isdigit() and len(beside) > 1 else mark[1]

    return _MARK.sub(closed_up, words)


def _members(text: str) -> _Members | None:
    """The members of a list, a tuple, a set or an interval; None where a text is none of two members."""
    match = _LIST.fullmatch(without_lead(text))
    inner = match["inner"].strip() if match is not None else ""
    if match is None or _THOUSANDS.fullmatch(inner):
        return None
    members = _split(inner, ";") if ";" in inner else _split(inner, ",")
    return _Members(match["open"], match["close"], members) if len(members) > 1 and all(members) else None


def _split(text: str, mark: str) -> list[str]:
    """The parts between marks that stand in no brackets; none where brackets are not closed."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return []
        if character == mark and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [] if depth else [one.strip() for one in parts]


def _bare_members(text: str) -> _Members | None:
    """The members of `1, 2`, `1; 2`, `1 and 2`, `(1, 2), (3, 4)` or `A, C`, all of one kind; None of anything else."""
    text = without_lead(text)
    if len(text) > _LONGEST_LIST:
        return None
    lists = _split(_AND.sub(",", text), ",") if text.endswith((")", "]", "}")) else []
    if len(lists) > 1 and all(map(_members, lists)):
        return _Members("", "", lists)
    if not (found := _BETWEEN_MEMBERS.search(text)):
        return None
    members = text.split(";") if found[0] == ";" else _COMMA_OR_AND.split(text)
    members = [one.strip() for one in members]
    for is_one in (quantity_of, _choice_of):
        if all(is_one(one) is not None for one in members):
            return _Members("", "", members)
    return None


def _choice_of(text: str) -> str | None:
    """A capital letter by itself, also in brackets; None of any other text."""
    return letter_of(text, alone=True) if re.fullmatch(r"[(\[]?[A-Z][)\].]?", text) else None


def _same_members(given: _Members, wanted: _Members) -> bool:
    """Brackets and order count: `(1, 2)` is no list `[1, 2]`, and no `(2, 1)`; only a set has no order."""
    if len(given.texts) != len(wanted.texts):
        return False
    if wanted.opens and (given.opens, given.closes) != (wanted.opens, wanted.closes):
        return False
    if wanted.opens and [one[0] in "[{" for one in given.texts] != [one[0] in "[{" for one in wanted.texts]:
        return False  # [[1], 2] is not [1, 2]
    if wanted.opens != "{":
        return all(map(same_answer, given.texts, wanted.texts))
    left = list(given.texts)
    for one in wanted.texts:
        found = next((place for place, text in enumerate(left) if same_answer(text, one)), None)
        if found is None:
            return False
        del left[found]
    return True


def distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts in their order, each once, empty ones left out."""
    return tuple(dict.fromkeys(text for text in texts if text))
