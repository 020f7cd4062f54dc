"""Conversations in one cell: TRL's and OpenAI's messages (role and content), ShareGPT's turns (from and value).

The last turn of the assistant is the answer, the user's turn before it the question, and the rest is context. White
space at the beginning and end of a message is part of it. `trl.data_utils` reads the same forms, but imports torch,
which `plan` does not need.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lorapar.data.cells import BadRowError, check_characters
from lorapar.data.written import read_written
from lorapar.records import Turn

_KEYS = (("role", "content"), ("role", "parts"), ("from", "value"))
_PAIRS = (("human", "assistant"), ("user", "assistant"), ("question", "answer"), ("prompt", "response"))
"""Names of the user's and the assistant's text, where one structure holds both."""
_Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, _Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
}
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")
_CALLS = ("tool_calls", "function_call")
_THOUGHTS = ("thinking", "reasoning_content", "reasoning")
_TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA = ("image", "video", "audio")
MEDIA_COLUMNS = tuple(name for kind in _MEDIA for name in (kind, f"{kind}s"))

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with an answer."""

    system_message: str | None
    history: tuple[Turn, ...]
    question: str
    answer: str


def messages_in(cell: Any) -> Messages | None:
    """The messages of a cell: a list of them, possibly as text, or columns of lists; None where it holds none."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):  # CSV has no lists
        cell = read_written(cell)
    if isinstance(cell, dict):
        cell = _rows_of(cell)
    if not isinstance(cell, list | tuple) or not cell:
        return None
    return list(cell) if all(isinstance(one, dict) and _keys_of(one) is not None for one in cell) else None


def is_answered(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last turn of a conversation is neither the user's nor the system's."""
    role = str(messages[-1].get("role", messages[-1].get("from"))).strip().lower()
    return _ROLES.get(role) not in ("system", "user")


def turns_in(cell: Any) -> Messages | None:
    """The messages of a column of conversations, also of alternating texts of user and assistant, and of pairs."""
    found = messages_in(cell)
    if found is not None:
        return found
    if isinstance(cell, str):
        cell = read_written(cell)
    if not isinstance(cell, list | tuple) or not cell:
        return None
    if all(isinstance(one, dict) for one in cell):
        keys = next((keys for keys in _PAIRS if all(set(keys) <= set(one) for one in cell)), None)
        cell = [one[key] for one in cell for key in keys or ()]
    if len(cell) < 2 or not all(isinstance(one, str) for one in cell):
        return None
    return [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(cell)]


def system_text(cell: Any) -> str | None:
    """A system message given as text parts (Bedrock) or in a structure (Gemini); None for any other cell."""
    if isinstance(cell, dict):
        cell = cell.get("parts", cell.get("content"))
    if not isinstance(cell, list | tuple) or not cell:
        return None
    try:
        return _text("", cell)
    except BadRowError:
        return None


def turns_of_pairs(cell: Any) -> Messages | None:
    """The messages of pairs of question and answer, `[["1+1?", "2"]]`, also as text; None where it holds none."""
    if isinstance(cell, str):
        cell = read_written(cell)
    if not isinstance(cell, list | tuple):
        return None
    pairs = [list(pair) for pair in cell if isinstance(pair, list | tuple)]
    if len(pairs) != len(cell) or any(
        len(pair) != 2 or not all(isinstance(one, str) for one in pair) for pair in pairs
    ):
        return None
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True)]


def read_conversation(where: str, columns: Mapping[str, Messages], seen: Counter[str]) -> Conversation:
    """The question and answer in the messages of one or two columns; raises BadRowError.

    `seen` counts changes to conversations, by a description in words.
    """
    noted: set[str] = set()
    turns = [
        _turn(f"{where}: '{column}[{place}]", message, noted)
        for column, messages in columns.items()
        for place, message in enumerate(messages)
    ]
    column = "', '".join(columns)
    system = turns.pop(0).text if turns and turns[0].role == "system" else None
    if any(turn.role == "system" for turn in turns):
        raise BadRowError(f"{where}: '{column}' has a system message behind another turn; only the first may be one")
    joined = _joined(turns[: _place_of_answer(where, column, turns, noted) + 1], noted)
    if len(joined) < 2:
        raise BadRowError(f"{where}: a row without a question ('{column}' has no turn of the user before the answer)")
    *history, asked, answer = joined
    seen.update(noted)
    return Conversation(system if system and system.strip() else None, tuple(history), asked.content, answer.content)


