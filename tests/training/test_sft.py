"""SFT with TRL's own trainer: what moves, what it reads, and how it ends when something goes wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lorapar.basemodel import load_model
from lorapar.basemodel.spread import Gpus
from lorapar.config import SftConfig
from lorapar.errors import BadInputError, TrainingError
from lorapar.tracking import Summary, TrackedRun, tracked
from lorapar.training import sft
from lorapar.training.session import TrainingJob
from lorapar.training.sft import train_sft

Make = Callable[..., TrainingJob]
FAST = {"batch_size": 2, "gradient_accumulation": 2, "max_steps": 3, "learning_rate": 1e-2}


def config(**changes: Any) -> SftConfig:
    return SftConfig(**{**FAST, **changes})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What TRL's trainer was given: its arguments by name."""
    given: dict[str, Any] = {}

    class Seen(sft.CarefulSFTTrainer):
        def __init__(self, **arguments: Any) -> None:
            given.update(arguments)
            super().__init__(**arguments)
            given["trainer"] = self

    monkeypatch.setattr(sft, "CarefulSFTTrainer", Seen)
    return given


def test_only_active_elements_move_and_all_of_them_do(make_job: Make, kit) -> None:
    job = make_job()
    metrics = train_sft(job, config(weight_decay=0.5), system1=kit.words(8), system2=kit.sums(4))
    moved, active = kit.changed(job, "system1")
    assert not (moved & ~active).any()
    assert (moved & active).sum() == active.sum() > 0
    assert metrics["active_elements"] == active.sum()
    assert 0 < metrics["active_fraction"] < 1
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_base_that_fits_no_gpu_is_refused_before_it_is_read(make_job: Make, kit, monkeypatch) -> None:
    """Each process sees one GPU."""
    monkeypatch.setattr(Gpus, "here", classmethod(lambda cls: cls((400_000,))))
    job = make_job()
    with pytest.raises(BadInputError, match=r"builtin:tiny fits no GPU alone.* set sharding to fsdp2, and processes"):
        train_sft(job, config(), system1=kit.words(8), system2=[])
    monkeypatch.setattr(Gpus, "here", classmethod(lambda cls: cls((500_000,))))
    train_sft(job, config(max_steps=1), system1=kit.words(8), system2=[])


