"""What judges and reward models say about held-out answers: measures of an evaluation, beside comparing texts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lorapar.config import EvaluateConfig, MeasureConfig
from lorapar.errors import BadInputError
from lorapar.progress import Progress, log_omissions
from lorapar.records import Answer, Example, Omission, System

if TYPE_CHECKING:
    from lorapar.evaluation.benchmarks.ask import Asked
    from lorapar.training.reward_tools import RewardTools
    from lorapar.training.rewards import Reward

Rows = Sequence[tuple[Example, System]]
SETTING = "evaluate.judges"


def require_rows(judges: Mapping[str, MeasureConfig], rows: Rows) -> None:
    """Raise BadInputError for a judge with nothing to read, before any model is asked."""
    for name, measure in judges.items():
        if not any(system in measure.systems for _, system in rows):
            systems = " and ".join(measure.systems)
            raise BadInputError(
                f"{SETTING}: {name} reads held-out rows of {systems}, and there is none; change systems"
            )


def judge_answers(
    config: EvaluateConfig,
    rows: Rows,
    answers: Mapping[str, Sequence[Answer]],
    tools: RewardTools,
    dtype: str,
    progress: Progress,
) -> list[Asked]:
    """Of every model and judge: its answers with the judge's verdict, and the mean of its values.

    A row that a judge does not judge for one model counts for none. Raises as the judges do.
    """
    from lorapar.training.reward_tools import opened_judges

    found = []
    rewards = {name: measure.as_reward for name, measure in config.judges.items()}
    with opened_judges(rewards, tools, dtype, progress) as judges:
        for name, measure in config.judges.items():
            found += _of_judge(measure, judges[name], rows, answers, progress)
    return found


def _of_judge(
    measure: MeasureConfig,
    judge: Reward,
    rows: Rows,
    answers: Mapping[str, Sequence[Answer]],
    progress: Progress,
) -> list[Asked]:
    examples = {row.id: row for row, system in rows if system in measure.systems}
    read = {model: [one for one in own if one.system in measure.systems] for model, own in answers.items()}
    values: dict[str, dict[str, float | None]] = {}
    seconds, recalled = {}, {}
    for model, own in read.items():
        progress.start(f"{judge.name} reads {model}", total=len(own))
        known, began = getattr(judge.function, "recalled", 0), time.monotonic()
        verdicts = _values(judge, own, examples)
        seconds[model], recalled[model] = time.monotonic() - began, getattr(judge.function, "recalled", 0) - known
        values[model] = {one.example_id: value for one, value in zip(own, verdicts, strict=True)}
        progress.advance(len(own))
    silent = {row for own in values.values() for row, value in own.items() if value is None}
    omissions = _omissions(judge, len(silent), len(examples))
    log_omissions(progress, omissions)
    from lorapar.evaluation.benchmarks.ask import Asked

    return [
        Asked(
            model,
            judge.name,
            tuple(
                _verdict(one, judge.name, None if one.example_id in silent else values[model][one.example_id], measure)
                for one in own
            ),
            seconds[model],
            recalled[model],
            _about([value for row, value in values[model].items() if value is not None and row not in silent]),
            omissions if place == 0 else (),
        )
        for place, (model, own) in enumerate(read.items())
    ]


def _values(judge: Reward, answers: Sequence[Answer], examples: Mapping[str, Example]) -> list[float | None]:
    from lorapar.training.columns import Columns

    of = [examples[one.example_id] for one in answers]
    columns = Columns(
        questions=[row.asked for row in of],
        answers=[row.answer for row in of],
        prompts=[None] * len(of),
        completion_ids=[()] * len(of),
    )
    return judge([one.text for one in answers], [()] * len(of), columns)


def _verdict(answer: Answer, name: str, value: float | None, measure: MeasureConfig) -> Answer:
    right = None if value is None else value >= measure.threshold
    return answer.model_copy(
        update={"system": None, "benchmark": name, "strict": right, "lenient": right, "loss": None}
    )


def _about(values: Sequence[float]) -> dict[str, Any]:
    """The mean value with its standard error, a text where one row has none; as benchmarks have their scores."""
    if not values:
        return {}
    error: float | str = "N/A"
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
    score = statistics.fmean(values)
    scores = {"reward,none": score, "reward_stderr,none": error}
    return {"metric": "reward,none", "score": score, "stderr": error, "scores": scores}


def _omissions(judge: Reward, silent: int, rows: int) -> tuple[Omission, ...]:
    cut = getattr(judge.function, "cut", None)
    no_say = Omission(
        count=silent,
        total=rows,
        what=f"held-out rows are not counted in {judge.name}",
        why="it gave no verdict on some model's answer, so the row counts for none",
        remedy=f"lower {SETTING}.{judge.name}.judge.min_confidence, or see what its endpoint refuses",
    )
    return (no_say, *([cut()] if cut is not None else []))
