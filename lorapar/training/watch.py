"""Watching a training run: its history, its progress, the adapter of the last good step, and what RL shows besides.

RL writes rollouts.jsonl, one JSON object a completion that was kept, and looks for signs that it has stopped learning:

step, id, question        the step that learns from it, and its row
completion, tokens        the text (its first 4,000 characters) and its length
cut_off                   whether it had not ended at rl.max_completion_length
reward, rewards           the weighted sum, and each reward by name before weighing; null where it gave no value
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback

from lorapar.adapter import adapter_parameters, save_adapter, snapshot
from lorapar.config import RlConfig
from lorapar.errors import TrainingError
from lorapar.progress import Progress
from lorapar.training.rows import WARM_UP

Metrics = dict[str, float]


class LastGood:
    """A copy on the CPU of the adapter that last gave a finite loss and finite gradients."""

    def __init__(self, model: PeftModel) -> None:
        """Of a model that has not been trained yet."""
        self._model = model
        self._parameters = adapter_parameters(model)
        self._tensors = snapshot(model)
        self.steps: int | None = None
        """Optimiser steps that had been made when the copy was taken; None before the first good loss."""

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The copy, by PEFT state-dict name."""
        return self._tensors

    @torch.no_grad()
    def keep(self, steps: int) -> None:
        """Copy the adapter as it is now."""
        for name, parameter in self._parameters.items():
            self._tensors[name].copy_(parameter)
        self.steps = steps

    def save(self, folder: Path) -> None:
        """Write the copy as a PEFT folder. The model holds it afterwards, on the CPU, and cannot be trained on."""
        for name, parameter in self._parameters.items():
            # Rebound, not copied: after some errors on a GPU nothing can be written there any more.
            parameter.data = self._tensors[name]
        save_adapter(self._model, folder)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Writes a line of history and moves the progress on for every optimiser step."""

    def __init__(
        self,
        title: str,
        history: Path,
        progress: Progress,
        last_good: LastGood,
        metrics: Callable[[Mapping[str, float]], Metrics],
        after_step: Callable[[list[Metrics]], None] = lambda steps: None,
    ) -> None:
        """Watch one run.

        Args:
            title: what the run is called on the screen.
            history: file that gets one JSON object a step, flushed at once.
            progress: told of every step.
            last_good: renewed before every optimiser step.
            metrics: picks the metrics of a step, beside those all runs have, from what the trainer logs.
            after_step: shown the metrics of all steps so far after each.
        """
        self.steps: list[Metrics] = []
        self.last_good = last_good
        self._title, self._history, self._progress, self._metrics = title, history, progress, metrics
        self._after_step = after_step
        self._seconds_before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent training, by earlier calls that were stopped too."""
        return self._seconds_before + (0.0 if self._started is None else time.monotonic() - self._started)

    def resume(self, steps: list[Metrics], seconds: float) -> None:
        """Go on after the steps of an earlier call, which took so long."""
        self.steps, self._seconds_before = steps, seconds
        self.write_history(self._history)

    def write_history(self, path: Path) -> None:
        """Write one JSON object a step to a file."""
        path.write_text("".join(_line(step) for step in self.steps), encoding="utf-8")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The number of steps is known now."""
        self._started = time.monotonic()
        self.write_history(self._history)
        self._progress.start(self._title, total=state.max_steps - len(self.steps))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Every loss and gradient of this step was finite, so the adapter that gave them is good."""
        self.last_good.keep(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Write the step's line; the trainer's closing summary is no step."""
        if not logs or "loss" not in logs:
            return
        step: Metrics = {
            "step": state.global_step,
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs["grad_norm"]),
            **self._metrics(logs),
        }
        self.steps.append(step)
        with self._history.open("a", encoding="utf-8") as file:
            file.write(_line(step))
        self._after_step(self.steps)
        self._progress.advance(1, note=self._note(step))

    @staticmethod
    def _note(step: Metrics) -> str:
        reward = f"reward {step['reward']:.3f}, " if "reward" in step else ""
        return f"{reward}loss {step['loss']:.3f}"


def _line(step: Metrics) -> str:
    return json.dumps(step, allow_nan=False) + "\n"


def check_answers(model: PeftModel, token_ids: list[int], where: str) -> None:
    """Raise TrainingError unless the model still answers with finite numbers: the last step has no loss after it.

    Reads the one short text of `token_ids`.
    """
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([token_ids], device=model.device)).logits
    if not bool(torch.isfinite(logits).all()):
        raise TrainingError(f"the model's answers are no numbers any more after {where}")


def check_finite(loss: torch.Tensor, model: PeftModel, where: str) -> None:
    """Raise TrainingError unless the loss and the adapter's gradients so far are finite."""
    value = float(loss)
    if not math.isfinite(value):
        raise TrainingError(f"the loss became {value} in {where}")
    norm = float(
        torch.nn.utils.get_total_norm(p.grad for p in adapter_parameters(model).values() if p.grad is not None)
    )
    if not math.isfinite(norm):
        raise TrainingError(f"the norm of the gradient became {norm} in {where}")


ROLLOUTS = "rollouts.jsonl"
STEPS_ON_END = 5
"""As many steps in a row make a sign; a single step can be all of one kind by chance."""
_ENTROPY_LEFT = 0.1
"""Share of the entropy of the first steps below which it has fallen away."""
_LONGEST = 4000


class KeptRollouts:
    """The file of completions that are kept, a few of every step."""

    def __init__(self, path: Path, each: int) -> None:
        """Keep `each` completions a step in `path`; 0: none, and no file."""
        self._path, self._each = path, each

    def resume(self, steps: int) -> None:
        """Drop what an earlier call kept of steps that are made again, and a line that it did not finish."""
        kept = [line for line in _lines(self._path) if line["step"] <= steps]
        self._path.unlink(missing_ok=True)
        if self._each:
            self._path.write_text("".join(map(_text, kept)), encoding="utf-8")

    def places(self, count: int) -> list[int]:
        """Which of `count` completions are kept: spread evenly over the prompts of a step."""
        kept = min(self._each, count)
        return [place * count // kept for place in range(kept)]

    def keep(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append completions of one step."""
        if lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(map(_text, lines))


def rollout_line(
    step: int,
    row: Mapping[str, Any],
    completion: Any,
    ended: tuple[int, bool],
    rewards: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """A completion as it is kept.

    `ended`: its tokens and whether it was cut off. `rewards`: (value, weight) by name, NaN where it does not judge.
    """
    scored = {name: value for name, (value, _) in rewards.items() if not math.isnan(value)}
    text = completion if isinstance(completion, str) else completion[0]["content"]
    return {
        "step": step,
        "id": row["id"],
        "question": row["question"][:_LONGEST],
        "completion": text[:_LONGEST],
        "tokens": ended[0],
        "cut_off": ended[1],
        "reward": sum(value * rewards[name][1] for name, value in scored.items()) if scored else None,
        "rewards": {name: scored.get(name) for name in rewards},
    }


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except ValueError:  # a process was killed while it wrote
            return


@dataclass(frozen=True)
class Stall:
    """Steps in a row in which RL could not learn what it should."""

    what: str
    first_step: int
    last_step: int
    line: str
    """What happened and what to change."""

    def document(self) -> dict[str, Any]:
        """For summary.json."""
        return {"what": self.what, "first_step": self.first_step, "last_step": self.last_step, "line": self.line}


def stalls(steps: Sequence[Metrics], config: RlConfig) -> list[Stall]:
    """Every time that `STEPS_ON_END` steps or more were all cut off, all alike, or of hardly any entropy.

    Steps that learn from earlier completions once more (`rl.num_iterations`) do not count.
    """
    sampled = [step for step in steps if "completion_length" in step]
    found = []
    for what, is_so in _signs(sampled).items():
        for run in _runs(sampled, is_so):
            first, last = int(run[0]["step"]), int(run[-1]["step"])
            line = f"in {len(run)} steps on end ({first} to {last}) {_words(what, sampled, run, config)}"
            found.append(Stall(what, first, last, line))
    return sorted(found, key=lambda stall: stall.first_step)


def new_stall(steps: Sequence[Metrics], config: RlConfig) -> list[Stall]:
    """Those that the last step has just made."""
    last = steps[-1]
    if "completion_length" not in last:
        return []
    now = [stall for stall in stalls(steps, config) if stall.last_step == int(last["step"])]
    before = {(stall.what, stall.first_step) for stall in stalls(steps[:-1], config)}
    return [stall for stall in now if (stall.what, stall.first_step) not in before]


def _signs(sampled: Sequence[Metrics]) -> dict[str, Callable[[Metrics], bool]]:
    start = _first_entropy(sampled)
    return {
        "cut off": lambda step: step.get("cut_off_share") == 1.0,
        "rewards alike": lambda step: step.get("same_reward_share") == 1.0,
        "entropy": lambda step: start > 0 and step.get("entropy", start) < _ENTROPY_LEFT * start,
    }


def _first_entropy(sampled: Sequence[Metrics]) -> float:
    values = [step["entropy"] for step in sampled[:STEPS_ON_END] if "entropy" in step]
    return fmean(values) if values else 0.0


def _runs(steps: Sequence[Metrics], is_so: Callable[[Metrics], bool]) -> Iterator[list[Metrics]]:
    run: list[Metrics] = []
    for step in steps:
        if is_so(step):
            run.append(step)
            continue
        if len(run) >= STEPS_ON_END:
            yield run
        run = []
    if len(run) >= STEPS_ON_END:
        yield run


def _words(what: str, sampled: Sequence[Metrics], run: Sequence[Metrics], config: RlConfig) -> str:
    if what == "cut off":
        return (
            f"every completion was cut off at {config.max_completion_length:,} tokens, so no answer was ever whole; "
            f"raise rl.max_completion_length, or teach the format in SFT first ({WARM_UP})"
        )
    if what == "rewards alike":
        return (
            "all completions of each prompt earned the same reward, so nothing was learned; look at the completions "
            "(lorapar watch), raise rl.temperature or rl.num_generations, or teach the format in SFT first "
            f"({WARM_UP})"
        )
    return (
        f"the entropy was below {_ENTROPY_LEFT:.0%} of where it began ({_first_entropy(sampled):.3g} nats a token, now "
        f"{run[-1]['entropy']:.3g}), so hardly anything new is tried; lower rl.learning_rate, raise rl.kl_beta or "
        "rl.epsilon_high, or set rl.entropy_coef"
    )
