"""Reinforcement learning of System 2's elements on System 2's rows, by TRL's GRPOTrainer (paper, section 4.2).

The reference model of the KL term is a setting. `sft` is the adapter as RL began: TRL keeps a copy of it under the
name `ref`, which costs the adapter's size once more. `base` is the model without any adapter, which costs nothing.
With `kl_beta` 0 there is no reference at all.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from lorapar.adapter import adapter_parameters, is_prompt
from lorapar.answers import References, all_references
from lorapar.basemodel import StopStrings, answer_end, load_tokenizer
from lorapar.config import PromptConfig, RlConfig
from lorapar.progress import Progress, log_omissions
from lorapar.prompts import Row, chat_rows, opens_steps
from lorapar.ranks import Ranks
from lorapar.records import OMISSIONS, Example, Omission, System, omissions_of, system_title
from lorapar.training.arguments import for_one_device, rl_arguments
from lorapar.training.columns import Columns
from lorapar.training.engine_trainer import UNLEARNED, EngineGRPOTrainer
from lorapar.training.ranks import failing_together, shared_arguments
from lorapar.training.reward_tools import RewardTools, opened_rewards
from lorapar.training.rewards import PASSES_TESTS, REWARDS, Reward
from lorapar.training.rows import WARM_UP, RowsBySystem, prompts_per_step, rl_rows, with_unseen
from lorapar.training.server_rollouts import server_rollouts
from lorapar.training.session import Method, Outcome, Session, TrainingJob, train, write_summary
from lorapar.training.trainers import NO_SAY, CarefulGRPOTrainer
from lorapar.training.vllm_rollouts import vllm_rollouts
from lorapar.training.watch import ROLLOUTS, KeptRollouts, Metrics, new_stall, stalls

Sampler = Callable[..., CarefulGRPOTrainer]
"""Makes the trainer, and with it says what samples completions."""

REFERENCE_ADAPTER = "ref"
"""Name TRL gives its copy of the adapter."""
LOGGED = {
    "reward": "reward",
    "kl": "kl",
    "completion_length": "completions/mean_length",
    "cut_off_share": "completions/clipped_ratio",
    "same_reward_share": "frac_reward_zero_std",
    "entropy": "entropy",
    # Only with rollouts by vLLM: how far its log-probabilities of the sampled tokens are from the trainer's.
    "rollout_difference": "sampling/sampling_logp_difference/mean",
    "rollout_ratio_least": "sampling/importance_sampling_ratio/min",
    "unlearned_share": UNLEARNED,
}
"""What the history calls a metric, and what TRL calls it. Shares are of completions and of groups of completions."""


def train_rl(
    job: TrainingJob,
    config: RlConfig,
    *,
    system: System = "system2",
    tools: RewardTools | None = None,
    **rows: Sequence[Example],
) -> Metrics:
    """Tune a system's elements by GRPO on its rows that have a reference answer; returns flat, finite metrics.

    Writes the adapter, history.jsonl and summary.json to `job.output`. `rows` are those of every system by its name;
    those of others are trained on only where `rl.rows` is `all`.

    Raises:
        BadInputError: a reward is faulty, no row or too few rows can be used, or the inputs do not fit one another.
        TrainingError: see `lorapar.training.session.train`.
    """
    tools = tools or RewardTools()
    with opened_rewards(config, tools, job.model.dtype, job.progress) as rewards:
        return _train(job, config, system, rows, rewards, tools)


def _train(
    job: TrainingJob,
    config: RlConfig,
    system: System,
    rows: RowsBySystem,
    rewards: list[Reward],
    tools: RewardTools,
) -> Metrics:
    tokenizer = load_tokenizer(job.model, job.progress)
    usable = rl_rows(rows, system, config, tokenizer, job.prompts)
    chosen = with_unseen(usable, config, prompts_per_step(config) / config.num_iterations)
    log_omissions(job.progress, chosen.omissions)
    arguments = rl_arguments(config, job.model, rewards, job.seed, job.scratch) | shared_arguments(config)
    data = rl_data(job, chosen.rows)

    watch = RewardWatch(rewards, completions_per_step(config), job.progress)

    with rl_sampler(job, config) as sampler:

        def make_trainer(session: Session) -> Any:
            return grpo_trainer(session, config, arguments, rewards, data, sampler)

        method = Method(
            f"tuning on {system_title(system)}",
            system,
            config,
            arguments,
            make_trainer,
            lambda logs: watch.noted(_flat(logs, rewards)),
            after_step=lambda steps: _log_stalls(steps, config, job.progress),
            steps_together=config.num_iterations,
        )
        outcome = train(job, tokenizer, method)
    metrics = _outcome_metrics(outcome, config)
    _warn_without_signal(int(metrics["steps_without_signal"]), len(sampled_in(outcome.steps)), job.progress)
    extra = {**metrics, **chosen.summary(), "reference": config.reference if config.kl_beta else None}
    extra |= watch.summary(outcome.steps)
    extra["stalls"] = [stall.document() for stall in stalls(outcome.steps, config)]
    if config.keep_rollouts and Ranks.here().first:
        shutil.copyfile(job.scratch / ROLLOUTS, job.output / ROLLOUTS)
    if judged := {reward.name: reward.function.counts() for reward in rewards if hasattr(reward.function, "counts")}:
        extra["judged"] = judged
    cut, undecided = _cut_completions(outcome, config), tools.rule.undecided()
    unlearned = _unlearned_completions(outcome, config)
    unread = [reward.function.cut() for reward in rewards if hasattr(reward.function, "cut")]
    found = [cut, unlearned, undecided, *unread]
    log_omissions(job.progress, found)
    extra[OMISSIONS] += omissions_of(*found)
    write_summary(job, outcome, method, {**extra, "reward_weights": config.reward_weights})
    metrics |= {"completions_cut_for_reward_models": float(sum(one.count for one in unread))} if unread else {}
    return {**metrics, **chosen.metrics(), "completions_cut": float(cut.count), **outcome.metrics()}


@contextmanager
def rl_sampler(job: TrainingJob, config: RlConfig) -> Iterator[Sampler]:
    """What makes TRL's trainer around whatever samples its completions, which is gone after the block."""
    if config.rollouts == "transformers":
        yield CarefulGRPOTrainer
        return
    opened = vllm_rollouts if config.rollouts == "vllm" else server_rollouts
    with opened(job, config) as rollouts:
        yield partial(EngineGRPOTrainer, rollouts=rollouts)


