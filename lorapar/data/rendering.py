"""Check that the model reads and learns what the rows say: render every row with the chat template and compare.

A template is foreign code. It may leave out a system message, trim or rewrite texts, and drop an answer's reasoning. A
changed question is refused. Answers are always trained whole (`lorapar.prompts.training_text`); a note says where the
template alone would have changed one.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lorapar.basemodel import AnswerEnd, answer_end, asks_by_header, embedding_rows, is_plain, moves_system_text
from lorapar.basemodel.answer_end import is_more_than_text, shared_length
from lorapar.basemodel.chat_template import own_system_text, writes_the_date
from lorapar.config import ModelConfig, PromptConfig
from lorapar.errors import BadInputError
from lorapar.prompts import TrainingText, chat_rows, earlier_answers, encode_rows, opened_tag, training_text
from lorapar.records import Example, System

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN_CHARACTERS = 60
_Kind = Literal["altered", "elsewhere", "open", "control", "past", "trimmed", "unreadable"]


@dataclass
class RowCheck:
    """Checks rows one by one; `notes` then returns what a person should know about them."""

    tokenizer: PreTrainedTokenizerBase
    model: ModelConfig
    prompts: PromptConfig
    _rows: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._end = answer_end(self.tokenizer)
        added = self.tokenizer.added_tokens_decoder.values()
        controls = [*self.tokenizer.all_special_tokens, *(one for one in added if one.special)]
        self._controls = tuple(dict.fromkeys(str(one) for one in controls))
        rows = embedding_rows(self.tokenizer)
        self._embedded = rows if rows is not None and len(self.tokenizer) > rows else None

    def see(self, examples: Iterable[Example]) -> None:
        """Check rows; raises BadInputError where a question or system message does not reach the model."""
        for example in examples:
            # The first row as each system; the others as the system with the longest prompt.
            for system in self.prompts.systems if not self._rows else self.prompts.systems[1:]:
                (row,) = chat_rows([(example, system)], self.prompts)
                text = self._text(row)
                self._require_asked(row, text)
                self._require_embedded(example, system)
            self._rows += 1
            self._note_answer(row, text)
            self._note_trimmed(row, text)
            self._note_past(row, text)
            self._note_controls(row)
            self._note_unreadable(row)

    def notes(self) -> list[str]:
        """One line for each finding."""
        name = self.model.name
        lines: dict[_Kind, str] = {
            "altered": f"the chat template of {name} changes the answer of {{}}; it is learned, scored and evaluated "
            "whole, as it stands in the row",
            "elsewhere": f"the chat template of {name} begins answers in another way than its prompt ends, in {{}}; "
            "rows are learned behind the very prompt they are asked with",
            "open": f"warning: the prompt of {name} opens a tag that the answer does not close, in {{}}; close it "
            "in the answers, or switch thinking off with model.chat_template_kwargs",
            "trimmed": f"the chat template of {name} trims or rewraps the white space of questions or system messages "
            "in {}; the model is asked without it, in training and evaluation alike",
            "past": f"the chat template of {name} changes or leaves out an earlier answer in {{}}; it is context as it "
            "is written then, and sft.train_on=all does not learn it",
            "unreadable": f"warning: the tokenizer of {name} does not give back answers as they stand, in {{}}; such "
            "text cannot be learned, and what is compared with it never matches",
            "control": f"warning: control tokens of {name} stand as text in {{}}; the model reads the token itself, so "
            "fix these rows where that is not meant",
        }
        rows = [line.replace("{}", self._found(kind)) for kind, line in lines.items() if self._counts[kind]]
        return [*rows, *template_notes(self.tokenizer, self.model, self.prompts)]

    @property
    def ends(self) -> str:
        """The end of an answer, in words."""
        return answers_end_with(self.tokenizer)

    def _found(self, kind: _Kind) -> str:
        return f"{self._counts[kind]} of {self._rows} rows ({self._first[kind]})"

    def _text(self, row: dict[str, Any]) -> TrainingText:
        try:
            return training_text(self.tokenizer, row, self._end)
        except BadInputError as error:
            raise BadInputError(f"row {row['id']}: {error}") from None

    def _require_asked(self, row: dict[str, Any], text: TrainingText) -> None:
        asked = _squeezed(text.prompt)
        for message in row["prompt"]:
            if message["role"] in ("system", "user") and _squeezed(message["content"]) not in asked:
                part = "question" if message["role"] == "user" else "system message"
                raise BadInputError(
                    f"row {row['id']}: the chat template of {self.model.name} changes or leaves out part of the "
                    f"{part}: {_first_missing(message['content'], text.prompt)}; bring another template with "
                    "model.chat_template"
                )

    def _require_embedded(self, example: Example, system: System) -> None:
        """If the tokenizer has more tokens than the model, require an embedding for every token of this row."""
        if self._embedded is None:
            return
        for row in encode_rows(self.tokenizer, [(example, system)], self.prompts, max_length=1 << 30):
            largest = max(row["input_ids"])
            if largest >= self._embedded:
                raise BadInputError(
                    f"row {example.id}: the tokenizer of {self.model.name} makes token {largest} of it "
                    f"('{self.tokenizer.convert_ids_to_tokens(largest)}'), and the model has embeddings for "
                    f"{self._embedded} tokens (of the tokenizer's {len(self.tokenizer)}); use the tokenizer that "
                    "belongs to these weights, or a model that was resized for it"
                )

    def _note_answer(self, row: dict[str, Any], text: TrainingText) -> None:
        answer = row["completion"][0]["content"]
        opened = opened_tag(text.prompt)
        if opened is not None and f"</{opened}>" not in answer:
            self._note("open", f"the first is row {row['id']}: <{opened}>")
        if not text.altered:
            return
        if lost := _lost_of_answer(answer, text, self._end):
            self._note("altered", f"the first is row {row['id']}, which loses {lost}")
        else:
            self._note("elsewhere", f"the first is row {row['id']}: {_quoted(text.prompt[-_SHOWN_CHARACTERS:])}")

    def _note_trimmed(self, row: dict[str, Any], text: TrainingText) -> None:
        asked = (message["content"] for message in row["prompt"] if message["role"] != "assistant")
        lost = next((one for one in asked if one not in text.prompt), None)
        if lost is not None:
            blank = lost[: len(lost) - len(lost.lstrip())] or lost[len(lost.rstrip()) :]
            self._note(
                "trimmed", f"the first is row {row['id']}" + (f", which loses {_quoted(blank)}" if blank else "")
            )

    def _note_past(self, row: dict[str, Any], text: TrainingText) -> None:
        spans = earlier_answers(self.tokenizer, row["prompt"], text.prompt, self._end)
        if None in spans:
            answers = [message["content"] for message in row["prompt"] if message["role"] == "assistant"]
            self._note("past", f"the first is row {row['id']}: {_quoted(answers[spans.index(None)])}")

    def _note_controls(self, row: dict[str, Any]) -> None:
        for message in (*row["prompt"], *row["completion"]):
            found = next((token for token in self._controls if token and token in message["content"]), None)
            if found is not None:
                self._note("control", f"the first is row {row['id']}: '{found}'")
                return

    def _note_unreadable(self, row: dict[str, Any]) -> None:
        answer = row["completion"][0]["content"]
        read = read_back(self.tokenizer, answer)
        if read.strip() != answer.strip() and not any(one in answer for one in self._controls):
            place = shared_length(answer.lstrip(), read.lstrip())
            what = (_quoted(one.lstrip()[max(0, place - 8) :]) for one in (answer, read))
            self._note("unreadable", f"the first is row {row['id']}: {' comes back as '.join(what)}")

    def _note(self, kind: _Kind, words: str) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, words)


def template_notes(tokenizer: PreTrainedTokenizerBase, model: ModelConfig, prompts: PromptConfig) -> Iterable[str]:
    """Notes about a model's template and tokens that do not depend on the rows."""
    if is_plain(tokenizer):
        yield (
            f"{model.name} brings no chat template: rows are asked as 'Question: …', 'Answer:', which a server has "
            "to do too; bring another one with model.chat_template"
        )
    if moves_system_text(tokenizer) and any(map(prompts.message_for, prompts.systems)):
        yield (
            f"the chat template of {model.name} takes no system message: its text opens the first message of the user, "
            "in training, evaluation and benchmarks alike; ask a server in the same way"
        )
    if asks_by_header(tokenizer):
        yield (
            f"the chat template of {model.name} has no generation prompt: what it writes before an answer is a part of "
            "prompts here, so that it is neither learned nor judged; ask a server in the same way"
        )
    if (words := own_system_text(tokenizer)) is not None and not all(map(prompts.message_for, prompts.systems)):
        yield (
            f"where a row has no system message, the chat template of {model.name} writes one of its own: "
            f"{_quoted(words)}; it is part of every such prompt, in training and evaluation alike"
        )
    yield from _tag_notes(tokenizer, model, prompts)
    if writes_the_date(tokenizer):
        yield (
            f"the chat template of {model.name} writes the date of the day into prompts: a run of another day, and a "
            "server, ask with another one; where the template reads it, model.chat_template_kwargs={date_string: "
            "26 Jul 2024} fixes it"
        )
    yield from _end_notes(tokenizer, answer_end(tokenizer), model)
    if strings := answer_end(tokenizer).strings:
        yield (
            f"answers of {model.name} end before {' or '.join(map(repr, strings))} too (a text of its chat template or "
            "of stop_strings in its generation settings), in evaluation, rollouts and benchmarks; a server other than "
            "`lorapar serve` has to be told (`stop`)"
        )
    rows = embedding_rows(tokenizer)
    if rows is not None and len(tokenizer) > rows:
        yield (
            f"warning: the tokenizer of {model.name} has {len(tokenizer)} tokens and the model embeddings for {rows}; "
            "a row that needs one of the others is refused"
        )


