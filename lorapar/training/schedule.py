"""Learning-rate schedules of transformers in which every step learns."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler


def schedule(optimizer: torch.optim.Optimizer, *, name: str, rising: int, steps: int) -> LambdaLR:
    """The named schedule over `steps` optimiser steps, the first `rising` of them rising.

    transformers gives the first of the rising steps a learning rate of 0: a whole batch (in RL: all its rollouts)
    is computed and thrown away, and a run of one step trains nothing. Here step k of the rising ones has the rate
    k / (rising + 1) of the peak, and the last step of all is above 0 too.
    """
    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    longer = get_scheduler(name, unused, num_warmup_steps=rising + 1, num_training_steps=steps + 1)
    rate_at = longer.lr_lambdas[0]
    return LambdaLR(optimizer, lambda step: rate_at(step + 1))
