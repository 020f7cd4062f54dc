"""Which rows a stage trains on: SFT those of System 1, RL those of System 2, unless the settings say otherwise.

A phase that names its system trains on the rows of that one. Rows are given by the names of their systems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lorapar.config import PromptConfig, RlConfig, SftConfig
from lorapar.data.mapping import is_short
from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.prompts import Encoded, Row, fit_rows, prompt_ids, prompt_messages, rows_of
from lorapar.records import OMISSIONS, Example, Omission, System, omissions_of, sample_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RowsBySystem = Mapping[System, Sequence[Example]]
WARM_UP = "sft.warmup_system2_examples; with systems of your own a phase with SFT before"
"""How SFT shows a model the form of the answers that RL rewards."""


@dataclass(frozen=True)
class ChosenRows:
    """The rows of one stage of training, each with the system it is asked as."""

    rows: list[Row]
    warmup_ids: list[str] = field(default_factory=list)
    """Ids of the System 2 rows that SFT saw."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why rows were left out, and how many for each reason."""
    omissions: tuple[Omission, ...] = ()
    """The same, and rows that were cut, as it is said."""
    encoded: list[Encoded] = field(default_factory=list, repr=False)
    """Of SFT: token ids and labels of each row."""

    def summary(self) -> dict[str, Any]:
        """For summary.json; a row that appears several times in an epoch counts as often."""
        systems = [system or "none" for _, system in self.rows]
        counts = {system: systems.count(system) for system in sorted(set(systems))}
        return {
            "rows": counts,
            "left_out": self.left_out,
            "warmup_ids": self.warmup_ids,
            OMISSIONS: omissions_of(*self.omissions),
        }

    def metrics(self) -> dict[str, float]:
        """For the stage's metrics: rows trained on, left out, and cut."""
        cut = self.left_out.get("cut", 0)
        return {
            "rows": float(len(self.rows)),
            "rows_left_out": float(sum(self.left_out.values()) - cut),
            "rows_cut": float(cut),
        }


def sft_rows(rows: RowsBySystem, system: System, config: SftConfig, seed: int, progress: Progress) -> ChosenRows:
    """A system's rows and, of System 1, the warm-up rows of System 2, drawn by the seed; or all rows."""
    if config.rows == "all":
        return ChosenRows(_all_rows(rows))
    own = rows_of(rows.get(system, ()), system)
    wanted = config.warmup_system2_examples if system == "system1" else 0
    drawn = sample_rows(rows.get("system2", ()), wanted, seed)
    if len(drawn) < wanted:
        progress.log(
            f"sft.warmup_system2_examples is {wanted}, but there are only {len(drawn)} System 2 rows: all are used"
        )
    warmup = rows_of(drawn, "system2") * config.warmup_repeats
    return ChosenRows([*own, *warmup], [example.id for example in drawn])


def drop_unanswered(
    chosen: ChosenRows, tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig, config: SftConfig
) -> ChosenRows:
    """Encode the rows, without those of which `max_length` tokens hold no answer token.

    Raises:
        BadInputError: none is left.
    """
    max_length = config.max_length
    found = fit_rows(tokenizer, chosen.rows, prompts, max_length, "sft.max_length", config.train_on)
    if not found.rows:
        raise BadInputError(
            f"sft.max_length is {max_length}, which cuts off the whole answer of all {len(chosen.rows)} rows; raise it"
        )
    left_out, cut = found.omissions[:2]
    counts = {"answer_beyond_max_length": left_out.count}
    if cut.count:
        counts["cut"] = cut.count
    return ChosenRows(found.rows, chosen.warmup_ids, counts, found.omissions, found.encoded)


def tokens_read(chosen: ChosenRows, steps: int, rows_a_step: int) -> int:
    """Tokens of all rows, prompts and answers, that so many steps of SFT read; of part of an epoch, its share."""
    an_epoch = sum(len(row["input_ids"]) for row in chosen.encoded)
    return round(an_epoch * steps / math.ceil(len(chosen.encoded) / rows_a_step))


def _all_rows(rows: RowsBySystem) -> list[Row]:
    return [row for system, examples in rows.items() for row in rows_of(examples, system)]


