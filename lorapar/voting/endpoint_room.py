"""How many tokens an answer may have after a prompt of some length, learnt from rows with too little room.

Prompt and answer share a model's context, so a longer row leaves less room. What fitted after one row, less a quarter
so that somewhat longer rows fit at once too, is the start for rows as long or longer.
"""

from __future__ import annotations

from lorapar.voting.templates import Prompt


class RoomByLength:
    """The number of tokens to begin with, by a prompt's characters."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether every row so far has left enough room."""
        return not self._known

    def learn(self, length: int, tokens: int) -> None:
        """Note how many tokens fit after a prompt of this length, where more were refused."""
        first = max(1, tokens - tokens // 4)
        known = self.beside(length)
        if known is None or first < known:
            self._known = {at: most for at, most in self._known.items() if at < length or most < first}
            self._known[length] = first

    def beside(self, length: int) -> int | None:
        """The number of tokens to begin with; None where no prompt of this length or less was refused."""
        return min((most for at, most in self._known.items() if at <= length), default=None)


def characters_of(prompt: Prompt) -> int:
    """A prompt's length, without what the server's template adds."""
    return len(prompt.text or "") + sum(len(message["content"]) for message in prompt.messages or ())
