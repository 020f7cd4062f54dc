"""Examples from the project's own task mix, from files and from the hub: read, checked and split in one place.

Importable without torch, datasets and pyarrow: they are imported where a source needs them.
"""

from lorapar.data.load import LoadedData, load_data, load_examples, load_sample
from lorapar.data.mapping import MAPPINGS
from lorapar.data.source import Kind, data_digest, resolve_data
from lorapar.data.source import kind_of as data_kind

__all__ = [
    "MAPPINGS",
    "Kind",
    "LoadedData",
    "data_digest",
    "data_kind",
    "load_data",
    "load_examples",
    "load_sample",
    "resolve_data",
]
