"""Ways of comparing an answer with its reference: the setting `answers`, the same for rewards, accuracy and benchmarks.

- `exact` (`lorapar.answers`): one number, one letter of a choice, or the same words;
- `math`: that first, then lorapar's rules for LaTeX, and math-verify for expressions, in separate processes;
- `text`: the same text once it is normalised, and nothing is read as a number.
"""

from lorapar.comparing.rules import EXACT, AnswerRule, answer_rule

__all__ = ["EXACT", "AnswerRule", "answer_rule"]
