"""The part of publish that asks a run's adapters the development rows and picks one (`publish.pick: best`)."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lorapar.comparing import answer_rule
from lorapar.config import EvaluateConfig, PublishConfig
from lorapar.errors import BadInputError
from lorapar.evaluation.pick import Pick, pick_adapter, rows_needed
from lorapar.imports import MODEL_LIBRARIES, import_at_once
from lorapar.records import Example, Label, System, read_json, read_records
from lorapar.stages.contract import StageCall
from lorapar.stages.evaluate import remembered_answers
from lorapar.store import MANIFEST
from lorapar.store.file_system import copy_files
from lorapar.training.candidates import CANDIDATES, candidates_in

_FILES = ("adapter_config.json", "adapter_model.safetensors", "lorapar_adapter.json")


def picked(call: StageCall[Any], config: PublishConfig) -> tuple[Path, Pick, int]:
    """The folder of the adapter to publish, what it was picked of, and how many answers were known from before."""
    trained = call.input("adapter")
    if not (trained / CANDIDATES).is_dir():
        raise BadInputError(
            f"{trained} holds no candidates: it was trained without publish.pick: best; train with it, or set pick to "
            "last"
        )
    folders = candidates_in(trained)
    last = int(read_json(trained / CANDIDATES / "summary.json")["steps"])
    rows = development_rows(call)
    verdicts, recalled = _verdicts(call, {**folders, last: trained}, rows)
    pick = pick_adapter(verdicts, config.confidence)
    call.progress.log(f"publish.pick: {pick.sentence}")
    if folders and pick.rows < (needed := rows_needed(len(folders), config.confidence)):
        call.progress.log(
            f"WARNING: publish.pick: {pick.rows} development rows can show no adapter to be better, {needed} are the "
            "least; raise data.development"
        )
    return (trained if pick.step == last else _as_trained(call, folders[pick.step])), pick, recalled


def development_rows(call: StageCall[Any]) -> list[tuple[Example, System]]:
    """The development rows with a reference, each as the system the data names or the vote gave it.

    Raises BadInputError where there is none.
    """
    labels = {one.example_id: one.system for one in read_records(call.input("labels") / "labels.jsonl", Label)}
    rows = read_records(call.input("examples") / "examples.jsonl", Example)
    found = [(row, row.known_system or labels.get(row.id)) for row in rows if row.split == "development"]
    judged = [(row, system) for row, system in found if system is not None and row.reference is not None]
    if not judged:
        raise BadInputError(
            f"publish.pick: none of the {len(found)} development rows has a system and a reference answer to judge "
            "adapters by; raise data.development, or name data.columns.reference"
        )
    if len(judged) < len(found):
        call.progress.log(
            f"publish.pick: {len(found) - len(judged)} of {len(found)} development rows are not asked: they have no "
            "reference answer, or the vote gave them no system"
        )
    return judged


def _verdicts(
    call: StageCall[Any], folders: dict[int, Path], rows: list[tuple[Example, System]]
) -> tuple[dict[int, dict[str, bool]], int]:
    """By step and row, whether the adapter's answer is right by the strict rule; and how many answers were recalled."""
    import_at_once(*MODEL_LIBRARIES)
    from lorapar.basemodel import load_tokenizer
    from lorapar.evaluation import AnswerJournal, Asking, answer_all, plan_batches
    from lorapar.evaluation.engine import open_engine

    settings, evaluate = call.settings, call.settings.evaluate or EvaluateConfig()
    place = call.scratch / "picking"
    place.mkdir(exist_ok=True)
    journal = AnswerJournal(place / "answers.jsonl", call.keeper.tick)
    contestants: dict[str, Path | None] = {f"the adapter after step {step}": path for step, path in folders.items()}
    tokenizer = load_tokenizer(settings.model, call.progress)
    batches = plan_batches(rows, tokenizer, settings.prompts, evaluate.batch_size)
    with answer_rule(settings.answers or "exact") as rule, ExitStack() as stack:
        asking = Asking(tokenizer, settings.prompts, evaluate, rule)
        engine = stack.enter_context(
            open_engine(settings.model, evaluate, tokenizer, contestants.values(), call.progress)
        )
        remembered = remembered_answers(call, asking, engine, stack)
        answer_all(contestants, engine, batches, asking, journal, call.progress, remembered)
    recalled = sum(len(batch.answers) for name in contestants for batch in journal.of(name) if batch.recalled)
    right = {
        step: {one.example_id: bool(one.strict) for batch in journal.of(name) for one in batch.answers}
        for step, name in zip(folders, contestants, strict=True)
    }
    return right, recalled


def _as_trained(call: StageCall[Any], candidate: Path) -> Path:
    """A folder as training leaves one, with the weights of a candidate."""
    folder = call.scratch / "picked"
    shutil.rmtree(folder, ignore_errors=True)
    copy_files(call.input("adapter"), folder, left_out=(MANIFEST,))
    shutil.rmtree(folder / CANDIDATES)
    for name in _FILES:
        if (candidate / name).is_file():
            shutil.copyfile(candidate / name, folder / name)
    return folder
