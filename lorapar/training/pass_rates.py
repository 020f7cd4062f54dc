"""How often the adapter that RL begins with solves each row: `rl.filter` keeps those it neither always nor never does.

A group of completions that are all right or all wrong has no advantage, so GRPO learns nothing from it. The rows are
asked by the very trainer that RL uses: the same prompts, stop tokens, sampling and rewards, with either kind of
rollouts. Completions are remembered by content, like the answers of an evaluation, and are judged again every time; so
a call that was killed goes on, and other bounds or another learning rate ask nothing again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from lorapar.basemodel import load_tokenizer
from lorapar.basemodel.processor import processor
from lorapar.basemodel.resolve import require_unchanged
from lorapar.config import EvaluateConfig, ModelConfig, RlConfig, RowFilter
from lorapar.config.rollouts import ENGINES
from lorapar.errors import BadInputError
from lorapar.evaluation.cache import DECIDES_NOTHING, AnswerCache, RememberedModel, model_identity
from lorapar.own_code import code_digest
from lorapar.prompts import Row
from lorapar.records import Example, Omission, Record, System, digest_of
from lorapar.training.arguments import rl_arguments
from lorapar.training.quiet import quiet_libraries
from lorapar.training.reward_tools import RewardTools, opened_rewards
from lorapar.training.rewards import Reward
from lorapar.training.rl import completion_reader, completions_per_step, for_trl, grpo_trainer, rl_data, rl_sampler
from lorapar.training.rows import WARM_UP, prompts_per_step, rl_rows
from lorapar.training.session import FILTER, Method, TrainingJob, opened

RATES_FILE = "pass_rates.jsonl"
_TRL = metadata.version("trl")
_VLLM_COMPLETIONS = 512
"""At once, of an engine that queues for itself; transformers samples as many as RL does for a step."""


_JUDGING = frozenset(
    f"lorapar.{name}"
    for name in (
        *("answers", "comparing", "data", "evaluation", "plain_text", "quantities", "reading", "registry"),
        *(f"training.{one}" for one in ("judge", "own_rewards", "passes_tests", "reward_model", "reward_tools")),
        "training.rewards",
    )
)
"""What reads rows, judges completions and says how they were asked: none of it changes what is sampled."""


class PassRate(Record):
    """How many of a row's completions solve it."""

    id: str
    solved: int
    samples: int
    """Completions that a reward had a say about."""

    @property
    def rate(self) -> float | None:
        """The share; None where no completion was judged."""
        return self.solved / self.samples if self.samples else None


@dataclass(frozen=True)
class Kept:
    """What `rl.filter` made of the rows for RL."""

    rates: tuple[PassRate, ...]
    """Of every row that RL could learn from, in their order."""
    ids: frozenset[str]
    """Of the rows that are left out."""
    config: RlConfig
    recalled: int = 0
    """Rows whose completions were known from before."""

    def document(self) -> dict[str, Any]:
        """For summary.json."""
        chosen = self.config.filter or RowFilter()
        known = [rate for one in self.rates if (rate := one.rate) is not None]
        never, always = known.count(0.0), known.count(1.0)
        return {
            **chosen.model_dump(mode="json", exclude={"reward"}),
            "rewards": list(self.config.solving_rewards),
            "rows": len(self.rates),
            "never": never,
            "always": always,
            "outside_bounds": len(self.ids) - never - always,
            "not_judged": len(self.rates) - len(known),
            "kept": len(self.rates) - len(self.ids),
            "mean_pass_rate": sum(known) / len(known) if known else None,
            "histogram": _histogram(known, chosen.samples),
        }

    def omissions(self) -> tuple[Omission, ...]:
        """What was left out, as it is said."""
        document = self.document()
        of_all = f"of {document['samples']} completions of the adapter"
        warmed = f"warm them up in SFT ({WARM_UP}), or raise rl.filter.samples"
        bounds = f"their pass rates are not from {document['low']:g} to {document['high']:g}"
        causes = (
            ("never", f"none {of_all} solves them", warmed),
            ("always", f"each {of_all} solves them", "RL has nothing to teach there"),
            ("outside_bounds", bounds, "widen rl.filter.low and rl.filter.high"),
        )
        what, total = "rows left out by rl.filter", document["rows"]
        return tuple(
            Omission(count=document[key], total=total, what=what, why=why, remedy=remedy) for key, why, remedy in causes
        )

    def metrics(self) -> dict[str, float]:
        """The flat metrics of the stage."""
        document = self.document()
        names = ("rows", "never", "always", "outside_bounds", "not_judged", "kept")
        mean = {} if document["mean_pass_rate"] is None else {"filter_pass_rate": document["mean_pass_rate"]}
        counts = {f"filter_{name}": float(document[name]) for name in names}
        return {**counts, "filter_recalled": float(self.recalled), **mean}


