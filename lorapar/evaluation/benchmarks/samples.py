"""What lm-eval says of a task by name, row by row and as a whole, read as answers and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lorapar.basemodel import answer_end
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks.groups import NamedGroup, parts, row_name
from lorapar.evaluation.benchmarks.known_texts import ROLLING
from lorapar.evaluation.benchmarks.named import NamedTask
from lorapar.evaluation.benchmarks.scoring import likeliest
from lorapar.records import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sample = Mapping[str, Any]


def read_samples(
    model: str,
    benchmark: NamedTask | NamedGroup,
    samples: Mapping[str, Sequence[Sample]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Answer]:
    """Every row's answer; those of a group go by their task and the row's name in it."""
    found = []
    for task in parts(benchmark):
        read = [read_sample(model, task, one, tokenizer) for one in _judged_samples(task, samples[task.name])]
        if isinstance(benchmark, NamedGroup):
            names = {"benchmark": benchmark.name}
            read = [one.model_copy(update={**names, "example_id": row_name(task, one.example_id)}) for one in read]
        found += read
    return found


def _judged_samples(task: NamedTask, samples: Sequence[Sample]) -> list[Sample]:
    """One sample a row: lm-eval logs a row once for each filter that answers pass."""
    chosen = task.metric[1] if task.metric else str(samples[0]["filter"])
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


def scores(task: NamedTask, results: Mapping[str, Any]) -> dict[str, Any]:
    """Version and metrics of the whole task; a standard error is the text N/A where there is one row or no formula."""
    found = _metrics(results["results"][task.name])
    first = next((name for name in found if "_stderr," not in name), None)
    return _of_metric(task.name, ",".join(task.metric) if task.metric else first, found, results)


def group_scores(group: NamedGroup, results: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a group, with `tasks`: by task its metrics, and `rows`; by group within it those that lm-eval makes.

    A tag, and a group that puts nothing together, has no score.
    """
    found = _metrics(results["results"].get(group.name, {}))
    first = next((name for name in found if "_stderr," not in name), None)
    chosen = ",".join(group.metric) if group.metric else None
    about = _of_metric(group.name, chosen if chosen in found else first, found, results)
    within = {one.name: _metrics(results["results"].get(one.name, {})) for one in group.group.get_all_groups()}
    tasks = {one.name: {"rows": len(one.asked), **scores(one, results)} for one in group.tasks}
    return {**about, "tasks": tasks, "groups": {name: metrics for name, metrics in within.items() if metrics}}


def _metrics(values: Mapping[str, Any]) -> dict[str, float | str]:
    found = {str(name): _metric(value) for name, value in values.items() if "," in str(name)}
    return {name: value for name, value in found.items() if value is not None}


def _of_metric(
    name: str, chosen: str | None, found: Mapping[str, float | str], results: Mapping[str, Any]
) -> dict[str, Any]:
    metric, _, filtered = (chosen or "").partition(",")
    version = results["versions"].get(name, "")
    return {
        "version": "" if version == "N/A" else str(version),
        "metric": chosen,
        "score": found.get(chosen or ""),
        "stderr": found.get(f"{metric}_stderr,{filtered}", "N/A"),
        "scores": dict(found),
    }


def _metric(value: Any) -> float | str | None:
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
