"""Which tags an answer has around its steps and its result: the section `prompts.tags`."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from lorapar.config.base import Section


def _pair(value: tuple[str, str]) -> tuple[str, str]:
    if not all(tag.strip() == tag and tag for tag in value):
        raise ValueError("a tag is a text without white space around it, such as <think>")
    return value


Pair = Annotated[tuple[str, str], AfterValidator(_pair)]
"""What opens a part of an answer, and what closes it."""

_THINK, _ANSWER = ("<reasoning>", "</reasoning>"), ("<answer>", "</answer>")


class TagsConfig(Section):
    """Tags of an answer; rewards, the strict rule, the default system message and the task mix all go by them."""

    think: Pair = Field(_THINK, description="What opens and closes the steps; reasoning models: [<think>, </think>]")
    answer: Pair | None = Field(
        _ANSWER, description="What opens and closes the result; null: all that follows the closed steps"
    )

    @model_validator(mode="after")
    def _tags_differ(self) -> Self:
        if len(set(self.all)) < len(self.all):
            raise ValueError("two tags are the same; each must differ from the others")
        return self

    @property
    def all(self) -> tuple[str, ...]:
        """Every tag, in the order they are in an answer."""
        return (*self.think, *(self.answer or ()))

    @property
    def example(self) -> str:
        """An answer in words, for a system message."""
        result = f"{self.answer[0]}the result{self.answer[1]}" if self.answer else " and then the result"
        return f"{self.think[0]}your steps{self.think[1]}{result}"

    def read(self, text: str, *, opened: bool = False) -> str:
        """An answer as every rule reads it: with `<reasoning>` and `<answer>` in the place of its own tags.

        `opened`: the prompt ends with the tag that opens the steps, so the answer goes on inside of it. Where the
        result has no tags it is what follows the last closed steps, and an answer that never closed them has none.
        With the default tags an answer is read as it is.
        """
        if opened and self.think[0] not in text.partition(self.think[1])[0]:
            text = self.think[0] + text
        if self.all == (*_THINK, *_ANSWER):
            return text
        for tag in (*_THINK, *_ANSWER):
            if tag not in self.all:
                text = text.replace(tag, f"&lt;{tag[1:]}")  # here it is text like any other
        if self.answer is None:
            steps, closing, result = text.rpartition(self.think[1])
            text = f"{steps}{closing}{_ANSWER[0]}{result.strip()}{_ANSWER[1]}" if closing else text
            return _swapped(text, dict(zip(self.think, _THINK, strict=True)))
        return _swapped(text, dict(zip(self.all, (*_THINK, *_ANSWER), strict=True)))

    def written(self, text: str) -> str:
        """A text with `<reasoning>` and `<answer>` as an answer by these tags."""
        if self.answer is None:
            return _swapped(
                re.sub(r"<answer>(.*?)</answer>", r"\n\n\1", text), dict(zip(_THINK, self.think, strict=True))
            )
        return _swapped(text, dict(zip((*_THINK, *_ANSWER), self.all, strict=True)))


def _swapped(text: str, tags: dict[str, str]) -> str:
    """All tags at once, the longest first: one may be part of another."""
    found = re.compile("|".join(re.escape(tag) for tag in sorted(tags, key=len, reverse=True)))
    return found.sub(lambda match: tags[match[0]], text)
