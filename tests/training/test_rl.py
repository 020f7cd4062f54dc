"""GRPO with TRL's own trainer: what moves, what it reads, which reference it keeps to, and how it ends in trouble."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lorapar.adapter import load_adapter
from lorapar.basemodel import StopStrings, load_model, load_tokenizer
from lorapar.config import RlConfig
from lorapar.errors import BadInputError, TrainingError
from lorapar.registry.chat_settings import ChatSettings
from lorapar.training import rl
from lorapar.training.arguments import rl_arguments
from lorapar.training.rewards import load_rewards
from lorapar.training.rl import grpo_trainer, train_rl
from lorapar.training.rows import rl_rows
from lorapar.training.session import Method, Session, TrainingJob, opened

Make = Callable[..., TrainingJob]
FAST = {
    "batch_size": 4,
    "gradient_accumulation": 2,
    "num_generations": 4,
    "max_steps": 3,
    "max_completion_length": 8,
    "learning_rate": 1e-2,
}
# A random model never earns the paper's rewards, so these tests reward what it does by chance.
REWARDS = """
calls = []

def parity(completions, references):
    calls.append((list(completions), list(references)))
    return [float(sum(map(ord, text)) % 2) for text in completions]

def same(completions, references):
    return [1.0 for _ in completions]

def half(completions, references):
    return [float(sum(map(ord, text)) % 2) if place % 2 else None for place, text in enumerate(completions)]

def silent(completions, references):
    return [None for _ in completions]

def breaks(completions, references):
    calls.append(None)
    return [float("nan") if len(calls) > 3 else float(len(text)) for text in completions]
"""


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with these rewards, freshly imported."""
    (tmp_path / "chance_rewards.py").write_text(REWARDS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "chance_rewards", raising=False)
    import chance_rewards

    return chance_rewards


def config(**changes: Any) -> RlConfig:
    return RlConfig(**{**FAST, "rewards": {"chance_rewards:parity": 1.0}, **changes})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What TRL's trainer was given: its arguments by name."""
    given: dict[str, Any] = {}

    class Seen(rl.CarefulGRPOTrainer):
        def __init__(self, **arguments: Any) -> None:
            given.update(arguments)
            super().__init__(**arguments)
            given["trainer"] = self

    monkeypatch.setattr(rl, "CarefulGRPOTrainer", Seen)
    return given


@pytest.mark.parametrize("reference", ["sft", "base"])
def test_only_active_elements_move_whatever_the_reference(make_job: Make, kit, rewards, seen, reference: str) -> None:
    job = make_job()
    settings = config(weight_decay=0.5, kl_beta=0.1, reference=reference)
    metrics = train_rl(job, settings, system1=kit.words(4), system2=kit.sums(8))
    moved, active = kit.changed(job, "system2")
    assert not (moved & ~active).any()
    assert (moved & active).sum() == active.sum() > 0
    untouched = load_model(kit.TINY).state_dict()
    trained = seen["trainer"].model.unload().state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in untouched.items())
    assert all(math.isfinite(value) for value in metrics.values())
    assert {"kl_first", "kl_last", "reward_first", "reward_last", "steps_without_signal"} <= set(metrics)