def _histogram(rates: Sequence[float], samples: int) -> list[dict[str, Any]]:
    """Rows by pass rate, an entry for each number of solved completions; one judged in part counts to the nearest."""
    counts = Counter(round(rate * samples) for rate in rates)
    return [{"pass_rate": solved / samples, "rows": counts[solved]} for solved in range(samples + 1)]


def filter_rows(
    job: TrainingJob, config: RlConfig, *, system: System = "system2", tools: RewardTools, **rows: Sequence[Example]
) -> Kept:
    """Ask the adapter about each row that RL could learn from and say which are left out. Writes no output.

    `rows` are those of every system by its name, `system` is the one that RL tunes.

    Raises:
        BadInputError: a reward is faulty, no row can be used, or fewer are left than one step needs.
    """
    asking, chosen = _asking(config), config.filter or RowFilter()
    tokenizer = load_tokenizer(job.model, job.progress)
    asked = rl_rows(rows, system, config, tokenizer, job.prompts).rows
    with ExitStack() as stack:
        rewards = stack.enter_context(opened_rewards(asking, tools, job.model.dtype, job.progress))
        judge = _Judge(job, tokenizer, chosen.solved_from, rewards)
        asker = _Asker(job, tokenizer, asking, system, asked, rewards, stack)
        known = _remembered(job, asking, tools, stack)
        rates = tuple(_rates(job, asking, asked, asker, judge, known))
    left_out = frozenset(one.id for one in rates if not _is_kept(one, config))
    kept = Kept(rates, left_out, config, recalled=len(rates) - asker.rows)
    _require_enough(kept, config)
    return kept


