"""Ask one model one benchmark, through lm-eval, and read its samples as answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.basemodel import answer_end
from lorapar.comparing import EXACT, AnswerRule
from lorapar.config import BenchmarkConfig, PromptConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks.groups import NamedGroup, load_named, parts
from lorapar.evaluation.benchmarks.kinds import LETTERS
from lorapar.evaluation.benchmarks.known_texts import ROLLING
from lorapar.evaluation.benchmarks.named import NamedTask, template_box
from lorapar.evaluation.benchmarks.quiet import silent
from lorapar.evaluation.benchmarks.rows import Benchmark, BenchmarkRows
from lorapar.evaluation.benchmarks.samples import group_scores, read_samples, scores
from lorapar.evaluation.benchmarks.scoring import likeliest
from lorapar.evaluation.benchmarks.tasks import build_tasks
from lorapar.evaluation.cache import RememberedModel
from lorapar.evaluation.engine import Engine
from lorapar.evaluation.summary import cut_answers
from lorapar.progress import Progress, log_omissions
from lorapar.prompts import opens_steps
from lorapar.ranks import Ranks
from lorapar.records import Answer, Omission

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase


_BOOTSTRAPS = 100
"""Samples for the standard error of metrics that are no mean; that of a mean is computed."""


@dataclass(frozen=True)
class Questioning:
    """How every model is asked every benchmark."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptConfig
    batch_size: int
    scratch: Path
    """Where responses are kept as they come."""
    on_add: Callable[[], None]
    progress: Progress
    seed: int = 0
    """Draws rows and worked examples of tasks by name."""
    remembered: Callable[..., RememberedModel | None] = lambda *_, **__: None
    """What a model has answered before, by its adapter and what else its answers depend on."""
    rule: AnswerRule = EXACT
    """How answers of gsm8k are compared."""


@dataclass(frozen=True)
class Asked:
    """One model's answers to one benchmark."""

    model: str
    benchmark: str
    answers: tuple[Answer, ...]
    seconds: float
    """Time that the model took, by one benchmark's journal, when it was asked."""
    recalled: int = 0
    """Responses that were known from an earlier run."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What lm-eval says of the task as a whole: `version`, `metric`, `score`, `stderr` (a number or "N/A"), and
    `scores`, every metric by lm-eval's own name for it."""
    omissions: tuple[Omission, ...] = ()
    """Prompts that lost their beginning, and answers that were cut off."""


def ask_all(
    contestants: dict[str, Path | None], engine: Engine, benchmarks: Sequence[Benchmark], how: Questioning
) -> list[Asked]:
    """Every contestant's answers to every benchmark."""
    found = []
    parts = [count] if (count := Ranks.here().count) > 1 else []
    for name, folder in contestants.items():
        with engine.asked(folder) as model, silent():
            asked = model.for_lm_eval(how.batch_size)
            for benchmark in benchmarks:
                # In a narrow number format a response depends on those beside it in lm-eval's batches.
                beside = [how.batch_size, benchmark.digest, *parts] if engine.answers_by_batch else None
                known = how.remembered(folder, chat=asks_by_chat(benchmark.config), beside=beside)
                found.append(ask(name, asked, benchmark, how, known))
    return found