def grpo_trainer(
    session: Session,
    config: RlConfig,
    arguments: Mapping[str, Any],
    rewards: Sequence[Reward],
    data: Dataset,
    sampler: Sampler | None = None,
) -> Any:
    """TRL's GRPOTrainer on the session's model, with the reference model that the settings ask for."""
    end = answer_end(session.tokenizer)
    session.model.generation_config.eos_token_id = list(end.token_ids)  # TRL takes over what the model names
    trainer = (sampler or CarefulGRPOTrainer)(
        model=session.model,
        reward_funcs=[
            for_trl(reward, completion_reader(session.tokenizer, session.job.prompts, reward)) for reward in rewards
        ],
        args=for_one_device(GRPOConfig(**arguments)),
        train_dataset=data,
        processing_class=session.tokenizer,
        optimizers=(session.optimizer, None),
        share_prompts=config.share_prompts and not is_prompt(session.model),
        keep_order=config.needs_order,
        log=session.job.progress.log,
    )
    trainer.end_completions(end.token_ids, StopStrings(session.tokenizer))
    _copy_reference(session.model)
    if Ranks.here().first:
        trainer.kept = KeptRollouts(session.job.scratch / ROLLOUTS, config.keep_rollouts)
    if config.reference == "base" and REFERENCE_ADAPTER in session.model.peft_config:
        # TRL 1.16 always makes the copy. It takes the reference's log-probabilities with the copy where there is one,
        # and with the adapters switched off where there is none.
        session.model.delete_adapter(REFERENCE_ADAPTER)
    return trainer


def _copy_reference(model: Any) -> None:
    """Give the reference what TRL 1.16 does not copy, because their names end with the adapter's: scales of IA3."""
    if REFERENCE_ADAPTER not in model.peft_config:
        return
    reference = adapter_parameters(model, REFERENCE_ADAPTER)
    for name, parameter in adapter_parameters(model).items():
        reference[name].data.copy_(parameter.data)


def rl_data(job: TrainingJob, rows: Sequence[Row]) -> Dataset:
    """What TRL sees: the prompt to complete, and the references that the rewards compare with, as lists of texts."""
    listed = [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "reference": [] if row["reference"] is None else list(all_references(row["reference"])),
            "question": example.asked,
            "answer": example.answer,
            "tests": example.tests or "",
        }
        for row, (example, _) in zip(chat_rows(rows, job.prompts), rows, strict=True)
    ]
    return Dataset.from_list(listed)


def completion_reader(
    tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig, reward: Reward
) -> Callable[[str], str]:
    """A completion as a reward reads it: without what ends it, and for the built-in ones in the tags that they know."""
    end = answer_end(tokenizer)
    if reward.name not in (*REWARDS, PASSES_TESTS):
        return end.cut
    opened = opens_steps(tokenizer, prompts)
    return lambda text: prompts.tags.read(end.cut(text), opened=opened)


def for_trl(reward: Reward, read: Callable[[str], str]) -> Callable[..., list[float | None]]:
    """A reward as TRL calls it: with chat messages and the columns of the data; None means no judgement in TRL too."""

    def rewarded(completions: Sequence[Any], reference: Sequence[Sequence[str]], **columns: Any) -> list[float | None]:
        references: list[References] = [tuple(one) for one in reference]
        seen = Columns(
            questions=columns["question"],
            answers=columns["answer"],
            prompts=columns["prompts"],
            completion_ids=columns["completion_ids"],
            tests=columns["tests"],
        )
        with failing_together():
            return reward([read(completion[0]["content"]) for completion in completions], references, seen)

    rewarded.__name__ = reward.name
    return rewarded


def completions_per_step(config: RlConfig) -> int:
    """Completions that are sampled for one optimiser step."""
    return config.batch_size * config.gradient_accumulation


