"""evaluate: what base, adapter after SFT, published adapter and incumbent answer to the same rows and benchmarks.

summary.json holds `base`, `after_sft`, `after_rl` (the adapter as published) and, where there is one, `incumbent`, each
with, by system, `_rows`, `_loss` (mean over rows, nats), `_cut_off` (share of answers that had not ended at the limit),
`_accuracy` and `_interval` (strict rule, Wilson), `_lenient_accuracy` and `_lenient_interval`, and with
`seconds_per_answer` (generation only, in batches) and `tokens_per_answer`; under `benchmarks` the same by
benchmark, with the task's `version` and, of tasks by name, `metric`, `score`, `stderr` (a number or "N/A") and all
`scores`; judges and reward models are there too, under the name of their measure;
`changes` (see `lorapar.evaluation.all_changes`); `confidence`, the level of all intervals; and `omissions`, what could
not be judged or was cut off. answers.jsonl holds every answer with its verdicts, problems.jsonl what is needed to run
answers that are code.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.basemodel.shape import context_length
from lorapar.comparing import AnswerRule, answer_rule
from lorapar.config import SYSTEMS, Comparison, EvaluateConfig, ModelConfig, PromptConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.benchmarks import Benchmark, load_benchmark, write_problems
from lorapar.imports import MODEL_LIBRARIES, import_at_once
from lorapar.progress import log_omissions
from lorapar.ranks import Ranks, gather_lines
from lorapar.records import (
    OMISSIONS,
    Answer,
    Example,
    Omission,
    System,
    omissions_of,
    read_records,
    sample_rows,
    write_json,
    write_records,
)
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec
from lorapar.stages.judging import judge_answers, require_rows
from lorapar.stages.processes import parts_count, run_in_processes
from lorapar.training.shares import ANSWERS_IN_ONE

if TYPE_CHECKING:
    from lorapar.evaluation import AnswerJournal, Asking
    from lorapar.evaluation.answers import Batch
    from lorapar.evaluation.benchmarks.ask import Asked
    from lorapar.evaluation.cache import RememberedModel
    from lorapar.evaluation.engine import Engine

MODELS = ("base", "after_sft", "after_rl")
_ANSWERS = "answers.jsonl"


class Settings(StageSettings):
    """The base model, how rows are asked and answers compared, how many, and the seed that draws them."""

    model: ModelConfig
    prompts: PromptConfig
    evaluate: EvaluateConfig
    seed: int
    answers: Comparison = "exact"
    system_names: tuple[System, ...] = SYSTEMS


SPEC = StageSpec(
    name="evaluate",
    summary="held-out and benchmark scores of base, after SFT, after RL and the incumbent",
    settings=Settings,
    inputs=("heldout", "after_sft", "published", "incumbent"),
    outputs=("evaluation",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write answers.jsonl, summary.json and problems.jsonl; answers of an earlier, killed call come from scratch."""
    if (processes := _process_count(call)) > 1:
        return run_in_processes(SPEC.name, call, processes)
    with answer_rule(call.settings.answers) as rule:
        return _evaluate(call, rule)


