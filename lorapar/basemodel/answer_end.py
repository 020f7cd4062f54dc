"""What ends an answer: decided here alone, from chat template, tokenizer and generation settings together.

Base models often name `<|endoftext|>` as their end while their template closes a turn with `<|im_end|>`: a model tuned
on the template then writes the latter and, if nothing listens, goes on with a turn of its own invention.

Texts of several tokens (`StopStrings`) are found as vLLM finds them: in the completion alone, never in its prompt.
transformers' own `StopStringCriteria` also ends where prompt and completion make up the text together, such as a
prompt's last line break and a first word, and vLLM does not; so completions are decoded here.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.basemodel.chat_template import PROBE_QUESTION, PROBE_SYSTEM, probe
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, StoppingCriteriaList

PROBE_ANSWER = "lorapar-probe-answer"
_NEXT_QUESTION = "lorapar-probe-next"
_MARK = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_\w+>")
"""How marks are written that no answer has by chance, such as `<|im_end|>` and `<end_of_turn>`."""
NO_TOKEN = (1 << 31) - 1
"""Stands for "no token ends an answer": with none at all, `generate` takes the tokens that the model itself names."""


@dataclass(frozen=True)
class AnswerEnd:
    """What a template writes after an answer, and the tokens at which one stops."""

    written: str
    """What the template writes after the last answer of a chat, such as `<|im_end|>` and a line break."""
    closing: str
    """What it writes there only where another turn follows, up to the token that ends the first; mostly nothing."""
    turn_end: int | None
    """The first token of the two that is more than text; None where there is none."""
    eos: str | None
    """The tokenizer's end token."""
    token_ids: tuple[int, ...]
    """Every token that ends an answer; empty where none does."""
    named_ids: tuple[int, ...]
    """Those of them that the model's own files name, so that every server knows them."""
    strings: tuple[str, ...]
    """Texts that end an answer too, and that no token stands for: stop_strings of the generation settings, and a mark
    that the template ends turns with."""
    leftovers: tuple[str, ...]
    """Texts that may be left at the end of a decoded answer: end tokens that decoders keep, and text before them."""

    @property
    def learned(self) -> str:
        """What is learned after an answer: what the template writes and, where no token of that ends it, the eos."""
        return self.written + (self.closing if self.turn_end is not None else self.eos or "")

    @property
    def unnamed_ids(self) -> tuple[int, ...]:
        """Tokens that a server has to be told, because the model's own files do not name them."""
        return tuple(one for one in self.token_ids if one not in self.named_ids)

    def cut(self, text: str) -> str:
        """A decoded answer before its first stop string, without what the template would write after it.

        As it is where neither has left any text.
        """
        text = self.before_string(text)
        for left in self.leftovers:
            if text.rstrip().endswith(left):
                text = text.rstrip().removesuffix(left).rstrip()
        return text

    def before_string(self, text: str) -> str:
        """What stands before the first stop string, as vLLM gives an answer."""
        return text[: min((place for one in self.strings if (place := text.find(one)) >= 0), default=len(text))]


def answer_end(tokenizer: PreTrainedTokenizerBase) -> AnswerEnd:
    """What ends an answer of this model; the tokenizer is one of `load_tokenizer`, whose folder has the settings."""
    written = _written(tokenizer)
    ids = _ids_of_end(tokenizer, written)
    place = next((n for n, token in enumerate(ids) if is_more_than_text(tokenizer, token)), None)
    closing, next_turn = ("", None) if place is not None else _between_turns(tokenizer)
    turn_end = ids[place] if place is not None else next_turn if closing else None
    closing = closing.removeprefix(written)
    rows = embedding_rows(tokenizer)
    named = {tokenizer.eos_token_id, *generation_ends(tokenizer)}
    known = {int(one) for one in named if one is not None and (rows is None or one < rows)}
    others = {one for one in (turn_end, next_turn) if one is not None}
    ends = known | set(_stop_string_ids(tokenizer)) | others
    before = tokenizer.decode(ids if place is None else ids[:place])
    kept = [tokenizer.decode([one], skip_special_tokens=True) for one in sorted(ends)]
    mark = _mark(written, ended=bool(ends)) if turn_end is None else []
    return AnswerEnd(
        written=written,
        closing=closing,
        turn_end=turn_end,
        eos=tokenizer.eos_token,
        token_ids=tuple(sorted(ends)),
        named_ids=tuple(sorted(known)),
        strings=tuple(dict.fromkeys([*_strings_of_no_token(tokenizer), *mark])),
        leftovers=tuple(text for one in (*kept, str(before)) if (text := str(one).strip())),
    )