def test_summary_and_history_tell_what_happened(make_job: Make, kit, rewards) -> None:
    job = make_job()
    train_rl(job, config(rewards={"chance_rewards:parity": 3.0}), system1=[], system2=kit.sums(8))
    steps = [json.loads(line) for line in (job.output / "history.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step in steps:
        assert step["reward"] == pytest.approx(3 * step["reward_chance_rewards:parity"])
        assert step["completion_length"] > 0
        assert "kl" not in step
    summary = json.loads((job.output / "summary.json").read_text())
    assert summary["reference"] is None
    assert summary["rows"] == {"system2": 8}
    assert summary["moment_bytes"] < 8 * summary["elements"]
    assert summary["trl"]["steps_per_generation"] == 2
    assert summary["trl"]["adam_beta2"] == 0.99
    assert summary["asking"] == ChatSettings.of(job.model).in_summary(job.model)["asking"]
    assert summary["asking"]["generation"]["eos_token_id"], "publish tells servers so, without the tokenizer"


def test_reads_system2_rows_with_a_reference_only(make_job: Make, kit, seen, rewards) -> None:
    job = make_job()
    unanswerable = kit.sums(1, id="open", reference=None)
    long = kit.sums(1, id="long", question="x" * 200)
    system2 = [*kit.sums(4), *unanswerable, *long]
    train_rl(job, config(max_steps=2), system1=kit.words(4), system2=system2)
    assert seen["train_dataset"]["id"] == ["s0", "s1", "s2", "s3"]
    assert "completion" not in seen["train_dataset"].column_names
    assert all(row["prompt"][0] == {"role": "system", "content": "Think."} for row in seen["train_dataset"])
    left_out = json.loads((job.output / "summary.json").read_text())["left_out"]
    assert left_out == {"no_reference": 1, "prompt_too_long": 1}
    assert {reference for _, references in rewards.calls[1:] for reference in references} <= {"2", "3", "4", "5"}


def test_all_rows_is_a_setting(make_job: Make, kit, seen, rewards) -> None:
    train_rl(make_job(), config(rows="all", max_steps=1), system1=kit.words(2), system2=kit.sums(2))
    assert seen["train_dataset"]["id"] == ["w0", "w1", "s0", "s1"]


def test_rows_that_do_not_suffice_are_refused(make_job: Make, kit, rewards) -> None:
    with pytest.raises(BadInputError, match="has a reference answer"):
        train_rl(make_job("a"), config(), system1=kit.words(4), system2=kit.sums(4, reference=None))
    with pytest.raises(BadInputError, match=r"rl\.max_prompt_length is 5"):
        train_rl(make_job("b"), config(max_prompt_length=5), system1=[], system2=kit.sums(4))
    with pytest.raises(BadInputError, match=r"needs 2 different prompts .* only 1"):
        train_rl(make_job("c"), config(), system1=[], system2=kit.sums(1))


def test_one_seed_gives_one_adapter(make_job: Make, kit, rewards) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        job = make_job(name, seed=seed)
        train_rl(job, config(max_steps=2), system1=[], system2=kit.sums(8))
        made.append((job.output / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "grpo"},
        {"loss_type": "dapo", "kl_beta": 0.1, "gradient_checkpointing": True},
        {"loss_type": "dr_grpo", "batch_size": 2, "gradient_accumulation": 4},
        {"loss_type": "bnpo", "scale_rewards": "batch"},
        {"loss_type": "cispo", "epsilon_high": 5.0, "num_iterations": 2},
        {"loss_type": "sapo", "use_adaptive_entropy": True, "entropy_target": 9.0, "entropy_coef_delta": 0.5},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "mask_truncated_completions": True},
        {"loss_type": "vespo", "top_entropy_quantile": 0.5},
    ],
    ids=lambda settings: settings["loss_type"],
)
def test_shared_prompts_give_the_adapter_that_whole_rows_give(make_job: Make, kit, rewards, seen, settings) -> None:
    """Five steps from the same completions."""
    tuned, message, trees = {}, {}, {}
    for shared in (True, False):
        job = make_job(f"shared-{shared}")
        # Adam divides a gradient by its size: one that is all rounding moves its element by up to the rate.
        steps = {"max_steps": 5, "learning_rate": 1e-4, "share_prompts": shared}
        train_rl(job, config(**steps, **settings), system1=[], system2=kit.sums(8))
        tuned[shared], trees[shared] = kit.tensors(job.output), seen["trainer"].learns_from_trees
        message[shared] = [json.loads(line) for line in (job.output / "history.jsonl").read_text().splitlines()]
    assert trees == {True: True, False: False}
    assert len(message[True]) == 5
    for ours, theirs in zip(message[True], message[False], strict=True):
        same = ("reward", "completion_length", "cut_off_share")
        assert [ours.get(name) for name in same] == [theirs.get(name) for name in same], "the same completions"
        # Means over passes of means over tokens: which rows stand together shows a little.
        assert ours == pytest.approx(theirs, rel=0.05, abs=1e-4)
    for name, tensor in tuned[True].items():
        torch.testing.assert_close(tensor, tuned[False][name], atol=1e-6, rtol=0)


