"""What plan and prepare ask of the model's tokenizer and chat template, before anything is computed.

The tokenizer needs transformers, which the client image goes without: there plan leaves it to prepare.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from lorapar.basemodel import wheel
from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig, PromptConfig, RunConfig
from lorapar.data import Kind as DataKind
from lorapar.data import data_kind, load_data
from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.records import Example

if TYPE_CHECKING:
    from lorapar.data.rendering import RowCheck

SAMPLE_ROWS = 32
"""Rows that plan looks at; prepare sees all."""


def row_check(model: ModelConfig, prompts: PromptConfig, progress: Progress | None = None) -> RowCheck | None:
    """What sees rows through the model's chat template; None where transformers is not installed here."""
    if find_spec("transformers") is None or find_spec("torch") is None:
        return None
    from lorapar.basemodel import load_tokenizer_alone
    from lorapar.data.rendering import RowCheck

    return RowCheck(load_tokenizer_alone(model, progress), model, prompts)


def planned_check(config: RunConfig) -> RowCheck | None:
    """A check of some rows of a resolved run; None where the tokenizer is not to be had at once.

    Raises BadInputError as `RowCheck.see`.
    """
    if kind_of(config.model) is Kind.WHEEL and not wheel.is_unpacked():
        return None
    check = row_check(config.model, config.prompts)
    if check is not None:
        check.see(_sample(config))
    return check


def _sample(config: RunConfig) -> list[Example]:
    """The first rows of the data; none of the hub's, which would be downloaded, and none that prepare will refuse."""
    kind = data_kind(config.data)
    if kind is DataKind.HUB:
        return []
    few = {"limit": min(config.data.limit or SAMPLE_ROWS, SAMPLE_ROWS), "heldout": 0.0, "bad_rows": "leave_out"}
    data = config.data if kind is DataKind.TASK_MIX else config.data.model_copy(update=few)
    try:
        return load_data(data, config.seed).examples[:SAMPLE_ROWS]
    except (BadInputError, ModuleNotFoundError):  # of the client, which has no pyarrow
        return []
