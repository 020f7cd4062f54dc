"""What the target model is asked, as chat messages, text and tokens: the same for scoring, SFT, RL and evaluation.

Tokens and labels are those TRL's SFTTrainer makes from the same prompt and completion (a test compares them), where the
chat template leaves a row as it is; where it does not, the row wins (`training_text`). Masks come from lengths, never
from `ids == pad`: pad and end-of-turn are often the same token.

Every tokenizer that `lorapar.basemodel.load_tokenizer` returns has a chat template, its own or the plain one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lorapar.basemodel.answer_end import PROBE_ANSWER, AnswerEnd, answer_end, shared_length
from lorapar.basemodel.chat_template import probe
from lorapar.config import PromptConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, Omission, System

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Encoded = dict[str, list[int]]
"""`input_ids` and `labels` of one row."""
TrainOn = Literal["last", "all"]
"""Which turns of the assistant are learned."""
Row = tuple[Example, System | None]
"""An example with the system it is asked as."""

IGNORED = -100
"""Label of tokens the loss leaves out, as in PyTorch's cross_entropy."""


def rows_of(examples: Iterable[Example], system: System | None) -> list[Row]:
    """Examples that are all asked as rows of one system."""
    return [(example, system) for example in examples]


def prompt_messages(example: Example, system: System | None, prompts: PromptConfig) -> list[Message]:
    """The chat that ends with the question: a system message, where there is one, turns before it, and the question.

    The system message is the row's own and, behind a blank line, that of `system`.
    """
    opening = "\n\n".join(filter(None, (example.system_message, prompts.message_for(system))))
    turns = [{"role": turn.role, "content": turn.content} for turn in example.history or ()]
    question = {"role": "user", "content": example.question}
    return [*([{"role": "system", "content": opening}] if opening else []), *turns, question]


def chat_rows(rows: Iterable[Row], prompts: PromptConfig) -> list[dict[str, Any]]:
    """Rows for TRL: `id`, `prompt` and `completion` (chat messages) and `reference` (the short answer, or None)."""
    return [
        {
            "id": example.id,
            "prompt": prompt_messages(example, system, prompts),
            "completion": [{"role": "assistant", "content": example.answer}],
            "reference": example.reference,
        }
        for example, system in rows
    ]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The text a model is given so that its answer comes next, by the tokenizer's chat template."""
    return str(_apply_template(tokenizer, messages, add_generation_prompt=True, tokenize=False))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of `render`."""
    return list(_apply_template(tokenizer, messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    prompts: PromptConfig,
    max_length: int,
    train_on: TrainOn = "last",
) -> list[Encoded]:
    """Token ids and labels of prompt and answer; labels of the prompt are -100, what ends the answer is learned.

    With `train_on` all, turns of the assistant before the question are learned too, each with what ends it, as the
    chat template writes them there (`earlier_answers`). Rows longer than `max_length` tokens are cut at the end. Rows
    of which no answer token remains are left out: the caller tells how many by comparing lengths.
    """
    end = answer_end(tokenizer)
    encoded = (_encode(tokenizer, row, prompts, end, train_on)[0] for row in rows)
    return [within for one in encoded if (within := _within(one, max_length)) is not None]


@dataclass(frozen=True)
class FittingRows:
    """Rows of which some answer token is within a number of tokens."""

    rows: list[Row]
    encoded: list[Encoded]
    """Token ids and labels of each, as `encode_rows` gives them."""
    omissions: tuple[Omission, ...]
    """Rows that are left out, rows whose end is cut off and, with `train_on` all, earlier answers not learned."""


def fit_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    prompts: PromptConfig,
    max_length: int,
    setting: str,
    train_on: TrainOn = "last",
) -> FittingRows:
    """As `encode_rows`, with what it leaves out and cuts; `setting` names the limit."""
    end = answer_end(tokenizer)
    kept: list[Row] = []
    encoded: list[Encoded] = []
    cut = wanted = lost = 0
    for row in rows:
        one, unlearned = _encode(tokenizer, row, prompts, end, train_on)
        within = _within(one, max_length)
        if within is not None:
            kept.append(row)
            encoded.append(within)
            cut += len(one["input_ids"]) > max_length
            wanted += sum(_earlier_learned(row[0]))
            lost += unlearned
    omissions = _cut_off(len(rows), len(kept), cut, max_length, setting)
    return FittingRows(kept, encoded, omissions if train_on == "last" else (*omissions, _unlearned(lost, wanted)))


def _within(row: Encoded, max_length: int) -> Encoded | None:
    """A row without what is beyond `max_length` tokens; None where no answer token remains."""
    within = {name: ids[:max_length] for name, ids in row.items()}
    return within if any(label != IGNORED for label in within["labels"]) else None


def _cut_off(rows: int, kept: int, cut: int, max_length: int, setting: str) -> tuple[Omission, Omission]:
    left_out = Omission(
        count=rows - kept,
        total=rows,
        what="rows left out",
        why=f"no token of their answer is within {max_length:,} tokens",
        remedy=f"raise {setting}",
    )
    shortened = Omission(
        count=cut,
        total=rows,
        what="rows cut",
        why=f"they are longer than {max_length:,} tokens, so the end of their answer is not seen",
        remedy=f"raise {setting}",
    )
    return left_out, shortened


def _unlearned(lost: int, wanted: int) -> Omission:
    """Earlier turns of the assistant that are not learned with `train_on` all: the chat template writes other text."""
    return Omission(
        count=lost,
        total=wanted,
        what="earlier answers are not learned",
        why="the chat template changes them or leaves them out, as one does that drops thoughts",
        remedy="bring another template with model.chat_template, or set sft.train_on to last",
    )


def collate(rows: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """One right-padded batch: `input_ids`, `attention_mask` and `labels`, int64 of shape (rows, longest row)."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def padded(lists: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(one) for one in lists], batch_first=True, padding_value=value)

    return {
        "input_ids": padded([row["input_ids"] for row in rows], pad_token_id),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": padded([row["labels"] for row in rows], IGNORED),
    }


