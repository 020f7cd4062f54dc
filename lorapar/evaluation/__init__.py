"""Held-out scores: greedy answers and losses of the base and of tuned adapters, what of a change is not noise, and the
gate that judges it.

Importable without torch: what needs it is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorapar.evaluation.accuracy import Outcomes, lenient_match, read_outcomes, strict_match
from lorapar.evaluation.answer_journal import AnsweredBatch, AnswerJournal
from lorapar.evaluation.gate import Comparison, Guard, Judged, judge
from lorapar.evaluation.intervals import PairedChange, mcnemar_exact, paired_change, wilson_interval
from lorapar.evaluation.summary import all_changes, benchmark_metrics, flat_metrics, model_metrics, score_metrics

if TYPE_CHECKING:
    from lorapar.evaluation.answers import Answerer, Asking, Batch, HeldoutRow, plan_batches
    from lorapar.evaluation.compare import answer_all
    from lorapar.evaluation.generate import batches_by_length, generate_greedy
    from lorapar.evaluation.transformers_engine import TransformersEngine, TransformersModel, with_adapter

_NEED_TORCH = {
    "answers": ("Answerer", "Asking", "Batch", "HeldoutRow", "plan_batches"),
    "compare": ("answer_all",),
    "transformers_engine": ("TransformersEngine", "TransformersModel", "with_adapter"),
    "generate": ("batches_by_length", "generate_greedy"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NEED_TORCH.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AnswerJournal",
    "AnsweredBatch",
    "Answerer",
    "Asking",
    "Batch",
    "Comparison",
    "Guard",
    "HeldoutRow",
    "Judged",
    "Outcomes",
    "PairedChange",
    "TransformersEngine",
    "TransformersModel",
    "all_changes",
    "answer_all",
    "batches_by_length",
    "benchmark_metrics",
    "flat_metrics",
    "generate_greedy",
    "judge",
    "lenient_match",
    "mcnemar_exact",
    "model_metrics",
    "paired_change",
    "plan_batches",
    "read_outcomes",
    "score_metrics",
    "strict_match",
    "wilson_interval",
    "with_adapter",
]
