"""SQuAD's exact match and F1, which tasks of lm-eval import from a module that transformers 5 no longer has.

CoQA, ReCoRD, SCROLLS, XQuAD and others call `transformers.data.metrics.squad_metrics`. The rules are those of SQuAD's
evaluation script: small letters, no punctuation, no articles, one blank between words.
"""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from importlib.util import find_spec
from types import ModuleType

_PACKAGE = "transformers.data.metrics"
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(s: str) -> str:
    """An answer as it is compared."""
    return " ".join(_ARTICLES.sub(" ", s.lower().translate(_NO_PUNCTUATION)).split())


def get_tokens(s: str) -> list[str]:
    """The words that are compared."""
    return normalize_answer(s).split()


def compute_exact(a_gold: str, a_pred: str) -> int:
    """1 where both are the same answer."""
    return int(normalize_answer(a_gold) == normalize_answer(a_pred))


def compute_f1(a_gold: str, a_pred: str) -> float:
    """F1 of the words of both; where one has none, whether the other has none either."""
    gold, predicted = get_tokens(a_gold), get_tokens(a_pred)
    if not gold or not predicted:
        return float(gold == predicted)
    same = sum((Counter(gold) & Counter(predicted)).values())
    return 2 * same / (len(gold) + len(predicted))


def provide() -> None:
    """Let tasks import these where they look for them; nothing where transformers has the module itself."""
    if _PACKAGE in sys.modules or find_spec(_PACKAGE) is not None:
        return
    package = ModuleType(_PACKAGE)
    package.squad_metrics = sys.modules[__name__]  # type: ignore[attr-defined]
    sys.modules[_PACKAGE] = package
    sys.modules[f"{_PACKAGE}.squad_metrics"] = sys.modules[__name__]