def rl_rows(
    rows: RowsBySystem, system: System, config: RlConfig, tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig
) -> ChosenRows:
    """A system's rows (or all) that have a reference answer and a prompt that is not too long.

    Raises:
        BadInputError: none is left, or fewer than one step needs.
    """
    candidates = _all_rows(rows) if config.rows == "all" else rows_of(rows.get(system, ()), system)
    referenced = [row for row in candidates if _can_be_rewarded(row[0], config)]
    if not referenced:
        raise BadInputError(
            f"none of the {len(candidates)} rows for RL has a reference answer, so nothing can be rewarded; "
            f"{_where_references_are(candidates)}, let a judge or a reward model reward them (rl.rewards), or end "
            "before RL (--until sft)"
        )
    lengths = [len(prompt_ids(tokenizer, prompt_messages(*row, prompts))) for row in referenced]
    fitting = [row for row, length in zip(referenced, lengths, strict=True) if length <= config.max_prompt_length]
    _check_enough(len(fitting), lengths, config)
    left_out = {
        "no_reference": len(candidates) - len(referenced),
        "prompt_too_long": len(referenced) - len(fitting),
    }
    return ChosenRows(
        fitting,
        left_out=left_out,
        omissions=_rl_omissions(left_out, len(candidates), len(fitting), max(lengths), config),
    )


def _where_references_are(rows: Sequence[Row]) -> str:
    if all(is_short(example.answer) for example, _ in rows):
        return "their answers are short: name the answers' own column as data.columns.reference, too"
    return "name the column with data.columns.reference or reference_pattern"


def _can_be_rewarded(example: Example, config: RlConfig) -> bool:
    """Whether a row has a short answer, or tests that are asked for, or a judge or reward model needs neither."""
    if example.tests is not None and "passes_tests" in config.rewards:
        return True
    return example.reference is not None or any(one.brings_its_own for one in config.reward_configs().values())


def _rl_omissions(
    left_out: dict[str, int], candidates: int, rows: int, longest: int, config: RlConfig
) -> tuple[Omission, ...]:
    needed = prompts_per_step(config)
    return (
        Omission(
            count=left_out["prompt_too_long"],
            total=candidates,
            what="rows left out",
            why=f"their prompts are longer than {config.max_prompt_length:,} tokens (the longest: {longest:,})",
            remedy="raise rl.max_prompt_length",
        ),
        Omission(
            count=left_out["no_reference"],
            total=candidates,
            what="rows left out",
            why="they have no reference answer, so nothing could be rewarded",
            remedy="name data.columns.reference or reference_pattern",
        ),
        Omission(
            count=rows % needed,
            total=rows,
            what="rows are not seen in an epoch",
            why=f"a step takes {needed:,} prompts, and the last ones do not fill one (others in every epoch)",
            remedy="lower rl.batch_size or rl.gradient_accumulation if that matters",
        ),
    )


def prompts_per_step(config: RlConfig) -> int:
    """Different prompts whose groups of completions make one optimiser step."""
    return config.batch_size * config.gradient_accumulation // config.num_generations


def with_unseen(chosen: ChosenRows, config: SftConfig | RlConfig, rows_per_step: float) -> ChosenRows:
    """The rows, and as an omission those that are not seen once, because the settings end training before."""
    rows = len(chosen.rows)
    seen = config.epochs * rows if config.max_steps is None else config.max_steps * rows_per_step
    section = "sft" if isinstance(config, SftConfig) else "rl"
    setting = "epochs" if config.max_steps is None else "max_steps"
    unseen = Omission(
        count=max(math.ceil(rows - seen), 0),
        total=rows,
        what="rows are not seen",
        why=f"{section}.{setting} is {getattr(config, setting):g}",
        remedy="raise it to train on all of them",
        meant=config.max_steps is not None,
    )
    return replace(chosen, omissions=(*chosen.omissions, unseen))


def _check_enough(count: int, lengths: Sequence[int], config: RlConfig) -> None:
    if not count:
        raise BadInputError(
            f"rl.max_prompt_length is {config.max_prompt_length}, and the prompts of all {len(lengths)} rows for RL "
            f"are longer: {min(lengths):,} to {max(lengths):,} tokens; raise it as far as the model's context allows"
        )
    needed = prompts_per_step(config)
    if count < needed:
        raise BadInputError(
            f"one step of RL needs {needed} different prompts (rl.batch_size * gradient_accumulation / "
            f"num_generations) and there are only {count}; lower rl.batch_size or rl.gradient_accumulation"
        )
