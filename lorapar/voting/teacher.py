"""A teacher: the interface of every backend, its prompt for an example, and the words it may answer with.

Text only, no tokenizer. Every backend renders an example with `render`, so the same settings ask the same question
everywhere. The paper's role-play (section 3.1) is the `instruction` of a template; its control is the
`neutral_instruction`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from lorapar.config import ModelConfig, TeacherConfig, TeacherTemplate
from lorapar.records import Example, System, Vote, digest_of

Message = dict[str, str]


class Teacher(Protocol):
    """One voter, ready to be asked."""

    def votes(self, examples: Sequence[Example], done: Set[str] = frozenset()) -> Iterator[Vote]:
        """One vote for each example, in any order, as soon as it is known, so that it can go to disk.

        A row that the teacher refuses has a vote without a label. Rows whose ids are in `done` need no vote, because an
        earlier, stopped call has them. They are still among the examples: a row's probabilities depend, in their last
        bits, on the rows in its batch, and votes after a stop must equal those of an uninterrupted call.
        """


def teacher_model(config: TeacherConfig, base: ModelConfig) -> ModelConfig:
    """The model that runs a teacher: its own, or the base model, in the teacher's number format."""
    own: dict[str, object] = {"dtype": config.dtype, "autocast": "none"}
    if config.model is not None:
        model = ModelConfig(name=config.model, revision=config.revision, trust_remote_code=base.trust_remote_code)
        return model.model_copy(update=own)
    if config.revision is not None:
        own |= {"revision": config.revision, "digest": None}
    return base.model_copy(update=own)


def label_of(log_probs: Mapping[System, float]) -> tuple[System, float]:
    """The likeliest system and its probability among all (softmax); at a tie the last one, System 2 of two."""
    label: System = max(reversed(list(log_probs)), key=lambda system: log_probs[system])
    return label, 1.0 / sum(math.exp(value - log_probs[label]) for value in log_probs.values())


@dataclass(frozen=True)
class Prompt:
    """One example as a teacher sees it: either `messages` (chat) or `text` (to be continued) is set."""

    messages: tuple[Message, ...] | None
    text: str | None
    continuations: Mapping[System, str]
    """The continuation that means each system; begins with a space where the text needs one."""


def target_text(model: ModelConfig) -> str:
    """The target model for a teacher's instruction: its name (without folders and owners) and its description."""
    name = PurePath(model.name).name
    return f"{name} ({model.description})" if model.description else name


def plays_role(template: TeacherTemplate, role_play: bool) -> bool:
    """Whether the teacher is asked to act as the target: an instruction may leave {target} out."""
    return role_play and "{target}" in template.instruction


def opening(template: TeacherTemplate, target: str, role_play: bool) -> str:
    """The instruction with its placeholders filled in."""
    text = template.instruction if role_play else template.neutral_instruction
    return _fill(text, {"target": target, **_words(template)})


def render(template: TeacherTemplate, example: Example, target: str, role_play: bool) -> Prompt:
    """The instruction, the few-shot rows with their label words, and the example, ready for its label word.

    In chats the instruction heads the first user message, not a system message: some chat templates refuse those.
    Braces in questions and answers stay as they are.
    """
    instruction = opening(template, target, role_play)
    words = _words(template)
    rows = [(_row(template, row.question, row.answer), words[row.system]) for row in template.few_shot]
    asked = _row(template, example.asked, example.answer)
    if template.style == "chat":
        return Prompt(_messages(instruction, rows, asked.rstrip()), None, _continuations(template, ""))
    gap = _gap(template)
    shown = [f"{row.rstrip()}{gap}{word}" for row, word in rows]
    return Prompt(None, "\n\n".join([instruction, *shown, asked.rstrip()]), _continuations(template, gap))


def template_digest(template: TeacherTemplate, target: str, role_play: bool) -> str:
    """Digest of everything in a teacher's prompt besides the example: equal digests ask the same question."""
    content = {
        "opening": opening(template, target, role_play),
        "style": template.style,
        "row": template.row,
        "label_words": dict(template.label_words),
        "few_shot": [row.model_dump(mode="json") for row in template.few_shot],
    }
    return digest_of(content)


def _messages(instruction: str, rows: list[tuple[str, str]], asked: str) -> tuple[Message, ...]:
    turns: list[Message] = []
    for row, word in rows:
        turns += [{"role": "user", "content": row.rstrip()}, {"role": "assistant", "content": word}]
    turns.append({"role": "user", "content": asked})
    turns[0] = {"role": "user", "content": f"{instruction}\n\n{turns[0]['content']}"}
    return tuple(turns)


def _continuations(template: TeacherTemplate, gap: str) -> dict[System, str]:
    words = _words(template)
    return {system: gap + words[system] for system in template.systems}


def _words(template: TeacherTemplate) -> dict[str, str]:
    return {system: word.strip() for system, word in template.label_words.items()}


def _row(template: TeacherTemplate, question: str, answer: str) -> str:
    return _fill(template.row, {"question": question, "answer": answer})


def _gap(template: TeacherTemplate) -> str:
    """The white space between a row and its label word: it belongs to the word, because tokens begin with it."""
    return template.row[len(template.row.rstrip()) :] or " "


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each `{name}` by its value, all at once: unlike in str.format, other braces stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)