@dataclass(frozen=True)
class TrainingText:
    """One row as text: what the model is given, and what it learns to write after it."""

    prompt: str
    learned: str
    """The answer as it is in the row, with what ends it; before it what the template alone puts there."""
    rendered: str
    """What the chat template makes of prompt and answer together."""

    @property
    def altered(self) -> bool:
        """Whether the template by itself would have trained another text."""
        return self.prompt + self.learned != self.rendered


def training_text(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], end: AnswerEnd) -> TrainingText:
    """The text of a row of `chat_rows`: the very prompt the model is asked with, and the whole answer of the row.

    It is what the template writes, where that holds both. Templates of reasoning models drop or rewrite what an answer
    thinks first, others trim it, and some write a prompt of their own before answers that they are handed: the row is
    then put together without them.
    """
    (completion,) = row["completion"]
    answer = completion["content"]
    prompt = render(tokenizer, row["prompt"])
    rendered = str(_apply_template(tokenizer, row["prompt"] + row["completion"], tokenize=False))
    rendered += end.learned.removeprefix(end.written)
    if rendered.startswith(prompt) and rendered.endswith(answer + end.learned):
        learned = rendered[len(prompt) :]
        between = learned.removesuffix(answer + end.learned)
        if _without_opened_tag(prompt, answer) == answer and not _has_tag_of(answer, between):
            return TrainingText(prompt, learned, rendered)
    before = _before_answers(tokenizer, row, prompt)
    if _has_tag_of(answer, before):
        before = before[: len(before) - len(before.lstrip())]
    return TrainingText(prompt, before + _without_opened_tag(prompt, answer) + end.learned, rendered)


def _before_answers(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], prompt: str) -> str:
    """What the template writes between prompt and answers, such as a blank, a channel or an empty thought."""
    sample = [*row["prompt"], {"role": "assistant", "content": PROBE_ANSWER}]
    head = str(_apply_template(tokenizer, sample, tokenize=False)).rpartition(PROBE_ANSWER)[0]
    return head.removeprefix(prompt) if head.startswith(prompt) else ""


def _has_tag_of(answer: str, between: str) -> bool:
    """Whether an answer brings itself what a template writes before answers: an empty thought before a real one."""
    return any(f"<{tag}>" in answer or f"</{tag}>" in answer for tag in _TAG.findall(between))


_TAG = re.compile(r"<(\w+)>")
_OPENED_TAG = re.compile(r"<(\w+)>\s*$")


def opened_tag(prompt: str) -> str | None:
    """The name of a tag that a prompt ends with, such as `think`: the answer goes on inside of it."""
    found = _OPENED_TAG.search(prompt)
    return found[1] if found else None


def opens_steps(tokenizer: PreTrainedTokenizerBase, prompts: PromptConfig) -> bool:
    """Whether the model's chat template ends a prompt with the tag that opens the steps (`prompts.tags.think`)."""
    row = Example(id="probe", question="?", answer="")
    messages = prompt_messages(row, prompts.reasoning_system, prompts)
    return render(tokenizer, messages).rstrip().endswith(prompts.tags.think[0])


