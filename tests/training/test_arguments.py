"""Every step learns: no schedule has a step whose learning rate is 0."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from lorapar.training.arguments import schedule

NAMES = ("cosine", "linear", "constant", "constant_with_warmup")


def rates(name: str, rising: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = schedule(optimizer, name=name, rising=rising, steps=steps)
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rising", "steps"), [(0, 1), (1, 1), (1, 10), (3, 30), (30, 30)])
def test_every_step_learns_and_none_more_than_the_peak(name: str, rising: int, steps: int) -> None:
    assert all(0 < rate <= 2.0 for rate in rates(name, rising, steps))


def test_rises_in_even_steps_then_falls() -> None:
    used = rates("cosine", rising=3, steps=30)
    assert used[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert used[4:] == sorted(used[4:], reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_is_transformers_schedule_but_for_one_step(name: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=100, num_training_steps=1000)
    ours = rates(name, rising=100, steps=1000)
    assert ours == pytest.approx([2.0 * theirs.lr_lambdas[0](step) for step in range(1000)], abs=0.03)