def read_back(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text after encoding and decoding, as answers are read."""
    return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True))


def _tag_notes(tokenizer: PreTrainedTokenizerBase, model: ModelConfig, prompts: PromptConfig) -> Iterable[str]:
    """Notes about tags that no decoded answer can have, because decoding drops control tokens."""
    for tag in prompts.tags.all:
        ids = tokenizer(tag, add_special_tokens=False)["input_ids"]
        kept = str(tokenizer.decode(ids, skip_special_tokens=True))
        if kept.strip() != tag and str(tokenizer.decode(ids)).strip() == tag:
            yield (
                f"warning: prompts.tags: '{tag}' has control tokens of {model.name} in it, which decoding leaves out, "
                "so no answer is seen to have this tag; name what is left of it"
                + (f" ('{kept.strip()}')" if kept.strip() else ", or other tags")
            )
        elif kept.strip() != tag:
            yield (
                f"warning: prompts.tags: the tokenizer of {model.name} reads '{tag}' back as '{kept.strip()}', so no "
                "answer is seen to have this tag; name tags that it keeps"
            )


def answers_end_with(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens, or else the texts, that end an answer, in words."""
    end = answer_end(tokenizer)
    named = [f"{tokenizer.convert_ids_to_tokens(one)} ({one})" for one in end.token_ids] or list(map(repr, end.strings))
    return "end with " + " or ".join(named) if named else "run to their limit: no token ends them"


def _end_notes(tokenizer: PreTrainedTokenizerBase, end: AnswerEnd, model: ModelConfig) -> Iterable[str]:
    for token in (one for one in end.named_ids if not is_more_than_text(tokenizer, one)):
        yield (
            f"warning: the settings of {model.name} name token {token} as an end of answers (eos_token_id), which is "
            f"the text '{tokenizer.decode([token])}': every answer stops there, at a server too; fix "
            "generation_config.json or config.json"
        )
    if not end.token_ids and not end.strings:
        yield (
            f"warning: no token ends an answer of {model.name}: its chat template writes none, and neither its "
            "tokenizer nor its generation settings name one; answers and rollouts run to their limit"
        )
    elif end.turn_end is None and tokenizer.eos_token is not None:
        yield (
            f"the chat template of {model.name} ends an answer with no token of its own, so the end token "
            f"{tokenizer.eos_token} is learned after it"
        )
    elif end.closing:
        yield (
            f"the chat template of {model.name} ends a turn only where another one follows; what it writes there, "
            f"{_quoted(end.closing)}, is learned after the last answer too"
        )
    if end.unnamed_ids:
        named = ", ".join(str(tokenizer.convert_ids_to_tokens(one)) for one in end.unnamed_ids)
        yield (
            f"answers of {model.name} {answers_end_with(tokenizer)}; its generation settings do not name {named}, so "
            "a server other than `lorapar serve` has to be told"
        )


def _squeezed(text: str) -> str:
    """The text without white space: a template that trims or breaks lines loses nothing."""
    return " ".join(text.split())


def _lost_of_answer(answer: str, text: TrainingText, end: AnswerEnd) -> str:
    """What a template drops from an answer, quoted; empty where nothing is missing."""
    kept = text.rendered[shared_length(text.rendered, text.prompt) :].removesuffix(end.learned)
    if answer in kept or text.rendered.endswith(answer + end.learned):
        return ""
    last = shared_length(answer[::-1], kept[::-1])
    first = shared_length(answer[: len(answer) - last], kept[: len(kept) - last])
    return _quoted(answer[first : len(answer) - last] or answer)


def _first_missing(text: str, rendered: str) -> str:
    """The first part of a text that a template changed, quoted."""
    found = bisect(range(len(text)), False, key=lambda length: text[: length + 1] not in rendered)
    return _quoted(text[found:])


def _quoted(text: str) -> str:
    """Text on one line, shortened."""
    shown = text[:_SHOWN_CHARACTERS] + ("…" if len(text) > _SHOWN_CHARACTERS else "")
    return "'" + shown.replace("\n", "\\n").replace("\r", "\\r") + "'"