def sampled_in(steps: Sequence[Metrics]) -> list[Metrics]:
    """The steps that completions were sampled for; with `rl.num_iterations` others learn from them once more."""
    return [step for step in steps if "completion_length" in step]


class RewardWatch:
    """What rewards do not judge: told for every step, said at the first step that a reward is silent in."""

    def __init__(self, rewards: Sequence[Reward], completions: int, progress: Progress) -> None:
        self._names = [reward.name for reward in rewards]
        self._completions, self._progress = completions, progress
        self._named: set[str] = set()

    def noted(self, step: Metrics) -> Metrics:
        """The step's figures, as they are."""
        for name in self._names:
            if step.get(f"{NO_SAY}_{name}") == self._completions and name not in self._named:
                self._named.add(name)
                self._progress.log(
                    f"rl.rewards: {name} gave no value for any of the {self._completions} completions of a step (it "
                    "returned None for each)"
                )
        return step

    def summary(self, steps: Sequence[Metrics]) -> dict[str, Any]:
        """Completions by reward that it did not judge, and those that none judged; names the rewards that never did."""
        counts = {name: int(sum(step.get(f"{NO_SAY}_{name}", 0) for step in steps)) for name in self._names}
        total = self._completions * len(sampled_in(steps))
        for name in (name for name, count in counts.items() if total and count == total):
            self._progress.log(
                f"warning: rl.rewards: {name} gave no value at all: it returned None for all {total:,} completions, so "
                "its weight changed nothing"
            )
        nobody = int(sum(step.get(NO_SAY, 0) for step in steps))
        if nobody:
            self._progress.log(
                f"no reward had a say about {nobody:,} of {total:,} completions, so nothing was learned from them"
            )
        return {"completions": total, "no_say": {**counts, "every_reward": nobody}}


def _flat(logs: Mapping[str, Any], rewards: Sequence[Reward]) -> Metrics:
    """A step's figures; `kl` is there only where there is a reference. Means of single rewards are before weighing.

    What is not finite is left out: the mean of a reward that judged nothing in the whole step. Counts of completions
    without a say are told where there are some.
    """
    names = {**LOGGED, **{f"reward_{reward.name}": f"rewards/{reward.name}/mean" for reward in rewards}}
    found = {ours: float(logs[theirs]) for ours, theirs in names.items() if logs.get(theirs) is not None}
    silent = {f"{NO_SAY}_{reward.name}": logs.get(f"{NO_SAY}/{reward.name}") for reward in rewards}
    counts = {name: float(count) for name, count in {**silent, NO_SAY: logs.get(f"{NO_SAY}/")}.items() if count}
    return {name: value for name, value in {**found, **counts}.items() if math.isfinite(value)}


def _outcome_metrics(outcome: Outcome, config: RlConfig) -> Metrics:
    """What both the stage's metrics and summary.json tell."""
    return {
        **outcome.ends("reward"),
        **outcome.ends("completion_length"),
        **(outcome.ends("kl") if config.kl_beta else {}),
        "steps_without_signal": float(sum(_is_without_signal(step, config) for step in outcome.steps)),
    }


def _cut_completions(outcome: Outcome, config: RlConfig) -> Omission:
    """Completions that had not ended at the limit, in all steps."""
    each = completions_per_step(config)
    return Omission(
        count=round(sum(step.get("cut_off_share", 0.0) for step in outcome.steps) * each),
        total=len(sampled_in(outcome.steps)) * each,
        what="completions cut off",
        why=f"they had not ended after {config.max_completion_length:,} tokens",
        remedy="raise rl.max_completion_length, or teach the format in SFT first",
    )


def _unlearned_completions(outcome: Outcome, config: RlConfig) -> Omission:
    """Completions of vLLM that the trainer itself would hardly have written, in all steps."""
    each = completions_per_step(config)
    bounds = (
        f"{config.vllm_importance_sampling_clip_min or 0:g} to {config.vllm_importance_sampling_clip_max or math.inf:g}"
    )
    return Omission(
        count=round(sum(step.get("unlearned_share", 0.0) for step in outcome.steps) * each),
        total=len(sampled_in(outcome.steps)) * each,
        what="completions not learned from",
        why=f"how likely each is to the trainer, over how likely it was to vLLM, is not from {bounds}",
        remedy="set rl.vllm_importance_sampling_mode to sequence_truncate or token_truncate, or widen its bounds",
    )


def _is_without_signal(step: Metrics, config: RlConfig) -> bool:
    """Whether no completion of a step was better than another one of its group, or none was judged."""
    return step.get("same_reward_share") == 1 or step.get(NO_SAY) == completions_per_step(config)


def _log_stalls(steps: Sequence[Metrics], config: RlConfig, progress: Progress) -> None:
    for stall in new_stall(steps, config):
        progress.log(f"WARNING: {stall.line}")


def _warn_without_signal(count: int, steps: int, progress: Progress) -> None:
    if count:
        progress.log(
            f"in {count} of {steps} steps all completions of each prompt had the same reward, so nothing was learned "
            f"from them; a higher rl.temperature helps, or more of a warm-up in SFT ({WARM_UP})"
        )
