"""The base model: which weights a name stands for, where they are on this machine, and loading them. Never edited.

Importable without torch: `resolve_model` serves the client, the rest imports torch when called.
"""

from lorapar.basemodel.answer_end import (
    NO_TOKEN,
    AnswerEnd,
    StopStrings,
    answer_end,
    embedding_rows,
    generation_settings,
)
from lorapar.basemodel.chat_template import asks_by_header, brings_template, is_plain, moves_system_text
from lorapar.basemodel.decoder import require_runs, try_decoder
from lorapar.basemodel.load import (
    default_device,
    load_model,
    load_skeleton,
    load_tokenizer,
    load_tokenizer_alone,
    model_folder,
)
from lorapar.basemodel.number_format import number_format
from lorapar.basemodel.resolve import resolve_model

__all__ = [
    "NO_TOKEN",
    "AnswerEnd",
    "StopStrings",
    "answer_end",
    "asks_by_header",
    "brings_template",
    "default_device",
    "embedding_rows",
    "generation_settings",
    "is_plain",
    "load_model",
    "load_skeleton",
    "load_tokenizer",
    "load_tokenizer_alone",
    "model_folder",
    "moves_system_text",
    "number_format",
    "require_runs",
    "resolve_model",
    "try_decoder",
]
