"""What SFT and RL have in common: load, mask, train under watch, prove that nothing else moved, save.

All state of a run is in one `Session`: the model with its adapter, the mask, the optimiser with its moments, and the
watch with the history and the last good adapter.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import peft
import torch
import transformers
import trl
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from lorapar.adapter import (
    MaskedAdamW,
    MaskedTraining,
    Moved,
    Partition,
    adapter_parameters,
    base_digest,
    check_frozen,
    check_only_active_moved,
    load_adapter,
    masked_training,
    save_adapter,
    snapshot,
    trainable_rank,
)
from lorapar.adapter.files import read_tensors
from lorapar.adapter.folder import WEIGHTS_FILE
from lorapar.basemodel import load_model
from lorapar.basemodel.spread import fits_one
from lorapar.checkpoint import Keeper
from lorapar.config import ModelConfig, PromptConfig, RlConfig, SftConfig
from lorapar.errors import BadInputError, LoraparError, StorageError, Terminated, TrainingError
from lorapar.progress import Progress
from lorapar.ranks import Ranks
from lorapar.records import System, read_json, write_json
from lorapar.registry.chat_settings import ChatSettings
from lorapar.stopping import finishing_steps
from lorapar.training.candidates import CANDIDATES, candidates_in, copy_candidates
from lorapar.training.checkpoint import (
    Checkpoints,
    KeepCandidates,
    SaveWhenDue,
    is_complete,
    restore_optimizer,
    step_of,
)
from lorapar.training.quiet import quiet_libraries
from lorapar.training.ranks import KEPT, StoppedWaitingError
from lorapar.training.shares import visible_gpus
from lorapar.training.watch import LastGood, Metrics, Watch, check_answers

HISTORY = "history.jsonl"
SUMMARY = "summary.json"
LAST_GOOD = "last_good"
FILTER = "rl.filter"
"""The title of what asks before RL instead of training."""
EDGE = 0.2
"""Share of the steps that metrics of the first and last steps are means over."""


@dataclass(frozen=True)
class TrainingJob:
    """What a stage of training works on, and where it writes."""

    model: ModelConfig
    prompts: PromptConfig
    seed: int
    adapter: Path
    """PEFT folder to go on from."""
    partition: Path
    """File that Partition.save wrote."""
    output: Path
    """Folder for the trained adapter, history.jsonl and summary.json."""
    scratch: Path
    """Folder for checkpoints, and for what a failed run leaves: its history so far, and last_good."""
    progress: Progress
    keeper: Keeper = field(default_factory=Keeper)
    """Says when checkpoints are due, and is told of them."""
    sharded: bool = False
    """Whether each of several processes holds a part of the base; else each holds all of it."""
    candidates: int = 0
    """Adapters of the run, its last one among them, that are kept beside the last one; 0: none."""
    trackers: Callable[[], list[TrainerCallback]] = list
    """Makes callbacks that show the curves elsewhere; they must neither fail nor wait."""


@dataclass
class Session:
    """The state of one run of training."""

    job: TrainingJob
    tokenizer: PreTrainedTokenizerBase
    model: PeftModel
    mask: Mapping[str, torch.Tensor]
    masked: MaskedTraining
    optimizer: MaskedAdamW
    watch: Watch
    before: Mapping[str, torch.Tensor]
    """The adapter as it was when the run began."""
    base_sha256: str
    """Digest of the base model's weights when the run began."""

    def check(self) -> Moved:
        """After training: raises TrainingError where the base or a frozen element changed, or nothing moved."""
        rank = trainable_rank(self.model)
        for folder in candidates_in(self.job.scratch).values():
            check_frozen(self.before, read_tensors(folder / WEIGHTS_FILE)[0], self.mask, rank)
        moved = check_only_active_moved(self.before, snapshot(self.model), self.mask, rank)
        if base_digest(self.model) != self.base_sha256:
            raise TrainingError("the base model's weights changed during training, which must never happen: report it")
        return moved