def test_prompts_are_read_once_in_learning(make_job: Make, kit, rewards) -> None:
    read: dict[bool, int] = {}
    for shared in (True, False):
        settings = config(share_prompts=shared, max_steps=1)
        with opened_trainer(make_job(f"shared-{shared}"), settings, kit.sums(8)) as (session, trainer):
            trainer.current_gradient_accumulation_steps = settings.gradient_accumulation
            batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
            assert len(torch.unique(batch["prompt_ids"], dim=0)) == (1 if shared else 2)
            lengths: list[int] = []
            trainer.compute_loss(session.model, batch)  # tries the model, too
            session.model.get_base_model().base_model.register_forward_pre_hook(
                lambda _module, _args, named, lengths=lengths: lengths.append(named["input_ids"].numel()),
                with_kwargs=True,
            )
            trainer.compute_loss(session.model, batch)
            read[shared] = sum(lengths)
    assert 0 < read[True] < read[False] / 2


@contextmanager
def opened_trainer(job: TrainingJob, settings: RlConfig, rows: list[Any]) -> Iterator[tuple[Session, Any]]:
    """The session and TRL's trainer as train_rl makes them, before the first step."""
    tokenizer = load_tokenizer(job.model)
    functions = load_rewards(settings.rewards)
    arguments = rl_arguments(settings, job.model, functions, job.seed, job.scratch)
    data = rl.rl_data(job, rl_rows({"system2": rows}, "system2", settings, tokenizer, job.prompts).rows)

    def make_trainer(session: Session) -> Any:
        return grpo_trainer(session, settings, arguments, functions, data)

    method = Method("test", "system2", settings, arguments, make_trainer, lambda logs: {})
    with opened(job, tokenizer, method) as session:
        yield session, make_trainer(session)


def log_probs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probability of every completion token, from plain logits."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, attention_mask=attention, position_ids=positions).logits
    length = inputs["completion_ids"].shape[1]
    every = torch.log_softmax(logits[:, -length - 1 : -1], dim=-1)
    return every.gather(2, inputs["completion_ids"].unsqueeze(2)).squeeze(2) * inputs["completion_mask"]