def generation_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """End tokens of generation_config.json or, without that, of config.json: one, several or none."""
    values = generation_settings(tokenizer) or _text_config(_folder(tokenizer))
    found = values.get("eos_token_id")
    return [_id_of(tokenizer, one) for one in (found if isinstance(found, list) else [found]) if one is not None]


def _stop_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts at which the model's generation settings end an answer, those of one token included."""
    found = generation_settings(tokenizer).get("stop_strings") or []
    return [one for one in ([found] if isinstance(found, str) else found) if isinstance(one, str) and one]


def _strings_of_no_token(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Those of them that no one token stands for."""
    known = {str(tokenizer.convert_ids_to_tokens(one)) for one in _stop_string_ids(tokenizer)}
    return [one for one in _stop_strings(tokenizer) if one not in known]


def _stop_string_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Stop strings that are a token of their own, such as `<|eot|>`; a piece of a word would end other words too."""
    strings = _stop_strings(tokenizer)
    vocabulary = tokenizer.get_vocab() if strings else {}
    found = [vocabulary.get(one) for one in strings]
    return [int(one) for one in found if one is not None and is_more_than_text(tokenizer, int(one))]


def _id_of(tokenizer: PreTrainedTokenizerBase, named: Any) -> int:
    """An end token as settings name it: its number, or the token itself."""
    known = tokenizer.get_vocab().get(named) if isinstance(named, str) and not named.isdigit() else None
    if known is not None:
        return int(known)
    try:
        return int(named)
    except (TypeError, ValueError):
        raise BadInputError(
            f"{_folder(tokenizer)}: its generation settings name {named!r} as eos_token_id, which is no token of its "
            "tokenizer; write the token's number"
        ) from None


def generation_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """generation_config.json of the model, where it has one."""
    return _json(_folder(tokenizer) / "generation_config.json")


def embedding_rows(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens the model has an embedding for, by its config.json."""
    rows = _text_config(_folder(tokenizer)).get("vocab_size")
    return int(rows) if isinstance(rows, int) else None


def shared_length(first: Sequence[object], second: Sequence[object]) -> int:
    """Number of leading members, tokens or characters, that two sequences share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _folder(tokenizer: PreTrainedTokenizerBase) -> Path:
    return Path(tokenizer.name_or_path)


def _text_config(folder: Path) -> dict[str, Any]:
    values = _json(folder / "config.json")
    inner = values.get("text_config")
    return {**values, **inner} if isinstance(inner, dict) else values


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _written(tokenizer: PreTrainedTokenizerBase) -> str:
    """What follows the last answer of a chat."""
    return _rendered(tokenizer).rpartition(PROBE_ANSWER)[2]


def _rendered(tokenizer: PreTrainedTokenizerBase, *more: dict[str, str]) -> str:
    """A chat with an answer as text; with a system message where the template takes no chat without one."""
    chat = [*PROBE_QUESTION, {"role": "assistant", "content": PROBE_ANSWER}, *more]
    texts = (probe(tokenizer, one, prompt=False) for one in (chat, [PROBE_SYSTEM, *chat]))
    return next((text for text in texts if PROBE_ANSWER in text), "")


def _between_turns(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int | None]:
    """Of a template that ends its last answer with no token: what ends one that another question follows, and the
    first token there. That token begins the next turn where the text is empty.
    """
    chat = _rendered(tokenizer, {"role": "user", "content": _NEXT_QUESTION})
    head, _, rest = chat.partition(PROBE_ANSWER)
    between, found, _ = rest.partition(_NEXT_QUESTION)
    ids = _ids_of_end(tokenizer, between) if found else []
    place = next((n for n, token in enumerate(ids) if is_more_than_text(tokenizer, token)), None)
    if place is None:
        return "", None
    before = tokenizer(head.partition(PROBE_QUESTION[0]["content"])[0], add_special_tokens=False)["input_ids"]
    opens = [one for one in before if is_more_than_text(tokenizer, one) and one != tokenizer.bos_token_id]
    if ids[place] in {tokenizer.bos_token_id, *opens[:1], *opens[-1:]}:  # headers begin with one and end with another
        return "", ids[place]
    text = str(tokenizer.convert_ids_to_tokens(ids[place]))
    return between[: between.find(text) + len(text)] if text in between else "", ids[place]


def _mark(written: str, *, ended: bool) -> list[str]:
    """The text that a template ends turns with, where it is written like a token and is none of this tokenizer's.

    Where no token ends an answer, any text is better than none.
    """
    text = written.strip()
    found = _MARK.search(text)
    if found is not None:
        return [found[0]]
    return [text] if not ended and len(text) > 1 else []


def _ids_of_end(tokenizer: PreTrainedTokenizerBase, written: str) -> list[int]:
    """The tokens of what is written after an answer, as they are behind one."""
    whole, head = (list(tokenizer(PROBE_ANSWER + end, add_special_tokens=False)["input_ids"]) for end in (written, ""))
    return whole[shared_length(whole, head) :]


def is_more_than_text(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Whether a token stands for itself alone: a line break or a piece of a word may be in the middle of an answer."""
    if token in tokenizer.all_special_ids:
        return True
    # Some tokenizers keep runs of blanks and line breaks among their added tokens.
    added = tokenizer.added_tokens_decoder.get(token)
    return added is not None and bool(str(added).replace("\u2581", "").strip())


_MORE_TOKENS = 8
"""Tokens before a text that are decoded with it: those that give no text, or part of a character."""


class StopStrings:
    """The stop strings of a model that no token stands for; false where it has none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.texts = answer_end(tokenizer).strings
        self._tokenizer = tokenizer
        self._tokens = max((len(text.encode()) for text in self.texts), default=0) + _MORE_TOKENS

    def __bool__(self) -> bool:
        return bool(self.texts)

    def end(self, tokens: Sequence[int]) -> bool:
        """Whether one of the texts is in a completion."""
        text = self._decoded(tokens) if self.texts else ""
        return any(one in text for one in self.texts)

    def trim(self, tokens: Sequence[int]) -> list[int]:
        """A completion up to and including the token that completes its first stop string."""
        if not self.end(tokens):
            return list(tokens)
        return list(tokens[: bisect_left(range(len(tokens)), True, key=lambda n: self.end(tokens[:n]))])

    def criteria(self, prompt_tokens: int) -> StoppingCriteriaList:
        """What `generate` is handed for prompts padded to this length; empty without stop strings."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        class _Ends(StoppingCriteria):  # type: ignore[misc]
            def __call__(criterion, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
                last = input_ids[:, prompt_tokens:][:, -self._tokens :].tolist()
                return torch.tensor([self.end(row) for row in last], dtype=torch.bool, device=input_ids.device)

        return StoppingCriteriaList([_Ends()] if self.texts else [])

    def for_vllm(self) -> dict[str, Any]:
        """Sampling parameters: vLLM looks for texts only where it decodes, with control tokens where it keeps them."""
        if not self.texts:
            return {"detokenize": False}
        return {"detokenize": True, "skip_special_tokens": False, "stop": list(self.texts)}

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))
