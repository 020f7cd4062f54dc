"""Texts of several tokens that end an answer, found as vLLM finds them: in the completion alone, never in its prompt.

transformers' own `StopStringCriteria` also ends where prompt and completion make up the text together, such as a
prompt's last line break and a first word, and vLLM does not; so completions are decoded here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorapar.basemodel.answer_end import answer_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, StoppingCriteriaList

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