def ask(name: str, model: LM, benchmark: Benchmark, how: Questioning, known: RememberedModel | None = None) -> Asked:
    """One model's answers to one benchmark; responses of an earlier, killed call are taken from its journal."""
    from lm_eval.evaluator import evaluate

    from lorapar.evaluation.benchmarks.journal import Journal, RememberingLM

    how.progress.start(f"asking {name}: {benchmark.name}", total=_requests(benchmark))

    def added() -> None:
        how.progress.advance()
        how.on_add()

    file, ranks = f"{name}-{benchmark.name}.jsonl", Ranks.here()
    journal = Journal(ranks.folder(how.scratch) / file, added, known)
    if not ranks.first:
        journal.take_in(how.scratch / file)
    how.progress.advance(len(journal))
    chat = asks_by_chat(benchmark.config)
    with silent(), template_box(benchmark.config):
        tasks, groups, places = _tasks(benchmark, how)
        journal.start_clock()
        results = evaluate(
            RememberingLM(model, journal),
            {"tasks": tasks, "groups": groups},
            samples=places,
            bootstrap_iters=_BOOTSTRAPS if places else 0,
            log_samples=True,
            system_instruction=_system_text(benchmark, how.prompts),
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    if isinstance(benchmark, NamedTask | NamedGroup):
        read = read_samples(name, benchmark, results["samples"], how.tokenizer)
        about = scores(benchmark, results) if isinstance(benchmark, NamedTask) else group_scores(benchmark, results)
    else:
        samples = [sample for task in tasks for sample in results["samples"][task]]
        read = [_answer(name, benchmark, one, how.tokenizer) for one in samples]
        about = {"version": str(next(iter(results["versions"].values())))}
    answers = sorted(read, key=lambda answer: answer.example_id)
    setting = f"max_new_tokens of {benchmark.name} in evaluate.benchmarks"
    omissions = (
        _cut_prompts(model, benchmark, results["samples"], how),
        cut_answers(answers, f"{name} to {benchmark.name}", _longest(benchmark), setting),
    )
    log_omissions(how.progress, omissions)
    return Asked(name, benchmark.name, tuple(answers), journal.seconds, journal.recalled, about, omissions)


def _tasks(
    benchmark: Benchmark, how: Questioning
) -> tuple[dict[str, Task], dict[str, Group], dict[str, list[int]] | None]:
    """Tasks that together ask a benchmark, the group they make up, and by task the places of the rows to ask."""
    if isinstance(benchmark, NamedTask | NamedGroup):
        # Built again: a task keeps the requests of the model that was asked before.
        fresh = load_named(benchmark.config, how.seed)
        tasks = {one.name: one.task for one in parts(fresh)}
        groups = {} if isinstance(fresh, NamedTask) else {fresh.name: fresh.group}
        return tasks, groups, {one.name: list(one.asked) for one in parts(fresh)}
    opened = asks_by_chat(benchmark.config) and opens_steps(how.tokenizer, how.prompts)
    return build_tasks(benchmark, how.rule, how.prompts.tags, opened=opened), {}, None


def _system_text(benchmark: Benchmark, prompts: PromptConfig) -> str | None:
    """The system message of a chat: of gsm8k that of rows with steps, of a task by name the one it names."""
    if not asks_by_chat(benchmark.config):
        return None
    if isinstance(benchmark, NamedTask | NamedGroup):
        system = benchmark.config.system
        return None if system is None else prompts.message_for(system)
    return prompts.message_for(prompts.reasoning_system) if benchmark.name == "gsm8k" else None


def _longest(benchmark: Benchmark) -> int:
    if isinstance(benchmark, BenchmarkRows):
        return benchmark.config.longest_answer
    return max(one.longest_answer for one in parts(benchmark))


def _cut_prompts(
    model: LM, benchmark: Benchmark, samples: Mapping[str, Sequence[dict[str, Any]]], how: Questioning
) -> Omission:
    """Prompts of which lm-eval takes the end only, because the model reads no more; its own warning is silenced."""
    longest: int | None = getattr(model, "max_length", None)
    long = 0
    for task, written in _written_of(benchmark, samples) if longest is not None else ():
        for sample in samples[task]:
            prompt = str(sample["arguments"][0][0])
            long += len(how.tokenizer(prompt, add_special_tokens=False)["input_ids"]) + written > (longest or 0)
    return Omission(
        count=long,
        total=sum(map(len, samples.values())),
        what=f"prompts of {benchmark.name} are cut at the beginning",
        why=f"with an answer they are longer than the {longest or 0:,} tokens that the model reads",
        remedy="lower few_shot or max_new_tokens",
    )


def _written_of(benchmark: Benchmark, samples: Iterable[str]) -> list[tuple[str, int]]:
    """By task the tokens that may follow a prompt; whole texts are read in parts, and lose none."""
    if isinstance(benchmark, BenchmarkRows):
        return [(task, 1 if benchmark.name == "mmlu" else _longest(benchmark)) for task in samples]
    return [(one.name, one.longest_answer if one.writes else 1) for one in parts(benchmark) if one.kind != ROLLING]


def asks_by_chat(config: BenchmarkConfig) -> bool:
    """Whether a benchmark is asked through the chat template."""
    return config.task == "gsm8k" and config.built_in if config.chat is None else config.chat


def _requests(benchmark: Benchmark) -> int:
    """Requests that lm-eval makes: one a row, of mmlu one a choice."""
    if isinstance(benchmark, NamedTask | NamedGroup):
        return benchmark.requests
    return sum(len(row.get("choices", "1")) for row in benchmark.rows)


def _answer(model: str, benchmark: BenchmarkRows, sample: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Answer:
    """A sample of lm-eval as an answer; of mmlu the text is the likeliest letter, which took no token."""
    responses = [response for (response,) in sample["resps"]]
    chosen = benchmark.name == "mmlu"
    if chosen and not all(math.isfinite(likelihood) for likelihood, _ in responses):
        raise BadInputError(f"{model}: {benchmark.name} row {sample['doc']['id']}: a likelihood is not finite")
    text = LETTERS[likeliest(responses)] if chosen else answer_end(tokenizer).cut(str(responses[0]))
    tokens = 0 if chosen else _tokens(text, tokenizer, benchmark.config.longest_answer)
    return Answer(
        example_id=sample["doc"]["id"],
        benchmark=benchmark.name,
        model=model,
        text=text,
        tokens=tokens,
        strict=_verdict(sample["strict"]),
        lenient=_verdict(sample["lenient"]),
        # Of code it says nothing: its stop texts end an answer without a token.
        cut_off=(benchmark.name == "gsm8k" and tokens >= benchmark.config.longest_answer) or None,
    )


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase, most: int) -> int:
    """Tokens of a text: lm-eval keeps no more of an answer; broken characters can take more than were generated."""
    return min(most, len(tokenizer(text, add_special_tokens=False)["input_ids"]))


def _verdict(value: float) -> bool | None:
    return None if math.isnan(value) else bool(value)