def _asking(config: RlConfig) -> RlConfig:
    """RL's settings with the filter's completions of each row, and nothing that only learning needs."""
    if config.filter is None:
        raise AssertionError("rl.filter is not set")
    samples = config.filter.samples
    at_once = _VLLM_COMPLETIONS if config.rollouts in ENGINES else completions_per_step(config)
    changed = {
        "num_generations": samples,
        "batch_size": samples * max(1, at_once // samples),
        "gradient_accumulation": 1,
        "kl_beta": 0.0,
        "keep_rollouts": 0,
        "num_iterations": 1,
        "rewards": {name: config.rewards[name] for name in config.solving_rewards},
    }
    return config.model_copy(update=changed)


def _rates(
    job: TrainingJob, asking: RlConfig, rows: Sequence[Row], asker: _Asker, judge: _Judge, known: RememberedModel
) -> Iterator[PassRate]:
    """Of each row, some at a time: always the same ones together, because they are sampled together."""
    at_once, samples = asking.batch_size // asking.num_generations, asking.num_generations
    job.progress.start(f"asking {samples} times about each row (rl.filter)", total=len(rows))
    for start in range(0, len(rows), at_once):
        batch = rl_data(job, rows[start : start + at_once]).to_list()
        question = [[row["id"], row["prompt"]] for row in batch]
        (found,) = known.recall([question])
        if found is None:
            found = asker.complete([row for row in batch for _ in range(samples)], seed_of(job.seed, question))
            known.keep(question, found)
            job.keeper.tick()
        yield from judge.rates(batch, found["completions"], found["ids"])
        job.progress.advance(len(batch))


def seed_of(seed: int, question: Any) -> int:
    """The seed that rows are sampled with, whichever were asked before them in this call."""
    return int(digest_of([seed, question])[:8], 16)


class _Asker:
    """The adapter, sampled as RL does; loaded when it is first asked."""

    def __init__(
        self,
        job: TrainingJob,
        tokenizer: PreTrainedTokenizerBase,
        asking: RlConfig,
        system: System,
        rows: Sequence[Row],
        rewards: list[Reward],
        stack: ExitStack,
    ) -> None:
        self._job, self._tokenizer, self._asking = replace(job, scratch=job.scratch / "asking"), tokenizer, asking
        self._system = system
        self._rows, self._rewards, self._stack = rows, rewards, stack
        self._trainer: Any = None
        self.rows = 0
        """That were asked about."""

    def complete(self, rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
        """One completion of each row; a group of rows is the same one several times."""
        if self._trainer is None:
            self._trainer = self._opened()
        self.rows += len({row["id"] for row in rows})
        transformers.set_seed(seed)
        self._trainer.sampling_seed = seed  # an engine of vLLM does not see the random numbers of this process
        with torch.no_grad(), self._trainer.accelerator.autocast():
            made = self._trainer._generate([row["prompt"] for row in rows])
        return {"ids": [list(map(int, ids)) for ids in made[1]], "completions": made[3]}

    def _opened(self) -> Any:
        job, asking = self._job, self._asking
        (job.scratch / "trainer").mkdir(parents=True, exist_ok=True)
        arguments = rl_arguments(asking, job.model, self._rewards, job.seed, job.scratch)
        method = Method(FILTER, self._system, asking, arguments, lambda session: None, lambda logs: {})
        self._stack.enter_context(quiet_libraries(job.progress))
        sampler = self._stack.enter_context(rl_sampler(job, asking))
        session = self._stack.enter_context(opened(job, self._tokenizer, method))
        data = rl_data(job, self._rows)
        trainer = grpo_trainer(session, asking, arguments, self._rewards, data, sampler)
        session.masked.undo_casts()
        trainer.kept = None
        trainer.model.to(trainer.args.device).train()  # as RL does; dropout is off
        return trainer


class _Judge:
    """Whether completions solve their rows, by the rewards that say so."""

    def __init__(
        self, job: TrainingJob, tokenizer: PreTrainedTokenizerBase, solved_from: float, rewards: Sequence[Reward]
    ) -> None:
        self._solved_from = solved_from
        self._rewards = [for_trl(reward, completion_reader(tokenizer, job.prompts, reward)) for reward in rewards]

    def rates(
        self, rows: Sequence[Mapping[str, Any]], completions: Sequence[Any], ids: Sequence[Sequence[int]]
    ) -> Iterator[PassRate]:
        """Pass rates of rows; `completions` are as many for each, one row after the other."""
        samples = len(completions) // len(rows)
        repeated = [row for row in rows for _ in range(samples)]
        verdicts = self._verdicts(repeated, completions, ids)
        for place, row in enumerate(rows):
            own = [one for one in verdicts[place * samples : (place + 1) * samples] if one is not None]
            yield PassRate(id=row["id"], solved=sum(own), samples=len(own))

    def _verdicts(
        self, rows: Sequence[Mapping[str, Any]], completions: Sequence[Any], ids: Sequence[Sequence[int]]
    ) -> list[bool | None]:
        """Of each completion whether any reward calls it solved; None where none has a say."""
        columns = {name: [row[name] for row in rows] for name in ("reference", "question", "answer", "tests")}
        prompts = [row["prompt"] for row in rows]
        given = [
            reward(completions=completions, prompts=prompts, completion_ids=ids, **columns) for reward in self._rewards
        ]
        each = ([value for value in values if value is not None] for values in zip(*given, strict=True))
        return [max(values) >= self._solved_from if values else None for values in each]


def _remembered(job: TrainingJob, asking: RlConfig, tools: RewardTools, stack: ExitStack) -> RememberedModel:
    """Completions by all that decides them: model, adapter, prompts in words, sampling and seed; not the rewards."""
    vllm = asking.rollouts in ENGINES
    options = None if asking.vllm is None else asking.vllm.model_copy(update={"sleep": None})  # it decides nothing
    settings = EvaluateConfig(
        backend="vllm" if vllm else "transformers", vllm=options, max_new_tokens=asking.max_completion_length
    )
    sampling = asking.model_dump(
        mode="json", include={"num_generations", "batch_size", "temperature", "top_p", "share_prompts"}
    )
    if vllm:
        sampling["seeds"] = "of each row"  # completions of before it shared those of one batch
    require_unchanged(job.model)
    more = {"what": FILTER, "sampling": sampling, "trl": None if vllm else _TRL, "processor": _sampled_on(job, asking)}
    identity = model_identity(job.model, settings, job.adapter, job.seed, code=sampling_code(), **more)
    folder = tools.cache or job.scratch
    cache = AnswerCache(folder / "answers.sqlite", tools.store, job.progress, anew=tools.anew)
    return RememberedModel(stack.enter_context(cache), identity)


def _sampled_on(job: TrainingJob, asking: RlConfig) -> dict[str, Any] | None:
    """What computes them; None where that is a server of vLLM, which does not say."""
    if asking.rollouts == "server":
        return None
    return processor(threads=asking.rollouts == "transformers" and not _is_float32(job.model))


def _is_float32(model: ModelConfig) -> bool:
    return (model.dtype, model.autocast, model.quantization) == ("float32", "none", "none")


def sampling_code() -> str:
    """Digest of our code that samples the completions."""
    return code_digest(__name__, DECIDES_NOTHING | _JUDGING)


def _is_kept(one: PassRate, config: RlConfig) -> bool:
    """A row that no reward has a say about is kept: other rewards may."""
    chosen = config.filter or RowFilter()
    return one.rate is None or chosen.keeps(one.rate)


def _require_enough(kept: Kept, config: RlConfig) -> None:
    rates, needed = kept.document(), prompts_per_step(config)
    if rates["kept"] >= needed:
        return
    left = f"only {rates['kept']}" if rates["kept"] else "none"
    raise BadInputError(
        f"rl.filter: {left} of {rates['rows']} rows for RL is left, and one step needs {needed}: of {rates['samples']} "
        f"completions each, {rates['never']} rows are never solved, {rates['always']} always, and "
        f"{rates['outside_bounds']} are outside low and high; warm them up in SFT ({WARM_UP}), raise "
        "rl.filter.samples, widen its bounds, or set rl.filter to null"
    )
