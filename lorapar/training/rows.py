"""Which rows a stage trains on: SFT those of System 1, RL those of System 2, unless the settings say otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lorapar.config import PromptConfig, RlConfig, SftConfig
from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.prompts import Row, encode_rows, prompt_ids, prompt_messages, rows_of
from lorapar.records import Example, sample_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChosenRows:
    """The rows of one stage of training, each with the system it is asked as."""

    rows: list[Row]
    warmup_ids: list[str] = field(default_factory=list)
    """Ids of the System 2 rows that SFT saw."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why rows were left out, and how many for each reason."""

    def summary(self) -> dict[str, Any]:
        """For summary.json; a row that appears several times in an epoch counts as often."""
        systems = [system or "none" for _, system in self.rows]
        counts = {system: systems.count(system) for system in sorted(set(systems))}
        return {"rows": counts, "left_out": self.left_out, "warmup_ids": self.warmup_ids}


def sft_rows(
    system1: Sequence[Example], system2: Sequence[Example], config: SftConfig, seed: int, progress: Progress
) -> ChosenRows:
    """System 1 rows and the warm-up rows of System 2, or all rows; the warm-up rows are drawn by the seed."""
    if config.rows == "all":
        return ChosenRows([*rows_of(system1, "system1"), *rows_of(system2, "system2")])
    wanted = config.warmup_system2_examples
    drawn = sample_rows(system2, wanted, seed)
    if len(drawn) < wanted:
        progress.say(
            f"sft.warmup_system2_examples is {wanted}, but there are only {len(drawn)} System 2 rows: all are used"
        )
    warmup = rows_of(drawn, "system2") * config.warmup_repeats
    return ChosenRows([*rows_of(system1, "system1"), *warmup], [example.id for example in drawn])


def drop_unanswered(
    chosen: ChosenRows, tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig, max_length: int
) -> ChosenRows:
    """Leave out rows of which `max_length` tokens hold no answer token; raises BadInputError where none is left."""
    rows = [row for row in chosen.rows if encode_rows(tokenizer, [row], prompts, max_length)]
    if not rows:
        raise BadInputError(
            f"sft.max_length is {max_length}, which cuts off the whole answer of all {len(chosen.rows)} rows; raise it"
        )
    return ChosenRows(rows, chosen.warmup_ids, {"answer_beyond_max_length": len(chosen.rows) - len(rows)})


def rl_rows(
    system1: Sequence[Example],
    system2: Sequence[Example],
    config: RlConfig,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptConfig,
) -> ChosenRows:
    """System 2 rows (or all) that have a reference answer and a prompt that is not too long.

    Raises:
        BadInputError: none is left, or fewer than one step needs.
    """
    candidates = [*(rows_of(system1, "system1") if config.rows == "all" else []), *rows_of(system2, "system2")]
    referenced = [row for row in candidates if row[0].reference is not None]
    if not referenced:
        raise BadInputError(
            f"none of the {len(candidates)} rows for RL has a reference answer, so nothing can be rewarded; "
            "name the column with data.columns.reference or reference_pattern"
        )
    rows = [
        (example, system)
        for example, system in referenced
        if len(prompt_ids(tokenizer, prompt_messages(example, system, prompts))) <= config.max_prompt_length
    ]
    _check_enough(len(rows), len(referenced), config)
    left_out = {
        "no_reference": len(candidates) - len(referenced),
        "prompt_too_long": len(referenced) - len(rows),
    }
    return ChosenRows(rows, left_out=left_out)


def prompts_per_step(config: RlConfig) -> int:
    """Different prompts whose groups of completions make one optimiser step."""
    return config.batch_size * config.gradient_accumulation // config.num_generations


def _check_enough(count: int, referenced: int, config: RlConfig) -> None:
    if not count:
        raise BadInputError(
            f"rl.max_prompt_length is {config.max_prompt_length}, and the prompts of all {referenced} rows for RL are "
            "longer; raise it"
        )
    needed = prompts_per_step(config)
    if count < needed:
        raise BadInputError(
            f"one step of RL needs {needed} different prompts (rl.batch_size * gradient_accumulation / "
            f"num_generations) and there are only {count}; lower rl.batch_size or rl.gradient_accumulation"
        )
