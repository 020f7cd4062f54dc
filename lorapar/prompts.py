"""What the target model is asked, as chat messages, text and tokens: the same for scoring, SFT, RL and evaluation.

Tokens and labels are those TRL's SFTTrainer makes from the same prompt and completion (a test compares them). Masks
come from lengths, never from `ids == pad`: pad and end-of-turn are often the same token.

Every tokenizer that `lorapar.basemodel.load_tokenizer` returns has a chat template, its own or the plain one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from lorapar.config import PromptConfig
from lorapar.errors import BadInputError
from lorapar.records import Example, System

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Row = tuple[Example, System | None]
"""An example with the system it is asked as."""

IGNORED = -100
"""Label of tokens the loss leaves out, as in PyTorch's cross_entropy."""


def rows_of(examples: Iterable[Example], system: System | None) -> list[Row]:
    """Examples that are all asked as rows of one system."""
    return [(example, system) for example in examples]


def prompt_messages(example: Example, system: System | None, prompts: PromptConfig) -> list[Message]:
    """The chat that ends with the question: the system message of `system`, where there is one, and the question."""
    opening = prompts.message_for(system)
    question = {"role": "user", "content": example.question}
    return [{"role": "system", "content": opening}, question] if opening else [question]


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
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], prompts: PromptConfig, max_length: int
) -> list[dict[str, list[int]]]:
    """Token ids and labels of prompt and answer; labels of the prompt are -100, the end-of-turn token is learned.

    Rows longer than `max_length` tokens are cut at the end. Rows of which no answer token remains are left out: the
    caller tells how many by comparing lengths.
    """
    encoded = (_encode(tokenizer, row, max_length) for row in chat_rows(rows, prompts))
    return [row for row in encoded if any(label != IGNORED for label in row["labels"])]


def collate(rows: Sequence[dict[str, list[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
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


def _encode(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], max_length: int) -> dict[str, list[int]]:
    prompt = prompt_ids(tokenizer, row["prompt"])
    ids = list(_apply_template(tokenizer, row["prompt"] + row["completion"], return_dict=True)["input_ids"])
    # Some templates render a prompt alone differently: like TRL, the answer starts where the two part.
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
    labels = [IGNORED] * start + ids[start:]
    return {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def _apply_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> Any:
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise BadInputError(
            f"the chat template of {tokenizer.name_or_path} refuses the roles {roles} ({error}); "
            "if it takes no system message, set prompts.system1 and prompts.system2 to null"
        ) from None
