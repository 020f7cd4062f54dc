"""evaluate: what the base, the adapter after SFT and the published adapter answer to the same held-out rows.

summary.json holds `base`, `after_sft` and `after_rl`, each with, by system, `_rows`, `_loss` (mean over rows, nats),
`_accuracy` and `_interval` (strict rule, Wilson), `_lenient_accuracy` and `_lenient_interval`, and with
`seconds_per_answer` (generation only, in batches) and `tokens_per_answer`; `changes` (see
`lorapar.evaluation.all_changes`); and `confidence`, the level of all intervals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from lorapar.config import EvaluateConfig, ModelConfig, PromptConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, System, read_records, sample_rows, write_json, write_records
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec

if TYPE_CHECKING:
    from lorapar.evaluation import AnswerBook

_FIRST = ("system1_accuracy", "system2_accuracy")
MODELS = ("base", "after_sft", "after_rl")


class Settings(StageSettings):
    """The base model, how rows are asked, how many, and the seed that draws them."""

    model: ModelConfig
    prompts: PromptConfig
    evaluate: EvaluateConfig
    seed: int


SPEC = StageSpec(
    name="evaluate",
    summary="held-out scores of base, after SFT and after RL",
    settings=Settings,
    inputs=("heldout", "after_sft", "published", "incumbent"),
    outputs=("evaluation",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write answers.jsonl and summary.json; answers of an earlier, killed call are taken from scratch."""
    from lorapar.basemodel import load_model, load_tokenizer
    from lorapar.evaluation import AnswerBook, Asking, answer_all, plan_batches

    settings = call.settings
    tokenizer = load_tokenizer(settings.model, call.progress)
    rows = _heldout_rows(call)
    batches = plan_batches(rows, tokenizer, settings.prompts, settings.evaluate.batch_size)
    book = AnswerBook(call.scratch / "answers.jsonl", call.keeper.tick)
    if len(book):
        call.progress.say(f"going on after {len(book)} batches that were answered before")
    contestants = {"base": None, "after_sft": call.input("after_sft"), "after_rl": call.input("published")}
    if (call.input("incumbent") / "adapter").is_dir():
        contestants["incumbent"] = call.input("incumbent") / "adapter"
    asking = Asking(tokenizer, settings.prompts, settings.evaluate, settings.model.autocast == "bfloat16")
    answer_all(contestants, load_model(settings.model, call.progress), batches, asking, book, call.progress)
    return _write(call, book, tuple(contestants))


def _heldout_rows(call: StageCall[Settings]) -> list[tuple[Example, System]]:
    limit, seed = call.settings.evaluate.limit, call.settings.seed
    rows: list[tuple[Example, System]] = []
    for system in get_args(System):
        examples = list(read_records(call.input("heldout") / f"{system}.jsonl", Example))
        rows += [(row, system) for row in sample_rows(examples, limit or len(examples), seed)]
    if not rows:
        raise BadInputError(
            f"{call.input('heldout')}: no held-out row, so nothing can be evaluated; raise data.heldout"
        )
    return rows


def _write(call: StageCall[Settings], book: AnswerBook, models: tuple[str, ...]) -> Metrics:
    from lorapar.evaluation import all_changes, flat_metrics, model_figures

    confidence = call.settings.evaluate.confidence
    batches = {name: book.of(name) for name in models}
    answers = {
        name: sorted((a for batch in batches[name] for a in batch.answers), key=lambda a: (a.system, a.example_id))
        for name in models
    }
    figures = {name: model_figures(batches[name], confidence) for name in models}
    folder = call.output("evaluation")
    write_records(folder / "answers.jsonl", (answer for name in models for answer in answers[name]))
    changes = all_changes({name: answers[name] for name in MODELS}, confidence)
    summary = {**figures, "changes": changes, "confidence": confidence}
    write_json(folder / "summary.json", summary)
    metrics = flat_metrics(figures)
    # What people look for first stands first.
    metrics = {name: metrics[name] for name in sorted(metrics, key=lambda name: not name.endswith(_FIRST))}
    return {**metrics, "seconds": sum(batch.seconds for name in models for batch in batches[name])}
