"""Supervised tuning of System 1's elements on System 1's rows, by TRL's SFTTrainer (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import SFTConfig

from lorapar.basemodel import load_tokenizer
from lorapar.config import SftConfig
from lorapar.progress import log_omissions
from lorapar.records import Example, System, system_title
from lorapar.training.arguments import for_one_device, sft_arguments
from lorapar.training.ranks import shared_arguments
from lorapar.training.rows import drop_unanswered, sft_rows, tokens_read, with_unseen
from lorapar.training.session import Method, Session, TrainingJob, train, write_summary
from lorapar.training.trainers import CarefulSFTTrainer, RowAverageSFTTrainer
from lorapar.training.watch import Metrics


def train_sft(job: TrainingJob, config: SftConfig, *, system: System = "system1", **rows: Sequence[Example]) -> Metrics:
    """Tune a system's elements on its rows (System 1's also on warm-up rows of System 2, where set).

    `rows` are those of every system by its name. Returns flat, finite metrics.
    Writes the adapter, history.jsonl and summary.json to `job.output`.

    Raises:
        BadInputError: no row has an answer token within `max_length`, or the inputs do not fit one another.
        TrainingError: see `lorapar.training.session.train`.
    """
    tokenizer = load_tokenizer(job.model, job.progress)
    drawn = sft_rows(rows, system, config, job.seed, job.progress)
    answered = drop_unanswered(drawn, tokenizer, job.prompts, config)
    chosen = with_unseen(answered, config, config.batch_size * config.gradient_accumulation)
    log_omissions(job.progress, chosen.omissions)
    # Encoded here and not by TRL, so that what is learned is what is scored and evaluated: the whole answer of a row.
    ids = [{"id": example.id} for example, _ in chosen.rows]
    data = Dataset.from_list([{**one, **row} for one, row in zip(ids, chosen.encoded, strict=True)])
    arguments = sft_arguments(config, job.model, job.seed, job.scratch) | shared_arguments(config)

    def make_trainer(session: Session) -> Any:
        trainer = RowAverageSFTTrainer if config.loss_average == "row" else CarefulSFTTrainer
        return trainer(
            model=session.model,
            args=for_one_device(SFTConfig(**arguments)),
            train_dataset=data,
            processing_class=tokenizer,
            optimizers=(session.optimizer, None),
            split_by_length=config.split_by_length,
        )

    method = Method(
        f"tuning on {system_title(system)}", system, config, arguments, make_trainer, metrics=lambda logs: {}
    )
    outcome = train(job, tokenizer, method)
    loss = outcome.ends("loss")
    extra = {**loss, **chosen.summary(), "warmup_repeats": config.warmup_repeats, "loss_average": config.loss_average}
    extra["split_by_length"] = config.split_by_length
    read = tokens_read(chosen, len(outcome.steps), config.batch_size * config.gradient_accumulation)
    extra["tokens_read"] = read
    write_summary(job, outcome, method, extra)
    return {
        **{f"sft_{key}": value for key, value in loss.items()},
        "tokens_read": float(read),
        **chosen.metrics(),
        **outcome.metrics(),
    }