@dataclass(frozen=True)
class Method:
    """What distinguishes SFT and GRPO from each other."""

    title: str
    """What the run is called on the screen."""
    system: System
    """Whose elements are trained."""
    config: SftConfig | RlConfig
    arguments: Mapping[str, Any]
    """The settings TRL gets."""
    make_trainer: Callable[[Session], Any]
    """Makes TRL's trainer around the session's model and optimiser."""
    metrics: Callable[[Mapping[str, Any]], Metrics]
    """What the history tells of a step, beside what it tells of every stage's, from what the trainer logs."""
    after_step: Callable[[list[Metrics]], None] = lambda steps: None
    """Shown the metrics of all steps so far after each."""
    steps_together: int = 1
    """Optimiser steps that learn from the same completions."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    steps: list[Metrics]
    seconds: float
    summary: dict[str, Any]
    """The part of summary.json that both stages share."""

    def ends(self, key: str) -> Metrics:
        """A figure at both ends of the run: its means over the first and the last fifth of the steps that have it."""
        values = [step[key] for step in self.steps if key in step]
        if not values:
            return {}
        count = max(1, round(len(values) * EDGE))
        return {f"{key}_first": fmean(values[:count]), f"{key}_last": fmean(values[-count:])}

    def metrics(self) -> Metrics:
        """The flat, finite metrics that both stages report."""
        shared = ("steps", "elements", "active_elements", "active_fraction", "moved_elements")
        seconds = {"seconds": self.seconds, "seconds_per_step": self.seconds / len(self.steps)}
        return {**{key: float(self.summary[key]) for key in shared}, **seconds}


def train(job: TrainingJob, tokenizer: PreTrainedTokenizerBase, method: Method) -> Outcome:
    """Train one system's elements and save the adapter with its history.

    Raises:
        TrainingError: nothing would be trained; a loss or gradient was not finite (the last good adapter is named);
            the base or a frozen element changed; no active element moved.
        BadInputError: adapter, partition and base model do not fit one another.
        Terminated: SIGTERM arrived; the step under way was finished and the state after it saved.
    """
    if (visible := visible_gpus()) > 1:
        job.progress.log(f"{visible} GPUs are visible; training uses the first of them (see CUDA_VISIBLE_DEVICES)")
    with quiet_libraries(job.progress), opened(job, tokenizer, method) as session:
        seconds = _run(session, method)
        moved = session.check()
    save_adapter(session.model, job.output)
    if Ranks.here().first:
        shutil.copyfile(job.scratch / HISTORY, job.output / HISTORY)
        if job.candidates:
            (job.scratch / CANDIDATES).mkdir(exist_ok=True)  # none in a run of one step
            copy_candidates(job.scratch, job.output)
            write_json(job.output / CANDIDATES / SUMMARY, {"steps": len(session.watch.steps), "system": method.system})
    return Outcome(session.watch.steps, seconds, _summary(session, method, moved))


@contextmanager
def opened(job: TrainingJob, tokenizer: PreTrainedTokenizerBase, method: Method) -> Iterator[Session]:
    """Load and check everything; within the block gradients and optimiser are masked."""
    if not (job.sharded or fits_one(job.model)):
        raise BadInputError(
            f"model.name: {job.model.name} fits no GPU alone, and {method.title} holds a whole base in each process; "
            + ("leave rl.filter out" if method.title == FILTER else "set sharding to fsdp2, and processes to 2 or more")
        )
    base = load_model(job.model, job.progress, sharded=job.sharded)
    if base.base_model is base and hasattr(base, "model"):
        # Llama4ForCausalLM of transformers 5.23 names a part it does not have; TRL looks for the decoder by this name.
        base.base_model_prefix = "model"
    model = load_adapter(base, job.adapter, trainable=True)
    _check_finite_adapter(model, job.adapter)
    base_sha256 = base_digest(model)
    _check_same_base(job.adapter, base_sha256)
    mask = Partition.load(job.partition).mask(method.system)
    history = (job.scratch if Ranks.here().first else job.output) / HISTORY
    watch = Watch(method.title, history, job.progress, LastGood(model), method.metrics, method.after_step)
    with masked_training(model, mask) as masked:
        optimizer = _optimizer(masked, method)
        yield Session(job, tokenizer, model, mask, masked, optimizer, watch, snapshot(model), base_sha256)


def write_summary(job: TrainingJob, outcome: Outcome, method: Method, extra: Mapping[str, Any]) -> None:
    """Write summary.json: what both stages tell, what one adds, how the model was asked, every setting TRL got."""
    settings = {key: value for key, value in method.arguments.items() if key != "output_dir"}
    asking = ChatSettings.of(job.model).in_summary(job.model)
    write_json(job.output / SUMMARY, {**outcome.summary, **extra, **asking, "trl": settings})


def _optimizer(masked: MaskedTraining, method: Method) -> MaskedAdamW:
    return masked.optimizer(
        lr=method.config.learning_rate,
        betas=(method.arguments["adam_beta1"], method.arguments["adam_beta2"]),
        eps=method.arguments["adam_epsilon"],
        weight_decay=method.config.weight_decay,
    )


def _run(session: Session, method: Method) -> float:
    """Train, going on from the newest checkpoint; returns the seconds it took, those of earlier calls included."""
    job, watch = session.job, session.watch
    if Ranks.here().first:
        shutil.rmtree(job.scratch / LAST_GOOD, ignore_errors=True)
    trainer = method.make_trainer(session)
    session.masked.undo_casts()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    for shown in job.trackers():
        trainer.add_callback(shown)
    checkpoints = Checkpoints(job.scratch, session.masked, job.keeper, job.progress)
    trainer.save_to(checkpoints, watch)
    found = checkpoints.newest()
    trainer.go_on_after(0 if found is None else step_of(found))
    if found is not None:
        checkpoints.restore_watch(watch, found)
        job.progress.log(f"going on after step {step_of(found)}")
    with finishing_steps() as stop, _rescued(watch.last_good, job):
        if job.candidates:
            trainer.add_callback(KeepCandidates(session.model, job.scratch, job.candidates))
        saving = SaveWhenDue(job.keeper, stop, method.steps_together)
        trainer.add_callback(saving)
        if found is not None and is_complete(found):
            checkpoints.restore_adapter(found)
            restore_optimizer(session.optimizer, found)
        else:
            trainer.train(resume_from_checkpoint=None if found is None else str(found))
        if not (stop.requested or saving.stopped):
            ids = list(session.tokenizer("1 2 3", add_special_tokens=False)["input_ids"])
            check_answers(session.model, ids, trainer.where(len(watch.steps)))
    if stop.requested or saving.stopped:
        raise Terminated
    return watch.seconds


@contextmanager
def _rescued(last_good: LastGood, job: TrainingJob) -> Iterator[None]:
    """Whatever ends the run early leaves the last good adapter, and says where."""
    try:
        yield
    except StoppedWaitingError as error:
        raise Terminated from error
    except KEPT:  # the adapter is well, and the state before the step is kept
        raise
    except LoraparError as error:
        raise type(error)(f"{error}; {_save(last_good, job)}") from error
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the GPU's memory does not suffice: lower the batch_size (and raise gradient_accumulation), or switch "
            f"gradient_checkpointing on; {_save(last_good, job)}"
        ) from error
    except BaseException:
        job.progress.log(_save(last_good, job))
        raise


def _save(last_good: LastGood, job: TrainingJob) -> str:
    if last_good.steps is None:
        return "no step had been good, so there is no better adapter than the one it began with"
    folder = job.scratch / LAST_GOOD
    if Ranks.here().count > 1 and not _claimed(folder):
        return f"the last good adapter, after {last_good.steps} steps, is in {folder}"
    try:
        last_good.save(folder)
    except StorageError as error:
        return f"the last good adapter could not be saved ({error})"
    return f"the last good adapter, after {last_good.steps} steps, is in {folder}"


def _claimed(folder: Path) -> bool:
    """Whether this is the process that saves: all hold the same adapter, and any may be the one that fails."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _summary(session: Session, method: Method, moved: Moved) -> dict[str, Any]:
    elements = sum(tensor.numel() for tensor in session.mask.values())
    return {
        "system": method.system,
        "steps": len(session.watch.steps),
        "elements": elements,
        "active_elements": moved.active,
        "active_fraction": moved.active / elements,
        "moved_elements": moved.moved,
        "moment_bytes": session.optimizer.moment_bytes(),
        "index_bytes": session.masked.index_bytes,
        "base_weights_sha256": session.base_sha256,
        "seed": session.job.seed,
        "processes": Ranks.here().count,
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)},
    }


def _check_finite_adapter(model: PeftModel, folder: Path) -> None:
    for name, parameter in adapter_parameters(model).items():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingError(f"the adapter in {folder} is not finite in '{name}', so no loss can be; make it again")


def _check_same_base(folder: Path, digest: str) -> None:
    """The stage that made the adapter wrote down which base weights it saw, where this project made it."""
    path = folder / SUMMARY
    expected = read_json(path).get("base_weights_sha256") if path.is_file() else None
    if expected not in (None, digest):
        raise BadInputError(
            f"the adapter in {folder} was made for other base weights ({expected[:12]}..., not {digest[:12]}...); "
            "give the model, revision, dtype and quantization it was made for"
        )
