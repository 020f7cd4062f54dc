"""What lm-eval says of a task by name, row by row and as a whole, read as answers and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lorapar.basemodel import answer_end
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks.named import ROLLING, NamedTask
from lorapar.evaluation.benchmarks.scoring import likeliest
from lorapar.records import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sample = Mapping[str, Any]


def judged_samples(benchmark: NamedTask, samples: Sequence[Sample]) -> list[Sample]:
    """One sample a row: lm-eval logs a row once for each filter that answers pass."""
    chosen = benchmark.metric[1] if benchmark.metric else str(samples[0]["filter"])
    return [one for one in samples if one["filter"] == chosen]


def read_sample(model: str, benchmark: NamedTask, sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Answer:
    """A row's answer with its verdict: by the metric that says whether a row is right, None where there is none.

    The text is what was written or, where choices are compared, the likeliest; of a likelihood there is none.
    """
    responses = [responses[0] for responses in sample["resps"]]
    row = benchmark.ids[sample["doc_id"]]
    text, tokens = "", 0
    if benchmark.writes:
        text = answer_end(tokenizer).cut(str(responses[0]))
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        tokens = min(benchmark.longest_answer, length)  # broken characters can take more than were generated
    else:
        _check_finite(model, benchmark, row, responses)
        if benchmark.kind == "multiple_choice":
            choices = benchmark.task.doc_to_choice(sample["doc"])
            text = str(choices[likeliest(responses[: len(choices)])])
    verdict = _verdict(sample, benchmark)
    return Answer(
        example_id=row,
        benchmark=benchmark.name,
        model=model,
        text=text,
        tokens=tokens,
        strict=verdict,
        lenient=verdict,
        cut_off=(benchmark.writes and tokens >= benchmark.longest_answer) or None,
    )


def scores(benchmark: NamedTask, results: Mapping[str, Any]) -> dict[str, Any]:
    """Version and figures of the whole task; a standard error is the text N/A where there is one row or no formula."""
    found = {
        str(name): _figure(value)
        for name, value in results["results"][benchmark.name].items()
        if "," in str(name) and _figure(value) is not None
    }
    first = next((name for name in found if "_stderr," not in name), None)
    chosen = ",".join(benchmark.metric) if benchmark.metric else first
    name, _, filtered = (chosen or "").partition(",")
    return {
        "version": str(results["versions"].get(benchmark.name, "")),
        "metric": chosen,
        "score": found.get(chosen or ""),
        "stderr": found.get(f"{name}_stderr,{filtered}", "N/A"),
        "scores": found,
    }


def _figure(value: Any) -> float | str | None:
    if value == "N/A":
        return "N/A"
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    return float(value) if math.isfinite(float(value)) else None


def _check_finite(model: str, benchmark: NamedTask, row: str, responses: Sequence[Any]) -> None:
    likelihoods = [one if benchmark.kind == ROLLING else one[0] for one in responses]
    if not all(math.isfinite(one) for one in likelihoods):
        raise BadInputError(f"{model}: {benchmark.name} row {row}: a likelihood is not finite")


def _verdict(sample: Sample, benchmark: NamedTask) -> bool | None:
    if benchmark.metric is None:
        return None
    value = sample.get(benchmark.metric[0])
    if value is None or not hasattr(value, "__float__") or float(value) not in (0.0, 1.0):
        return None
    return bool(float(value))
