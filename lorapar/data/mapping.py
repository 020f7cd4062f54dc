"""Which column of a data set plays which part: the ready mappings, one's own, and the usual column names."""

from __future__ import annotations

import re
from collections.abc import Collection

from lorapar.config import ColumnMapping, DataConfig
from lorapar.errors import BadInputError, nearest

_INSTRUCTION = ColumnMapping(question="instruction", context="input", answer="output")

MAPPINGS: dict[str, ColumnMapping] = {
    "gsm8k": ColumnMapping(reference_pattern=r"####\s*(\S.*?)\s*$"),
    "dolly": ColumnMapping(question="instruction", context="context", answer="response"),
    "openplatypus": _INSTRUCTION,
    "codealpaca": _INSTRUCTION,
}
"""Columns of openai/gsm8k, databricks/databricks-dolly-15k, garage-bAInd/Open-Platypus, sahil2801/CodeAlpaca-20k."""

_OPTIONAL = ("context", "reference", "system", "id")


def mapping_for(config: DataConfig, columns: Collection[str], where: str) -> ColumnMapping:
    """The mapping the settings name, each of its columns being there.

    Without one, `question` and `answer` are required and `context`, `reference`, `system` and `id` are used where the
    data has them. Raises BadInputError naming the column and the nearest right one.
    """
    mapping = _chosen(config, columns)
    for part in ("question", "answer", *_OPTIONAL):
        column = getattr(mapping, part)
        if column is not None and column not in columns:
            raise BadInputError(
                f"data.columns.{part}: {where} has no column '{column}'{_hint(part, column, columns)}; it has: "
                f"{', '.join(columns)}; name the right one in data.columns"
            )
    return mapping


def _hint(part: str, column: str, columns: Collection[str]) -> str:
    """The column that was meant: the one spelt nearly so, or else the one that has the usual name of its part."""
    return nearest(column, list(columns)) or nearest(part, [one for one in columns if one.lower() == part])


def check_mapping(config: DataConfig) -> None:
    """Refuse an unknown mapping and a reference pattern that cannot work, before any data is read."""
    if config.mapping is not None and config.mapping not in MAPPINGS:
        known = ", ".join(MAPPINGS)
        raise BadInputError(
            f"data.mapping: no mapping is called '{config.mapping}'{nearest(config.mapping, list(MAPPINGS))}; "
            f"known: {known}, or name the columns in data.columns"
        )
    pattern = config.columns.reference_pattern if config.columns else None
    if pattern is not None:
        compiled_pattern(pattern)


def compiled_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of `reference_pattern`; it needs a group, which finds the short answer."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadInputError(f"data.columns.reference_pattern: '{pattern}' is no regular expression: {error}") from None
    if not compiled.groups:
        raise BadInputError(
            f"data.columns.reference_pattern: '{pattern}' has no group; put parentheses around the short answer"
        )
    return compiled


def _chosen(config: DataConfig, columns: Collection[str]) -> ColumnMapping:
    if config.columns is not None:
        return config.columns
    if config.mapping is not None:
        return MAPPINGS[config.mapping]
    return ColumnMapping(**{part: part for part in _OPTIONAL if part in columns})
