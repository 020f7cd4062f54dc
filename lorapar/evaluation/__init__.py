"""Held-out scores: greedy answers and losses of the base and of tuned adapters, and what of a change is not noise."""

from lorapar.evaluation.accuracy import lenient_match, strict_match
from lorapar.evaluation.answers import Answerer, Asking, Batch, HeldoutRow, plan_batches, with_adapter
from lorapar.evaluation.book import AnswerBook, AnsweredBatch
from lorapar.evaluation.compare import answer_all
from lorapar.evaluation.generate import batches_by_length, generate_greedy, stop_tokens
from lorapar.evaluation.intervals import PairedChange, mcnemar_exact, paired_change, wilson_interval
from lorapar.evaluation.summary import all_changes, flat_metrics, model_figures

__all__ = [
    "AnswerBook",
    "AnsweredBatch",
    "Answerer",
    "Asking",
    "Batch",
    "HeldoutRow",
    "PairedChange",
    "all_changes",
    "answer_all",
    "batches_by_length",
    "flat_metrics",
    "generate_greedy",
    "lenient_match",
    "mcnemar_exact",
    "model_figures",
    "paired_change",
    "plan_batches",
    "stop_tokens",
    "strict_match",
    "wilson_interval",
    "with_adapter",
]