@pytest.fixture
def moved_adapter(start: Path, kit, tmp_path: Path) -> Path:
    """An adapter that has moved from its start, so that base and SFT model differ."""
    from lorapar.adapter import lora_parameters, save_adapter

    model = load_adapter(load_model(kit.TINY), start / "adapter", trainable=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter[:2, :2].add_(torch.randn(2, 2, generator=generator))
    save_adapter(model, tmp_path / "moved")
    return tmp_path / "moved"


@pytest.mark.parametrize("reference", ["sft", "base"])
def test_reference_log_probabilities(make_job: Make, kit, rewards, moved_adapter: Path, reference: str) -> None:
    job = make_job(adapter=moved_adapter)
    base = load_model(kit.TINY)
    expected_model = base if reference == "base" else load_adapter(base, moved_adapter, trainable=False)
    settings = config(kl_beta=0.1, reference=reference, learning_rate=0.1, scheduler="constant")
    with opened_trainer(job, settings, kit.sums(8)) as (session, trainer):
        trainer.train()  # moves the policy; the reference must stay what it was
        session.model.train()
        trainer._buffered_inputs = None
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        got = inputs["ref_per_token_logps"] * inputs["completion_mask"]
        torch.testing.assert_close(got, log_probs(expected_model, inputs), rtol=1e-4, atol=1e-4)
        assert (got - log_probs(session.model, inputs)).abs().max() > 1e-3


def test_kl_of_the_first_step(make_job: Make, kit, rewards, moved_adapter: Path) -> None:
    first = {}
    for reference in ("sft", "base"):
        job = make_job(reference, adapter=moved_adapter)
        train_rl(job, config(kl_beta=0.1, reference=reference, max_steps=1), system1=[], system2=kit.sums(8))
        first[reference] = json.loads((job.output / "history.jsonl").read_text())["kl"]
    assert first["sft"] == 0
    assert first["base"] > 1e-4


def test_without_kl_no_reference_is_made(make_job: Make, kit, rewards) -> None:
    with opened_trainer(make_job(), config(kl_beta=0.0), kit.sums(8)) as (session, trainer):
        assert list(session.model.peft_config) == ["default"]
        assert trainer.ref_model is None


def test_bfloat16_base_and_gradient_checkpointing(make_job: Make, kit, rewards) -> None:
    model = kit.TINY.model_copy(update={"dtype": "bfloat16", "autocast": "bfloat16"})
    job = make_job(model=model)
    train_rl(job, config(gradient_checkpointing=True, max_steps=2), system1=[], system2=kit.sums(8))
    assert {tensor.dtype for tensor in kit.tensors(job.output).values()} == {torch.float32}


def test_a_model_that_becomes_nan_stops_with_the_last_good_adapter(make_job: Make, kit, rewards) -> None:
    job = make_job()
    with pytest.raises(TrainingError, match=r"became (nan|inf) in step 2; lower rl\.learning_rate") as caught:
        train_rl(job, config(learning_rate=1e30, max_steps=4), system1=[], system2=kit.sums(8))
    assert f"is in {job.scratch / 'last_good'}" in str(caught.value)
    before, saved = kit.tensors(job.adapter), kit.tensors(job.scratch / "last_good")
    assert all(torch.equal(tensor, before[name]) for name, tensor in saved.items())


def test_a_last_step_that_breaks_the_model_is_reported_and_its_adapter_not_kept(make_job: Make, kit, rewards) -> None:
    job = make_job()
    with pytest.raises(TrainingError, match=r"no numbers any more after step 1; lower rl\.learning_rate") as caught:
        train_rl(job, config(learning_rate=1e38, max_steps=1), system1=[], system2=kit.sums(8))
    assert f"is in {job.scratch / 'last_good'}" in str(caught.value)
    before, saved = kit.tensors(job.adapter), kit.tensors(job.scratch / "last_good")
    assert all(torch.equal(tensor, before[name]) for name, tensor in saved.items())
    assert not (job.output / "adapter_config.json").exists()


def test_a_reward_that_breaks_while_training_is_named(make_job: Make, kit, rewards) -> None:
    job = make_job()
    message = r"chance_rewards:breaks must return finite numbers.*\(at step 3\); the state after step 2 is kept"
    with pytest.raises(BadInputError, match=message):
        train_rl(job, config(rewards={"chance_rewards:breaks": 1.0}, max_steps=9), system1=[], system2=kit.sums(8))


@pytest.mark.usefixtures("two_gpus")
def test_two_visible_gpus_train_on_the_first_and_say_so(make_job: Make, kit, rewards) -> None:
    job = make_job()
    train_rl(job, config(rewards={"chance_rewards:parity": 1.0}, max_steps=2), system1=[], system2=kit.sums(8))
    assert any(line.startswith("2 GPUs are visible; training uses the first") for line in job.progress.lines)


def test_equal_rewards_teach_nothing_and_that_is_reported(make_job: Make, kit, rewards) -> None:
    job = make_job()
    same = config(rewards={"chance_rewards:same": 1.0}, max_steps=2)
    metrics = train_rl(job, same, system1=[], system2=kit.sums(8))
    assert metrics["steps_without_signal"] == 2
    assert any(
        "in 2 of 2 steps all completions of each prompt had the same reward" in line for line in job.progress.lines
    )
    with pytest.raises(TrainingError, match=r"none of the .* active elements moved"):
        train_rl(make_job("none"), same.model_copy(update={"weight_decay": 0.0}), system1=[], system2=kit.sums(8))


def test_a_reward_without_a_say_is_left_out_of_the_sum_and_counted(make_job: Make, kit, rewards) -> None:
    job = make_job()
    weights = {"chance_rewards:half": 1.0, "chance_rewards:silent": 5.0}
    train_rl(job, config(rewards=weights), system1=[], system2=kit.sums(8))
    summary = json.loads((job.output / "summary.json").read_text())
    assert summary["completions"] == 24
    assert summary["no_say"] == {"chance_rewards:half": 12, "chance_rewards:silent": 24, "every_reward": 12}
    for step in map(json.loads, (job.output / "history.jsonl").read_text().splitlines()):
        assert step["reward"] == pytest.approx(step["reward_chance_rewards:half"])
        assert "reward_chance_rewards:silent" not in step
        assert step["no_say_chance_rewards:silent"] == 8
    assert any("chance_rewards:silent gave no value at all" in line for line in job.progress.lines)
    assert any("no reward had a say about 12 of 24 completions" in line for line in job.progress.lines)
    assert not any("All reward functions" in line for line in job.progress.lines)


def test_where_no_reward_ever_has_a_say_no_step_has_a_signal(make_job: Make, kit, rewards) -> None:
    job = make_job()
    settings = config(rewards={"chance_rewards:silent": 1.0}, weight_decay=0.5)
    metrics = train_rl(job, settings, system1=[], system2=kit.sums(8))
    assert metrics["steps_without_signal"] == 3
    assert "reward_first" not in metrics


def test_rows_with_one_and_with_several_references_are_trained_on_together(make_job: Make, kit, rewards) -> None:
    rows = [*kit.sums(4), *kit.sums(2, id="two", question="How?", reference=("yes", "aye"))[:1]]
    train_rl(make_job(), config(max_steps=2), system1=[], system2=rows)
    seen = {reference for completions, references in rewards.calls for reference in references}
    assert seen <= {"7", "2", "3", "4", "5", "yes"}


def test_a_completion_ends_with_the_turn_although_the_tokenizer_names_another_end(make_job: Make, kit, rewards) -> None:
    """Base models name `<|endoftext|>`; their template, and so SFT, ends a turn otherwise."""
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|endoftext|>' }}{% endfor %}"
    job = make_job(model=kit.TINY.model_copy(update={"chat_template": template}))
    with opened_trainer(job, config(), kit.sums(4)) as (_, trainer):
        assert sorted(trainer.eos_token_ids) == sorted(trainer.generation_config.eos_token_id) == [0, 2]


def test_completions_run_to_their_limit_where_no_token_ends_them(make_job: Make, kit, rewards) -> None:
    with opened_trainer(make_job(), config(), kit.sums(4)) as (session, trainer):
        trainer.end_completions(())
        prompts = [session.tokenizer("3+4=")["input_ids"]] * 4
        completions, _ = trainer._generate_single_turn(prompts, None, {}, 4)
        assert {len(completion) for completion in completions} == {config().max_completion_length}


def test_a_stop_string_ends_a_completion_and_counts_as_its_end(make_job: Make, kit, rewards) -> None:
    with opened_trainer(make_job(), config(), kit.sums(4)) as (session, trainer):
        strings = StopStrings(session.tokenizer)
        prompts = [session.tokenizer("3+4=")["input_ids"]] * 4
        trainer.end_completions(())
        torch.manual_seed(0)
        free, _ = trainer._generate_single_turn(prompts, None, {}, 4)
        strings.texts = (session.tokenizer.decode(free[1][2:4]),)
        trainer.end_completions((), strings)
        torch.manual_seed(0)
        completions, _ = trainer._generate_single_turn(prompts, None, {}, 4)
        assert completions == [strings.trim(one) for one in free]
        ended = [one for one in completions if strings.end(one)]
        assert ended
        assert all(strings.trim(one) == one and one[-1] in trainer.eos_token_ids for one in ended)
        assert not any(one[-1] in trainer.eos_token_ids for one in completions if not strings.end(one))