def _process_count(call: StageCall[Settings]) -> int:
    """One a GPU, as far as there are rows for them."""
    evaluate = call.settings.evaluate
    batches = -(-len(_heldout_rows(call)) // evaluate.batch_size)
    count = parts_count(call, sys.maxsize if evaluate.benchmarks else batches)
    if count > 1 and evaluate.backend == "vllm":
        call.progress.log(ANSWERS_IN_ONE)
        return 1
    return count


def _evaluate(call: StageCall[Settings], rule: AnswerRule) -> Metrics:
    import_at_once(*MODEL_LIBRARIES)
    from lorapar.basemodel import load_tokenizer
    from lorapar.evaluation import Asking, answer_all, plan_batches
    from lorapar.evaluation.engine import open_engine

    settings = call.settings
    benchmarks = [load_benchmark(one, settings.seed) for one in settings.evaluate.benchmarks]
    for remark in (remark for one in benchmarks for remark in one.remarks):
        call.progress.log(f"evaluate.benchmarks: {remark}")
    tokenizer = load_tokenizer(settings.model, call.progress)
    rows = _heldout_rows(call)
    _log_limit(call, rows)
    require_rows(settings.evaluate.judges, rows)
    batches = plan_batches(rows, tokenizer, settings.prompts, settings.evaluate.batch_size)
    journal = _book(call)
    if len(journal):
        call.progress.log(f"going on after {len(journal)} batches that were answered before")
    contestants = _contestants(call)
    asking = Asking(tokenizer, settings.prompts, settings.evaluate, rule)
    with ExitStack() as stack:
        adapters = contestants.values()
        engine = stack.enter_context(open_engine(settings.model, settings.evaluate, tokenizer, adapters, call.progress))
        remembered = remembered_answers(call, asking, engine, stack)
        answer_all(contestants, engine, batches, asking, journal, call.progress, remembered)
        asked = _ask_benchmarks(call, contestants, engine, benchmarks, remembered, rule) if benchmarks else []
    undecided = _of_all(rule.undecided())  # nobody gets past this before all have answered
    beside = [undecided, _beyond_context(call, batches)]
    if not Ranks.here().first:
        return {}
    for path in call.scratch.glob(f"rank-*/{_ANSWERS}"):
        journal.take_in(path)
    asked += _judged(call, rows, journal, tuple(contestants))
    _log_recalled(call, journal, asked, contestants)
    write_problems(call.output("evaluation"), benchmarks)
    return _write(call, journal, asked, tuple(contestants), beside)


def _book(call: StageCall[Settings]) -> AnswerJournal:
    """What is answered already, and where this process adds to it."""
    from lorapar.evaluation import AnswerJournal

    ranks = Ranks.here()
    if ranks.first:
        gather_lines(call.scratch)
    ranks.wait()
    journal = AnswerJournal(ranks.folder(call.scratch) / _ANSWERS, call.keeper.tick)
    if not ranks.first:
        journal.take_in(call.scratch / _ANSWERS)
    ranks.wait()
    return journal


def _of_all(undecided: Omission) -> Omission:
    """What this process and the others came to no verdict on."""
    found = [Omission.model_validate_json(one) for one in Ranks.here().texts(undecided.model_dump_json())]
    shown = next((one for one in found if one.count), found[0])
    return shown.model_copy(update={key: sum(getattr(one, key) for one in found) for key in ("count", "total")})


def _contestants(call: StageCall[Settings]) -> dict[str, Path | None]:
    """By name, the folder of its adapter; the incumbent only where there is one."""
    found = {"base": None, "after_sft": call.input("after_sft"), "after_rl": call.input("published")}
    incumbent = call.input("incumbent") / "adapter"
    return {**found, "incumbent": incumbent} if incumbent.is_dir() else found


def remembered_answers(
    call: StageCall[Any], asking: Asking, engine: Engine, stack: ExitStack
) -> Callable[..., RememberedModel | None]:
    """By a model's adapter, what it has answered in earlier runs; None where there is nothing to remember it in.

    Raises BadInputError where the files of a local model are not those that `plan` saw.
    """
    from lorapar.basemodel import answer_end
    from lorapar.basemodel.processor import processor
    from lorapar.basemodel.resolve import require_unchanged
    from lorapar.evaluation.cache import AnswerCache, RememberedModel, model_identity

    if call.cache is None and call.store is None:
        return lambda *_, **__: None
    require_unchanged(call.settings.model)
    # Not in the scratch folder: what is there is copied to the store, and the store has these answers already.
    folder = call.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorapar-answers-")))
    cache = stack.enter_context(AnswerCache(folder / "answers.sqlite", call.store, call.progress, anew=call.anew))
    settings, end = call.settings, answer_end(asking.tokenizer)
    where, evaluate = processor(threads=engine.answers_by_batch), asking.settings
    if engine.backend != evaluate.backend:
        evaluate = evaluate.model_copy(update={"backend": engine.backend, "vllm": None})

    def remembered(adapter: Path | None, **more: Any) -> RememberedModel:
        strings = {"strings": end.strings} if end.strings else {}
        more = {"stops": end.token_ids, **strings, "processor": where, **more}
        return RememberedModel(cache, model_identity(settings.model, evaluate, adapter, settings.seed, **more))

    return remembered


def _recalled(journal: AnswerJournal, asked: list[Asked], model: str) -> int:
    rows = sum(len(batch.answers) for batch in journal.of(model) if batch.recalled)
    return rows + sum(one.recalled for one in asked if one.model == model)


def _log_recalled(
    call: StageCall[Settings], journal: AnswerJournal, asked: list[Asked], contestants: Iterable[str]
) -> None:
    found = {name: count for name in contestants if (count := _recalled(journal, asked, name))}
    if found:
        each = ", ".join(f"{name} {count:,}" for name, count in found.items())
        call.progress.log(f"answers known from an earlier run, not asked again: {each}")


def _ask_benchmarks(
    call: StageCall[Settings],
    contestants: dict[str, Path | None],
    engine: Engine,
    benchmarks: list[Benchmark],
    remembered: Callable[..., RememberedModel | None],
    rule: AnswerRule,
) -> list[Asked]:
    from lorapar.basemodel import load_tokenizer
    from lorapar.evaluation.benchmarks.ask import Questioning, ask_all

    how = Questioning(
        tokenizer=load_tokenizer(call.settings.model),
        prompts=call.settings.prompts,
        batch_size=call.settings.evaluate.batch_size,
        scratch=call.scratch,
        on_add=call.keeper.tick,
        progress=call.progress,
        seed=call.settings.seed,
        remembered=remembered,
        rule=rule,
    )
    return ask_all(contestants, engine, benchmarks, how)


def _judged(
    call: StageCall[Settings], rows: list[tuple[Example, System]], journal: AnswerJournal, models: tuple[str, ...]
) -> list[Asked]:
    """What judges and reward models say about the held-out answers; the models that gave them are freed by now."""
    from lorapar.training.reward_tools import RewardTools

    settings = call.settings
    if not settings.evaluate.judges:
        return []
    answers = {name: _in_order(answer for batch in journal.of(name) for answer in batch.answers) for name in models}
    tools = RewardTools(cache=call.cache, store=call.store, anew=call.anew)
    return judge_answers(settings.evaluate, rows, answers, tools, settings.model.dtype, call.progress)


def _heldout_rows(call: StageCall[Settings]) -> list[tuple[Example, System]]:
    limit, seed = call.settings.evaluate.limit, call.settings.seed
    rows: list[tuple[Example, System]] = []
    for system in call.settings.system_names:
        examples = list(read_records(call.input("heldout") / f"{system}.jsonl", Example))
        rows += [(row, system) for row in sample_rows(examples, limit or len(examples), seed)]
    if not rows:
        raise BadInputError(
            f"{call.input('heldout')}: no held-out row, so nothing can be evaluated; raise data.heldout"
        )
    return rows


def _log_limit(call: StageCall[Settings], rows: Sequence[tuple[Example, System]]) -> None:
    """Say how many held-out rows are asked where the settings want fewer than there are."""
    limit = call.settings.evaluate.limit
    for system in call.settings.system_names if limit is not None else ():
        there = sum(1 for _ in read_records(call.input("heldout") / f"{system}.jsonl", Example))
        asked = sum(own == system for _, own in rows)
        if asked < there:
            call.progress.log(
                f"evaluate.limit is {limit:,}: {asked:,} of {there:,} held-out rows of {system} are asked"
            )


def _write(
    call: StageCall[Settings],
    journal: AnswerJournal,
    asked: list[Asked],
    models: tuple[str, ...],
    beside: list[Omission],
) -> Metrics:
    from lorapar.evaluation import all_changes, benchmark_metrics, flat_metrics, model_metrics

    confidence = call.settings.evaluate.confidence
    batches = {name: journal.of(name) for name in models}
    answers = {name: _in_order(answer for batch in batches[name] for answer in batch.answers) for name in models}
    omissions = [*_heldout_omissions(call, answers), *beside]
    log_omissions(call.progress, omissions)
    omissions += [omission for one in asked for omission in one.omissions]
    systems = call.settings.system_names
    by_model = {name: model_metrics(batches[name], confidence, systems) for name in models}
    for one in asked:
        answers[one.model] += one.answers
        scores = {**benchmark_metrics(one.answers, one.seconds, confidence), **one.about}
        by_model[one.model].setdefault("benchmarks", {})[one.benchmark] = scores
    folder = call.output("evaluation")
    write_records(folder / "answers.jsonl", (answer for name in models for answer in answers[name]))
    changes = all_changes({name: answers[name] for name in MODELS}, confidence)
    write_json(
        folder / "summary.json",
        {**by_model, "changes": changes, "confidence": confidence, OMISSIONS: omissions_of(*omissions)},
    )
    metrics = flat_metrics(by_model)
    # What people look for first stands first.
    first = tuple(f"{system}_accuracy" for system in systems)
    metrics = {name: metrics[name] for name in sorted(metrics, key=lambda name: not name.endswith(first))}
    seconds = sum(batch.seconds for name in models for batch in batches[name]) + sum(one.seconds for one in asked)
    return {**metrics, "seconds": seconds, "recalled": float(sum(_recalled(journal, asked, name) for name in models))}


def _heldout_omissions(call: StageCall[Settings], answers: dict[str, list[Answer]]) -> list[Omission]:
    """Held-out rows that cannot be judged, and every model's answers that were cut off."""
    from lorapar.evaluation.summary import cut_answers

    limit = call.settings.evaluate.max_new_tokens
    rows = answers[MODELS[0]]
    unjudged = Omission(
        count=sum(answer.strict is None for answer in rows),
        total=len(rows),
        what="held-out rows have no reference answer",
        why="they have a loss and count in no accuracy",
        remedy="name data.columns.reference or reference_pattern",
    )
    cut = [cut_answers(answers[model], model, limit, "evaluate.max_new_tokens") for model in answers]
    return [unjudged, *cut]


def _beyond_context(call: StageCall[Settings], batches: Sequence[Batch]) -> Omission:
    """Held-out rows whose prompt leaves no room for the longest answer in what the model reads at once."""
    evaluate = call.settings.evaluate
    longest = (evaluate.vllm.max_model_len if evaluate.vllm else None) or context_length(call.settings.model)
    prompts = [len(prompt) for batch in batches for prompt in batch.prompts]
    return Omission(
        count=sum(longest is not None and one + evaluate.max_new_tokens > longest for one in prompts),
        total=len(prompts),
        what="held-out rows do not fit into what the model reads at once",
        why=f"with an answer of evaluate.max_new_tokens they are longer than {longest or 0:,} tokens, and what is "
        "written beyond them is cut off or means nothing",
        remedy="lower evaluate.max_new_tokens, or leave long rows out (data.length.max_tokens)",
    )


def _in_order(answers: Iterable[Answer]) -> list[Answer]:
    return sorted(answers, key=lambda answer: (str(answer.system), answer.example_id))
