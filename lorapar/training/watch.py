"""What watches a training run: the history, the progress, and the adapter as it was when all was still well."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback

from lorapar.adapter import adapter_parameters, save_adapter, snapshot
from lorapar.errors import TrainingError
from lorapar.progress import Progress

Figures = dict[str, float]


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
        figures: Callable[[Mapping[str, float]], Figures],
        after_step: Callable[[list[Figures]], None] = lambda steps: None,
    ) -> None:
        """Watch one run.

        Args:
            title: what the run is called on the screen.
            history: file that gets one JSON object a step, flushed at once.
            progress: told of every step.
            last_good: renewed before every optimiser step.
            figures: picks the figures of a step, beside those all runs have, from what the trainer logs.
            after_step: shown the figures of all steps so far after each.
        """
        self.steps: list[Figures] = []
        self.last_good = last_good
        self._title, self._history, self._progress, self._figures = title, history, progress, figures
        self._after_step = after_step
        self._seconds_before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent training, by earlier calls that were stopped too."""
        return self._seconds_before + (0.0 if self._started is None else time.monotonic() - self._started)

    def resume(self, steps: list[Figures], seconds: float) -> None:
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
        step: Figures = {
            "step": state.global_step,
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs["grad_norm"]),
            **self._figures(logs),
        }
        self.steps.append(step)
        with self._history.open("a", encoding="utf-8") as file:
            file.write(_line(step))
        self._after_step(self.steps)
        self._progress.advance(1, note=self._note(step))

    @staticmethod
    def _note(step: Figures) -> str:
        reward = f"reward {step['reward']:.3f}, " if "reward" in step else ""
        return f"{reward}loss {step['loss']:.3f}"


def _line(step: Figures) -> str:
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
