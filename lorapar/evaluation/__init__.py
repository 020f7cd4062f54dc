"""Held-out scores: greedy answers and losses of the base and of tuned adapters, and what of a change is not noise."""

from lorapar.evaluation.accuracy import lenient_match, strict_match
from lorapar.evaluation.intervals import PairedChange, mcnemar_exact, paired_change, wilson_interval

__all__ = ["PairedChange", "lenient_match", "mcnemar_exact", "paired_change", "strict_match", "wilson_interval"]