def _without_opened_tag(prompt: str, answer: str) -> str:
    """The answer behind a tag that the prompt has opened already, as in `<think>`."""
    tag = f"<{opened_tag(prompt)}>"
    return answer.lstrip().removeprefix(tag).lstrip() if answer.lstrip().startswith(tag) else answer


def earlier_answers(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prompt: str, end: AnswerEnd
) -> list[tuple[int, int] | None]:
    """Where each turn of the assistant in `messages` is in `prompt`, which is what the template makes of them.

    From its first character to the end of what ends it; None for a turn that the template changes or leaves out, such
    as one whose thoughts it drops.
    """
    found: list[tuple[int, int] | None] = []
    begin = 0
    for place, message in enumerate(messages[:-1]):
        if message["role"] == "assistant":
            asked, before = (probe(tokenizer, messages[:place], prompt=opened) for opened in (True, False))
            # Behind the words that open an answer, where the template writes the same ones before turns that are past.
            begin = len(asked) if prompt.startswith(asked) else max(begin, shared_length(before, prompt))
            found.append(_span(message["content"], messages[place + 1]["content"], prompt, begin, end))
            begin = found[-1][1] if found[-1] else begin
    return found


def _span(answer: str, next_question: str, prompt: str, begin: int, end: AnswerEnd) -> tuple[int, int] | None:
    """Where an answer and what ends it are in a prompt, from `begin` on; None where it is not before `next_question`.

    White space between `begin` and the answer belongs to it.
    """
    start, following = (prompt.find(text.strip(), begin) for text in (answer, next_question))
    mark = end.learned.strip()
    if start < 0 or 0 <= following <= start or (mark and mark in prompt[begin:start]):
        return None
    stop = start + len(answer.strip())
    written = next((one for one in (end.learned, end.written, mark) if prompt.startswith(one, stop)), "")
    return (start if prompt[begin:start].strip() else begin, stop + len(written))


def _earlier_learned(example: Example) -> list[bool]:
    """Of each turn of the assistant before the question, whether its row lets it be learned."""
    return [turn.learned is None for turn in example.history or () if turn.role == "assistant"]


def _encode(
    tokenizer: PreTrainedTokenizerBase, row: Row, prompts: PromptConfig, end: AnswerEnd, train_on: TrainOn
) -> tuple[Encoded, int]:
    """A whole row, and how many earlier turns of the assistant are to be learned and cannot be."""
    (chat,) = chat_rows([row], prompts)
    text = training_text(tokenizer, chat, end)
    ids, start = _with_answer(tokenizer, text)
    labels = [IGNORED] * start + ids[start:]
    earlier = _earlier_learned(row[0]) if train_on == "all" else []
    if not any(earlier):
        return {"input_ids": ids, "labels": labels}, 0
    spans = earlier_answers(tokenizer, chat["prompt"], text.prompt, end)
    wanted = [span for span, learned in zip(spans, earlier, strict=True) if learned]
    for span in filter(None, wanted):
        first, last = (shared_length(_ids(tokenizer, text.prompt[:one]), ids) for one in span)
        labels[first:last] = ids[first:last]
    return {"input_ids": ids, "labels": labels}, wanted.count(None)


def _with_answer(tokenizer: PreTrainedTokenizerBase, text: TrainingText) -> tuple[list[int], int]:
    """The tokens of a row, and how many of them are its prompt.

    Where a token would span the end of the prompt (`assistant: ` and `42`), prompt and answer become tokens each by
    themselves: the model is asked with the prompt's own. TRL would learn the spanning token, which is never asked for.
    """
    whole, prompt = (_ids(tokenizer, one) for one in (text.prompt + text.learned, text.prompt))
    start = shared_length(prompt, whole)
    if start == len(prompt):
        return whole, start
    read = tokenizer.decode(whole)
    # Some tokenizers put a blank before a text, so that the answer is also tried behind a line break.
    behind = _ids(tokenizer, "\n")
    for answer in (_ids(tokenizer, text.learned), _ids(tokenizer, "\n" + text.learned)[len(behind) :]):
        if tokenizer.decode(prompt + answer) == read:
            return prompt + answer, len(prompt)
    return whole, start


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes special tokens itself


def _apply_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> Any:
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise BadInputError(
            f"the chat template of {tokenizer.name_or_path} refuses the roles {roles} ({error}); where it asks for an "
            "option, set that in model.chat_template_kwargs, else bring one that takes them with model.chat_template"
        ) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A template is a program: what it does with some text may fail in any way of Python's.
        raise BadInputError(
            f"the chat template of {tokenizer.name_or_path} fails on this text ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); bring one that takes it with model.chat_template"
        ) from None