def _place_of_answer(where: str, column: str, turns: Sequence[_Turn], noted: set[str]) -> int:
    """The index of the assistant's last turn that is trained."""
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise BadRowError(f"{where}: a row without an answer ('{column}' has no turn of the assistant)")
    if answers[-1] + 1 < len(turns):
        noted.add("end with a turn of the user, which nobody answers: it is left out")
    learned = [place for place in answers if turns[place].learned]
    if not learned:
        raise BadRowError(f"{where}: every turn of the assistant in '{column}' is excluded from training (weight 0)")
    if learned != answers:
        noted.add("have turns of the assistant with weight 0: they are context and not learned, or left out at the end")
    return learned[-1]


def _rows_of(cell: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The messages of `{"role": [...], "content": [...]}`, as `datasets` writes a sequence of structures."""
    lists = {name: value for name, value in cell.items() if isinstance(value, list | tuple)}
    if not lists or len({len(value) for value in lists.values()}) != 1:
        return None
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _keys_of(message: dict[str, Any]) -> tuple[str, str] | None:
    fitting = [keys for keys in _KEYS if isinstance(message.get(keys[0]), str)]
    return next((keys for keys in fitting if keys[1] in message), fitting[0] if fitting else None)


class _Turn(NamedTuple):
    """A message with its role and text."""

    role: _Role
    text: str
    learned: bool = True


def _turn(place: str, message: dict[str, Any], noted: set[str]) -> _Turn:
    """Role and text of a message; `place` is its location with an open quotation mark that the caller closes."""
    role_key, text_key = _keys_of(message) or _KEYS[0]
    role = str(message[role_key]).strip().lower()
    calls = next((key for key in _CALLS if message.get(key)), None)
    if calls is not None:
        raise BadRowError(f"{place}.{calls}' holds a tool call, and only text is trained")
    if role in _TOOL_ROLES:
        raise BadRowError(f"{place}.{role_key}' is {role}: a tool's call or reply, and only text is trained")
    if role not in _ROLES:
        raise BadRowError(f"{place}.{role_key}' is '{role}'; use system, user or assistant")
    thought = next((key for key in _THOUGHTS if message.get(key)), None)
    if thought is not None:
        noted.add(f"have thoughts in '{thought}', which are left out; write them into the content to have them learned")
    text = _text(f"{place}.{text_key}", message.get(text_key))
    check_characters(f"{place}.{text_key}'", text)
    if not text.strip() and role != "system":
        raise BadRowError(f"{place}.{text_key}' is empty")
    return _Turn(_ROLES[role], text, _is_learned(f"{place}.weight'", message.get("weight")))


def _is_learned(place: str, weight: Any) -> bool:
    """Whether a turn with this weight is trained (OpenAI, Mistral: 0 or 1); fractions are refused."""
    if weight is None or (isinstance(weight, float) and math.isnan(weight)):
        return True
    if isinstance(weight, bool) or weight not in (0, 1):
        raise BadRowError(f"{place} is {weight!r}; known are 0 (not learned) and 1")
    return bool(weight)


def _text(place: str, content: Any) -> str:
    """The text of a content, which may be given in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise BadRowError(f"{place}' is not text but {type(content).__name__}")
    texts = []
    for number, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = str(part.get("type", "text")) if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, dict) or kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            what = next((one for one in _MEDIA if one in kind), None)
            article = "an" if what in ("image", "audio") else "a"
            holds = f"holds {article} {what}" if what else f"is a part of type {kind}"
            raise BadRowError(f"{place}[{number}]' {holds}, and only text is trained")
        texts.append(part["text"])
    return "".join(texts)


def _joined(turns: Sequence[_Turn], noted: set[str]) -> list[Turn]:
    """Join consecutive turns of one role, because most chat templates want alternating roles."""
    found: list[Turn] = []
    for role, text, learned in turns:
        if found and found[-1].role == role:
            noted.add("have turns of one role in a row, which are joined by a blank line")
            before = found.pop()
            text, learned = f"{before.content}\n\n{text}", learned and before.learned is None
        found.append(Turn.model_validate({"role": role, "content": text, "learned": None if learned else False}))
    return found
