"""What plan and prepare ask of the model's tokenizer and chat template, before anything is computed.

The tokenizer needs transformers, which the client image goes without: there plan leaves it to prepare.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lorapar.basemodel import wheel
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig, PromptConfig, RunConfig
from lorapar.data import LoadedData, load_sample
from lorapar.progress import Progress

if TYPE_CHECKING:
    from lorapar.data.rendering import RowCheck


def row_check(model: ModelConfig, prompts: PromptConfig, progress: Progress | None = None) -> RowCheck | None:
    """What sees rows through the model's chat template; None where transformers is not installed here."""
    if find_spec("transformers") is None or find_spec("torch") is None:
        return None
    from lorapar.basemodel import load_tokenizer_alone
    from lorapar.data.rendering import RowCheck

    return RowCheck(load_tokenizer_alone(model, progress), model, prompts)


@dataclass(frozen=True)
class Look:
    """What plan sees of the first rows."""

    check: RowCheck | None
    """Has seen them through the chat template; None where the tokenizer would have to be downloaded."""
    notes: tuple[str, ...]
    """What the data were recognised as and how they are read, one line each."""


def look(config: RunConfig) -> Look:
    """Look at the first rows of a resolved run; raises BadInputError as `RowCheck.see`, and where no column fits."""
    sample = _sample(config)
    there = kind_of(config.model) is not Kind.WHEEL or wheel.is_unpacked()
    check = row_check(config.model, config.prompts) if there else None
    if check is not None:
        check.see(sample.examples)
    return Look(check, tuple(sample.notes))


def _sample(config: RunConfig) -> LoadedData:
    """The first rows of the data; none of the client's that it cannot read."""
    try:
        return load_sample(config.data, config.seed)
    except ModuleNotFoundError:  # of the client, which has no pyarrow
        return LoadedData([])
