"""How many tokens an answer may have beside a prompt of some length: learnt from rows that left too little room.

Prompt and answer share a model's context, so a row leaves less room the longer it is. What fitted beside one row is
where rows as long or longer begin; a quarter less, so that those that are somewhat longer fit at once, too.
"""

from __future__ import annotations

from lorapar.voting.templates import Prompt


class RoomByLength:
    """Tokens to begin with, by the characters of a prompt."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no row has left too little room yet."""
        return not self._known

    def learn(self, length: int, tokens: int) -> None:
        """Note how many tokens fit beside a prompt of this length, where more were refused."""
        first = max(1, tokens - tokens // 4)
        known = self.beside(length)
        if known is None or first < known:
            self._known = {at: most for at, most in self._known.items() if at < length or most < first}
            self._known[length] = first

    def beside(self, length: int) -> int | None:
        """With how many tokens to begin; None where no prompt of this length or a shorter one was refused."""
        return min((most for at, most in self._known.items() if at <= length), default=None)


def characters_of(prompt: Prompt) -> int:
    """How long a prompt is, without what a template of the server's puts around its messages."""
    return len(prompt.text or "") + sum(len(message["content"]) for message in prompt.messages or ())
