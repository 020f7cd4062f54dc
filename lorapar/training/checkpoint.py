"""The state of a training run between two steps, on disk: all that decides what the next step does and what is told.

checkpoint-<step>/adapter.safetensors       the adapter: values of its active elements, all that training changes
checkpoint-<step>/last_good.safetensors     the same of the adapter that last gave a finite loss and finite gradients
checkpoint-<step>/optimizer.safetensors     by tensor name, step count and the two moments of the active elements
checkpoint-<step>/rng.safetensors           torch's random states: the CPU's and each GPU's
checkpoint-<step>/rng-<rank>.safetensors    those of a further process, and in random-<rank>.json Python's and numpy's
checkpoint-<step>/state.json                optimiser groups, schedule, random states of Python and numpy, seconds
checkpoint-<step>/trainer_state.json        transformers' TrainerState: the step, and so the place in the data
checkpoint-<step>/history.jsonl             metrics of the steps so far
checkpoint-<step>/manifest.json             sizes and digests, written last

transformers would write the optimiser, the schedule and the random states as pickles, and of the adapter only what PEFT
thinks is one; so its trainer decides when to save and what a step is, and this file what is written.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerState

from lorapar.adapter import MaskedAdamW, MaskedTraining, adapter_parameters, save_adapter
from lorapar.adapter.files import read_tensors, write_tensors
from lorapar.checkpoint import Keeper
from lorapar.errors import IntegrityError
from lorapar.progress import Progress
from lorapar.ranks import Ranks
from lorapar.records import read_json, write_json
from lorapar.stopping import StopRequest
from lorapar.store import MANIFEST, seal, verify
from lorapar.training.candidates import candidate_folder, candidate_steps
from lorapar.training.watch import Watch

PREFIX = "checkpoint-"
TRAINER_STATE = "trainer_state.json"  # the name transformers reads
_ADAPTER, _LAST_GOOD, _OPTIMIZER, _RNG = (
    f"{name}.safetensors" for name in ("adapter", "last_good", "optimizer", "rng")
)
_STATE, _HISTORY = "state.json", "history.jsonl"


class Checkpoints:
    """The checkpoints of one run of training, in its scratch folder."""

    def __init__(self, scratch: Path, masked: MaskedTraining, keeper: Keeper, progress: Progress) -> None:
        """Those that are in `scratch`; `keeper` says how many stay and is told of new ones."""
        self._scratch = scratch
        self._masked = masked
        self._keeper = keeper
        self._progress = progress

    def newest(self) -> Path | None:
        """The newest sound checkpoint; damaged ones are named and removed, unfinished ones removed."""
        ranks = Ranks.here()
        found = self._newest() if ranks.first else None
        step = ranks.from_first(0 if found is None else step_of(found))
        return self._scratch / f"{PREFIX}{step}" if step else None

    def _newest(self) -> Path | None:
        for folder in self._all():
            if (folder / MANIFEST).is_file():
                try:
                    verify(folder)
                except IntegrityError as error:
                    what = str(error).removesuffix("; run its stage again")
                    self._progress.log(f"a checkpoint is not used: {what}")
                else:
                    return folder
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def save(self, trainer: Any, watch: Watch, random_states: RandomStates | None = None) -> None:
        """Write the state after the step that was just made; raises StorageError where the disk is full.

        All processes call it: each has random states of its own, all else is the same and the first one writes it.
        `random_states`: what the next step begins with, where it has drawn from them already; None: they are as now.
        """
        states = random_states or RandomStates.now()
        folder = self._scratch / f"{PREFIX}{trainer.state.global_step}"
        ranks = Ranks.here()
        if ranks.first:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        # Told to the first one, which writes all: the others may be on machines with disks of their own.
        texts = ranks.texts(states.to_text() if ranks.count > 1 else "")
        if ranks.first:
            for rank, text in enumerate(texts[1:], start=1):
                other = RandomStates.from_text(text)
                write_tensors(folder / f"rng-{rank}.safetensors", other.torch, {})
                write_json(folder / f"random-{rank}.json", {"python": other.python, "numpy": other.numpy})
            self._write(folder, trainer, watch, states)
        ranks.wait()

    def _write(self, folder: Path, trainer: Any, watch: Watch, states: RandomStates) -> None:
        write_tensors(folder / _ADAPTER, self._masked.gather(adapter_parameters(trainer.model)), {})
        write_tensors(folder / _LAST_GOOD, self._masked.gather(watch.last_good.tensors), {})
        optimizer = trainer.optimizer.state_dict()
        write_tensors(folder / _OPTIMIZER, _flat(optimizer["state"]), {})
        write_tensors(folder / _RNG, states.torch, {})
        state = {
            "groups": optimizer["param_groups"],
            "schedule": trainer.lr_scheduler.state_dict(),
            "python": states.python,
            "numpy": states.numpy,
            "last_good_steps": watch.last_good.steps,
            "seconds": watch.seconds,
            "extra": trainer.extra_state(),
        }
        write_json(folder / _STATE, state)
        # Nothing reads the log again: the history tells what it tells.
        dataclasses.replace(trainer.state, log_history=[]).save_to_json(str(folder / TRAINER_STATE))
        watch.write_history(folder / _HISTORY)
        seal(folder, "training-state")
        for old in self._all()[self._keeper.config.keep :]:
            shutil.rmtree(old, ignore_errors=True)
        self._keeper.keep()

    def restore_adapter(self, folder: Path) -> None:
        """Give the adapter its values; TRL's reference adapter, a copy of what RL began with, stays as it is."""
        self._masked.scatter(read_tensors(folder / _ADAPTER)[0])

    def restore_watch(self, watch: Watch, folder: Path) -> None:
        """Give the watch the history, the last good adapter and the time spent."""
        state = read_json(folder / _STATE)
        lines = (folder / _HISTORY).read_text(encoding="utf-8").splitlines()
        self._masked.scatter(read_tensors(folder / _LAST_GOOD)[0], watch.last_good.tensors)
        watch.last_good.steps = state["last_good_steps"]
        watch.resume([json.loads(line) for line in lines], state["seconds"])

    def _all(self) -> list[Path]:
        """Folders of checkpoints, finished or not, the latest step first."""
        found = [path for path in self._scratch.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
        return sorted(found, key=step_of, reverse=True)


class SaveWhenDue(TrainerCallback):  # type: ignore[misc]
    """Has the trainer save when a checkpoint is due, and save and end when somebody wants it to stop."""

    def __init__(self, keeper: Keeper, stop: StopRequest, every: int = 1) -> None:
        """`every`: only after a multiple of so many steps is there nothing that a checkpoint would not hold."""
        self._keeper = keeper
        self._stop = stop
        self._every = every
        self.stopped = False
        """Whether training ended before its last step, as all processes agreed."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """After an optimiser step; in RL those that learn from the same completions are made whole first."""
        if state.global_step % self._every and state.global_step < state.max_steps:
            return control
        ranks = Ranks.here()
        self.stopped, due = ranks.any(self._stop.requested, ranks.first and self._keeper.due())
        if self.stopped:
            control.should_training_stop = True
        if self.stopped or due:
            control.should_save = True
        return control


class KeepCandidates(TrainerCallback):  # type: ignore[misc]
    """Keeps the adapter after some of the steps; told of a step before `SaveWhenDue`, whose checkpoint then has it."""

    def __init__(self, model: PeftModel, scratch: Path, count: int) -> None:
        """Of `count` adapters at even distances all but the last one, which is the run's own result."""
        self._model = model
        self._scratch = scratch
        self._count = count

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """All processes hold the same adapter, and the first one writes it."""
        if Ranks.here().first and state.global_step in candidate_steps(state.max_steps, self._count):
            folder = candidate_folder(self._scratch, state.global_step)
            folder.mkdir(parents=True, exist_ok=True)
            save_adapter(self._model, folder)
        return control


def step_of(folder: Path) -> int:
    """Optimiser steps that had been made."""
    return int(folder.name.removeprefix(PREFIX))


def is_complete(folder: Path) -> bool:
    """Whether the last step had been made. transformers would make one more when asked to go on from there."""
    state = TrainerState.load_from_json(str(folder / TRAINER_STATE))
    return bool(state.global_step >= state.max_steps)


def restore_optimizer(optimizer: MaskedAdamW, folder: Path) -> None:
    """Give the optimiser its moments and its learning rate."""
    state = read_json(folder / _STATE)
    groups = [{**group, "betas": tuple(group["betas"])} for group in state["groups"]]
    optimizer.load_state_dict({"state": _nested(read_tensors(folder / _OPTIMIZER)[0]), "param_groups": groups})


def extra_state(folder: Path) -> dict[str, Any]:
    """What the trainer itself kept between steps; empty where it kept nothing."""
    found: dict[str, Any] = read_json(folder / _STATE).get("extra", {})
    return found


def restore_schedule(scheduler: Any, folder: Path) -> None:
    """Give the learning-rate schedule its place."""
    scheduler.load_state_dict(read_json(folder / _STATE)["schedule"])


def restore_rng(folder: Path) -> None:
    """Give every random generator that training draws from the state it had."""
    rank = Ranks.here().rank
    if rank and not (folder / f"random-{rank}.json").is_file():
        return  # there were fewer processes: the trainer has seeded this one
    state = read_json(folder / (f"random-{rank}.json" if rank else _STATE))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    tensors = read_tensors(folder / (f"rng-{rank}.safetensors" if rank else _RNG))[0]
    torch.random.set_rng_state(tensors["cpu"])
    for device in range(torch.cuda.device_count()):
        if (name := f"cuda{device}") in tensors:
            torch.cuda.set_rng_state(tensors[name], device)


@dataclass(frozen=True)
class RandomStates:
    """States of every random generator that training draws from."""

    python: Any
    numpy: list[Any]
    torch: dict[str, torch.Tensor]

    @classmethod
    def now(cls) -> RandomStates:
        """As they are."""
        return cls(random.getstate(), _numpy_state(), _torch_states())

    def to_text(self) -> str:
        """As JSON, for another process."""
        tensors = {name: bytes(state.tolist()).hex() for name, state in self.torch.items()}
        return json.dumps({"python": self.python, "numpy": self.numpy, "torch": tensors})

    @classmethod
    def from_text(cls, text: str) -> RandomStates:
        """What `to_text` of another process has written."""
        document = json.loads(text)
        tensors = {
            name: torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)
            for name, state in document["torch"].items()
        }
        return cls(document["python"], document["numpy"], tensors)


def _torch_states() -> dict[str, torch.Tensor]:
    gpus = {f"cuda{n}": torch.cuda.get_rng_state(n) for n in range(torch.cuda.device_count())}
    return {"cpu": torch.random.get_rng_state(), **gpus}


def _numpy_state() -> list[Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return [kind, np.asarray(keys).tolist(), *rest]


def _flat(state: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {f"{key}/{name}": tensor for name, held in state.items() for key, tensor in held.items()}


def _nested(flat: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    state: dict[str, dict[str, torch.Tensor]] = {}
    for place, tensor in flat.items():
        key, _, name = place.partition("/")
        state.setdefault(name, {})[key] = tensor
    return state
