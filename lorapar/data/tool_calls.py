"""Calls of tools that an answer writes as text, and whether what is asked tells of the tools of its row."""

from __future__ import annotations

import re
from typing import Any

from lorapar.data.written import read_written

_CALLS = re.compile(
    r"<\|?tool_call|<functioncall>|<function=|<\|python_tag\|>|\[TOOL_CALLS\]|<\uff5ctool\u2581calls"
    r"|\A\[?\s*\{\s*[\"'](?:name[\"']\s*:.*[\"'](?:arguments|parameters)"
    r"|(?:arguments|parameters)[\"']\s*:.*[\"']name)[\"']\s*:",
    re.DOTALL,
)
"""An answer that calls a tool by a text: Hermes, Qwen, Granite, Glaive, Llama, Mistral, DeepSeek, xLAM."""
_DEPTH = 6


def holds_a_call(answer: str) -> bool:
    """Whether an answer calls a tool by a text."""
    return _CALLS.search(answer.lstrip()) is not None


def tool_names(cell: Any) -> list[str]:
    """The names in a list of tools, without those of their parameters: of structures, of texts with them, or of texts.

    A structure's own name counts, or else those of the structures inside it (`{"function": {"name": "f"}}`).
    """
    return list(dict.fromkeys(_names(cell, _DEPTH)))


def names_any(text: str, names: list[str]) -> bool:
    """Whether a text has one of these names as a word."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)


def lists_all(text: str, names: list[str]) -> bool:
    """Whether a text has each of these names in quotes, or before a bracket or a colon, as a list of tools has them."""
    return bool(names) and all(
        re.search(rf"(?<!\w){re.escape(name)}(?:\*\*|[`\"'\\])*\s?[(:]|([\"'`]){re.escape(name)}\\?\1", text)
        for name in names
    )


def _names(cell: Any, depth: int) -> list[str]:
    if isinstance(cell, str):
        written = read_written(cell)
        return [] if written is None or not depth else _names(written, depth - 1)
    if isinstance(cell, list | tuple):
        return [name for one in cell for name in (_names(one, depth - 1) or _named(one)) if depth]
    if not isinstance(cell, dict) or not depth:
        return []
    return _named(cell.get("name")) or [
        name for inner in cell.values() if not isinstance(inner, str) for name in _names(inner, depth - 1)
    ]


def _named(text: Any) -> list[str]:
    """A text that is a name and no structure."""
    return [text.strip()] if isinstance(text, str) and text.strip() and read_written(text) is None else []