@pytest.mark.parametrize("loss_average", ["token", "row"])
def test_a_head_for_answers_only_gives_the_losses_and_the_adapter_of_the_whole_head(
    make_job: Make, kit, monkeypatch: pytest.MonkeyPatch, loss_average: str
) -> None:
    settings = config(max_steps=5, learning_rate=1e-4, loss_average=loss_average)
    losses, tuned = [], []
    for name in ("answers only", "whole rows"):
        if name == "whole rows":
            monkeypatch.setattr("lorapar.training.trainers.score_labelled_only", lambda _model, **_settings: None)
        job = make_job(name)
        train_sft(job, settings, system1=kit.words(8), system2=[])
        history = (job.output / "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in history])
        tuned.append(kit.tensors(job.output))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, tensor in tuned[0].items():
        torch.testing.assert_close(tensor, tuned[1][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss_average", ["token", "row"])
def test_rows_computed_apart_by_length_give_the_losses_and_the_adapter_of_whole_batches(
    make_job: Make, kit, start: Path, tmp_path: Path, loss_average: str
) -> None:
    """Without dropout, which draws its numbers by a batch's shape."""
    without = shutil.copytree(start / "adapter", tmp_path / "without dropout")
    described = json.loads((without / "adapter_config.json").read_text())
    (without / "adapter_config.json").write_text(json.dumps({**described, "lora_dropout": 0.0}))
    settings = config(max_steps=5, batch_size=4, rows="all", learning_rate=1e-4, loss_average=loss_average)
    losses, tuned = [], []
    for split in (False, True):
        job = make_job(f"split {split}", adapter=without)
        train_sft(
            job, settings.model_copy(update={"split_by_length": split}), system1=kit.words(8), system2=kit.sums(8)
        )
        history = (job.output / "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in history])
        tuned.append(kit.tensors(job.output))
        assert json.loads((job.output / "summary.json").read_text())["split_by_length"] is split
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, tensor in tuned[0].items():
        torch.testing.assert_close(tensor, tuned[1][name], atol=1e-6, rtol=0)


def test_curves_are_shown_in_a_tracker_and_change_nothing(make_job: Make, kit, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = make_job("plain")
    train_sft(plain, config(), system1=kit.words(8), system2=kit.sums(4))
    with tracked(["tensorboard"], TrackedRun.of("tiny", tmp_path, ""), pytest.fail, Summary) as shown:
        assert shown is not None
        job = make_job("shown", trackers=partial(shown.callbacks, "sft"))
        train_sft(job, config(), system1=kit.words(8), system2=kit.sums(4))
    for file in ("history.jsonl", "adapter_model.safetensors"):
        assert (job.output / file).read_bytes() == (plain.output / file).read_bytes()
    read = EventAccumulator(str(tmp_path / "tensorboard" / "sft")).Reload()
    losses = [json.loads(line)["loss"] for line in (job.output / "history.jsonl").read_text().splitlines()]
    assert [one.value for one in read.Scalars("train/loss")] == pytest.approx(losses)


def test_summary_and_history_tell_what_happened(make_job: Make, kit) -> None:
    job = make_job()
    metrics = train_sft(job, config(), system1=kit.words(8), system2=kit.sums(4))
    steps = [json.loads(line) for line in (job.output / "history.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert {"loss", "learning_rate", "grad_norm"} <= set(steps[0])
    summary = json.loads((job.output / "summary.json").read_text())
    assert summary["rows"] == {"system1": 8}
    assert metrics["tokens_read"] == summary["tokens_read"] > 8 * len(steps)
    assert summary["moment_bytes"] < 8 * summary["elements"]
    assert summary["trl"]["max_length"] == 512
    assert summary["trl"]["packing"] is False
    assert metrics["sft_loss_first"] == summary["loss_first"] == steps[0]["loss"]
    assert metrics["sft_loss_last"] == steps[-1]["loss"]
    assert job.progress.total == len(job.progress.notes) == 3


def test_the_base_model_is_the_same_afterwards(make_job: Make, kit, seen) -> None:
    job = make_job()
    train_sft(job, config(), system1=kit.words(8), system2=[])
    untouched = load_model(kit.TINY).state_dict()
    trained = seen["trainer"].model.unload().state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in untouched.items())


def text(seen: dict[str, Any], row: dict[str, Any]) -> str:
    """What a row of TRL's data says."""
    return str(seen["processing_class"].decode(row["input_ids"]))


def test_reads_system1_rows_only(make_job: Make, kit, seen) -> None:
    train_sft(make_job(), config(), system1=kit.words(8), system2=kit.sums(4))
    assert seen["train_dataset"]["id"] == [f"w{n}" for n in range(8)]
    assert all("<|im_start|>system" not in text(seen, row) for row in seen["train_dataset"])


def test_warmup_rows_of_system2_are_drawn_by_the_seed_and_recorded(make_job: Make, kit, seen) -> None:
    drawn = {}
    for seed in (0, 1):
        job = make_job(f"seed{seed}", seed=seed)
        settings = config(warmup_system2_examples=3, warmup_repeats=2, max_steps=1)
        train_sft(job, settings, system1=kit.words(4), system2=kit.sums(10))
        summary = json.loads((job.output / "summary.json").read_text())
        drawn[seed] = summary["warmup_ids"]
        assert summary["rows"] == {"system1": 4, "system2": 6}
        assert sorted(seen["train_dataset"]["id"]) == sorted([f"w{n}" for n in range(4)] + 2 * drawn[seed])
        system2 = [row for row in seen["train_dataset"] if row["id"] in drawn[seed]]
        assert all(text(seen, row).startswith("<|im_start|>system\nThink.<|im_end|>") for row in system2)
    assert drawn[0] != drawn[1]


def test_all_rows_is_a_setting(make_job: Make, kit, seen) -> None:
    train_sft(make_job(), config(rows="all", max_steps=1), system1=kit.words(3), system2=kit.sums(3))
    assert sorted(seen["train_dataset"]["id"]) == ["s0", "s1", "s2", "w0", "w1", "w2"]
    with pytest.raises(ValueError, match="warmup_system2_examples"):
        config(rows="all", warmup_system2_examples=2)


def test_too_few_warmup_rows_are_reported(make_job: Make, kit) -> None:
    job = make_job()
    train_sft(job, config(warmup_system2_examples=5, max_steps=1), system1=kit.words(4), system2=kit.sums(2))
    assert any("only 2 System 2 rows" in line for line in job.progress.lines)


def test_loss_is_on_answers_only(make_job: Make, kit, seen) -> None:
    train_sft(make_job(), config(max_steps=1), system1=kit.words(4), system2=[])
    tokenizer = seen["processing_class"]
    for row in seen["trainer"].train_dataset:
        learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert tokenizer.decode(learned) == "tool<|im_end|>\n"


def test_rows_without_an_answer_token_are_left_out(make_job: Make, kit) -> None:
    job = make_job()
    long = kit.words(1)[0].model_copy(update={"id": "long", "question": "x" * 200})
    train_sft(job, config(max_length=100, max_steps=1), system1=[*kit.words(4), long], system2=[])
    assert json.loads((job.output / "summary.json").read_text())["left_out"] == {"answer_beyond_max_length": 1}
    with pytest.raises(BadInputError, match=r"sft\.max_length is 10"):
        train_sft(make_job("none"), config(max_length=10), system1=kit.words(4), system2=[])


def test_one_seed_gives_one_adapter(make_job: Make, kit) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        job = make_job(name, seed=seed)
        train_sft(job, config(), system1=kit.words(8), system2=[])
        made.append((job.output / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


def test_dropout_is_active(make_job: Make, start, kit, tmp_path) -> None:
    made = []
    for dropout in (0.0, 0.5):
        folder = tmp_path / f"dropout{dropout}"
        folder.mkdir()
        for file in (start / "adapter").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**settings, "lora_dropout": dropout}))
        job = make_job(f"job{dropout}", adapter=folder)
        train_sft(job, config(), system1=kit.words(8), system2=[])
        made.append((job.output / "adapter_model.safetensors").read_bytes())
    assert made[0] != made[1]


def test_bfloat16_base_and_gradient_checkpointing(make_job: Make, kit) -> None:
    plain, recomputed = make_job("plain"), make_job("recomputed")
    train_sft(plain, config(), system1=kit.words(8), system2=[])
    train_sft(recomputed, config(gradient_checkpointing=True), system1=kit.words(8), system2=[])
    for name, tensor in kit.tensors(plain.output).items():
        torch.testing.assert_close(tensor, kit.tensors(recomputed.output)[name], rtol=1e-4, atol=1e-5)
    for autocast in ("none", "bfloat16"):
        model = kit.TINY.model_copy(update={"dtype": "bfloat16", "autocast": autocast})
        job = make_job(f"autocast-{autocast}", model=model)
        train_sft(job, config(), system1=kit.words(8), system2=[])
        assert {tensor.dtype for tensor in kit.tensors(job.output).values()} == {torch.float32}


def test_a_loss_that_becomes_nan_stops_with_the_last_good_adapter(make_job: Make, kit) -> None:
    job = make_job()
    with pytest.raises(TrainingError, match=r"became (nan|inf) in step 2; lower sft\.learning_rate") as caught:
        train_sft(job, config(learning_rate=1e30, max_steps=5), system1=kit.words(8), system2=[])
    last_good = job.scratch / "last_good"
    assert f"after 0 steps, is in {last_good}" in str(caught.value)
    assert len((job.scratch / "history.jsonl").read_text().splitlines()) == 1
    model = PeftModel.from_pretrained(load_model(kit.TINY), str(last_good))  # plain PEFT reads it
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


def test_ctrl_c_leaves_the_last_good_adapter(make_job: Make, kit) -> None:
    stopped = make_job("stopped", progress=kit.Notes(stop_after_steps=3))
    with pytest.raises(KeyboardInterrupt):
        train_sft(stopped, config(max_steps=6, scheduler="constant"), system1=kit.words(8), system2=[])
    assert any("after 2 steps, is in" in line for line in stopped.progress.lines)
    shorter = make_job("shorter")
    train_sft(shorter, config(max_steps=2, scheduler="constant"), system1=kit.words(8), system2=[])
    saved, expected = kit.tensors(stopped.scratch / "last_good"), kit.tensors(shorter.output)
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


def test_a_run_that_would_train_nothing_is_refused(make_job: Make, kit, start, tmp_path) -> None:
    from lorapar.adapter import load_adapter

    model = load_adapter(load_model(kit.TINY), start / "adapter", trainable=True)
    nothing = kit.random_partition(model, shared={"system1": 0.0, "system2": 1.0}, theta=1.0)
    nothing.save(tmp_path / "partition.safetensors", {})
    with pytest.raises(TrainingError, match="would train nothing"):
        train_sft(make_job(partition=tmp_path / "partition.safetensors"), config(), system1=kit.words(4), system2=[])


def test_an_adapter_of_another_base_is_refused(make_job: Make, kit) -> None:
    first = make_job("first")
    train_sft(first, config(max_steps=1), system1=kit.words(4), system2=[])
    other = kit.TINY.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(BadInputError, match="made for other base weights"):
        train_sft(make_job("second", model=other, adapter=first.output), config(), system1=kit.words(4), system2=[])


def test_an_adapter_with_nan_is_refused(make_job: Make, kit, start, tmp_path) -> None:
    from lorapar.adapter import load_adapter, lora_parameters, save_adapter

    model = load_adapter(load_model(kit.TINY), start / "adapter", trainable=True)
    name, parameter = next(iter(lora_parameters(model).items()))
    with torch.no_grad():
        parameter[0, 0] = math.nan
    save_adapter(model, tmp_path / "poisoned")
    with pytest.raises(TrainingError, match=f"not finite in '{name}'"):
        train_sft(make_job(adapter=tmp_path / "poisoned"), config(), system1=kit.words(4), system2=[])


def test_row_average_is_the_mean_of_the_rows_own_losses(make_job: Make, kit, monkeypatch) -> None:
    """Against a plain loop over the rows, with one long and many short answers in the batch."""
    from lorapar.training.trainers import RowAverageSFTTrainer

    pairs: list[tuple[float, float]] = []

    class Compared(RowAverageSFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            with torch.no_grad():
                model.eval()
                careful = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
                logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
                model.train()
            rows = [
                torch.nn.functional.cross_entropy(row[:-1].float(), labels[1:], ignore_index=-100)
                for row, labels in zip(logits, inputs["labels"], strict=True)
            ]
            pairs.append((float(careful), float(sum(rows) / len(rows) / self.args.gradient_accumulation_steps)))
            return loss

    monkeypatch.setattr(sft, "RowAverageSFTTrainer", Compared)
    train_sft(
        make_job(),
        config(loss_average="row", warmup_system2_examples=2, batch_size=4, max_steps=2),
        system1=kit.words(6),
        system2=kit.sums(4),
    )
    assert len(pairs) == 4
    for ours, plain in pairs:
        assert ours == pytest.approx(plain, rel=1e-5)


@pytest.mark.usefixtures("two_gpus")
def test_two_visible_gpus_train_on_the_first_and_say_so(make_job: Make, kit) -> None:
    train_sft(job := make_job(), config(), system1=kit.words(6), system2=[])
    assert any(line.startswith("2 GPUs are visible; training uses the first") for line in job.progress.lines)


def test_a_thought_that_the_template_drops_is_learned_and_the_turn_end_with_it(make_job: Make, kit, seen) -> None:
    """Templates of reasoning models keep of an older answer only what follows its thought."""
    template = (
        "{% for m in messages %}{{ m.role + ':' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    )
    model = kit.TINY.model_copy(update={"chat_template": template})
    thought = kit.words(1)[0].model_copy(update={"answer": "<think>it ends so</think>tool"})
    train_sft(make_job(model=model), config(max_steps=1), system1=[thought, *kit.words(4)[1:]], system2=[])
    learned = {}
    for row in seen["train_dataset"]:
        kept = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        learned[row["id"]] = seen["processing_class"].decode(kept)
    # The template has no generation prompt; what opens an answer stands in the prompt all the same, and is not learned.
    assert learned["w0"] == "<think>it ends so</think>tool<|im_end|>\n"
    assert learned["w1"] == f"{kit.words(2)[1].answer}<|im_end|>\n"
