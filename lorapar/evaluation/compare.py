"""Ask several models the same held-out rows: one base model in memory, adapters put on and taken off in turn.

What a model answered in an earlier run is not asked again. In a narrow number format the last bits of an answer depend
on the rows it is computed with: rows are then always asked in the same batches, and a batch is known as a whole or not
at all. In float32 each row is known by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lorapar.evaluation.answer_journal import AnsweredBatch, AnswerJournal
from lorapar.evaluation.answers import Answerer, Asking, Batch, Generated, plan_batches
from lorapar.evaluation.cache import RememberedModel
from lorapar.evaluation.engine import Engine
from lorapar.progress import Progress
from lorapar.ranks import Ranks
from lorapar.records import digest_of

Contestants = Mapping[str, Path | None]
"""By name, the PEFT folder of its adapter; None for the bare base model."""
Remembered = Callable[[Path | None], RememberedModel | None]
"""What the model with an adapter has answered before; None where nothing is remembered."""


def answer_all(
    contestants: Contestants,
    engine: Engine,
    batches: Sequence[Batch],
    asking: Asking,
    journal: AnswerJournal,
    progress: Progress,
    remembered: Remembered = lambda _: None,
) -> None:
    """Fill the journal with every contestant's answers to every batch, leaving out what it holds already.

    Of several processes each asks for batches of its own and has only these in its journal.
    """
    batches = Ranks.here().share(batches)
    for name, folder in contestants.items():
        known = remembered(folder)
        if known is not None:
            _recall(name, engine, batches, asking, journal, known)
        missing = _missing(name, engine, batches, asking, journal)
        if not missing:
            continue
        progress.start(f"asking {name}", total=sum(len(batch.rows) for batch in missing))
        right = asked = 0
        with engine.asked(folder) as model:
            answerer = Answerer(name, model, asking)
            for batch in missing:
                answered = _ask(answerer, batch, engine, asking, known)
                journal.add(answered)
                right += sum(bool(answer.strict) for answer in answered.answers)
                asked += len(answered.answers)
                progress.advance(len(answered.answers), f"{right} of {asked} right")


def _ask(
    answerer: Answerer, batch: Batch, engine: Engine, asking: Asking, known: RememberedModel | None
) -> AnsweredBatch:
    answers, generated, seconds = answerer.answer(batch)
    if known is not None:
        share = seconds / len(batch.rows)
        for question, one in zip(_questions(batch, engine, asking), generated, strict=True):
            known.keep(question, {"tokens": one.tokens, "loss": one.loss, "seconds": share})
    return AnsweredBatch(model=answerer.name, seconds=seconds, answers=tuple(answers))


def _recall(
    name: str, engine: Engine, batches: Sequence[Batch], asking: Asking, journal: AnswerJournal, known: RememberedModel
) -> None:
    """Put into the journal what the model is known to answer."""
    for batch in batches:
        if all(_holds(journal, name, batch, place) for place in range(len(batch.rows))):
            continue
        found = known.recall(_questions(batch, engine, asking))
        if engine.answers_by_batch and any(one is None for one in found):
            continue
        places = [
            place for place, one in enumerate(found) if one is not None and not _holds(journal, name, batch, place)
        ]
        if places:
            kept = [found[place] for place in places]
            generated = [Generated(tokens=one["tokens"], loss=one["loss"]) for one in kept]
            answers = asking.judged(name, [batch.rows[place] for place in places], generated)
            seconds = sum(one["seconds"] for one in kept)
            journal.add(AnsweredBatch(model=name, seconds=seconds, answers=tuple(answers), recalled=True))


def _missing(
    name: str, engine: Engine, batches: Sequence[Batch], asking: Asking, journal: AnswerJournal
) -> list[Batch]:
    """What is left to ask: whole batches, or in float32 the rows themselves, batched again."""
    if engine.answers_by_batch:
        return [batch for batch in batches if not all(_holds(journal, name, batch, n) for n in range(len(batch.rows)))]
    rows = [row for batch in batches for n, row in enumerate(batch.rows) if not _holds(journal, name, batch, n)]
    return plan_batches(rows, asking.tokenizer, asking.prompts, asking.settings.batch_size)


def _holds(journal: AnswerJournal, name: str, batch: Batch, place: int) -> bool:
    example, system = batch.rows[place]
    return journal.holds(name, system, example.id)


def _questions(batch: Batch, engine: Engine, asking: Asking) -> list[object]:
    """What each row's tokens and loss depend on: the row in tokens and, where it matters, the rows beside it."""
    rows = asking.encoded(batch.rows)
    asked = [{"prompt": prompt, **row} for prompt, row in zip(batch.prompts, rows, strict=True)]
    beside = digest_of(asked) if engine.answers_by_batch else None
    return [{**one, "beside": beside} for one in asked]
