"""Examples from the project's own task mix, from files and from the hub: read, checked and split in one place.

Importable without torch, datasets and pyarrow: a source imports them when it needs them.
"""

from lorapar.data.load import LoadedData, load_data, load_examples, load_sample
from lorapar.data.mapping import MAPPINGS
from lorapar.data.source import data_digest, resolve_data

__all__ = [
    "MAPPINGS",
    "LoadedData",
    "data_digest",
    "load_data",
    "load_examples",
    "load_sample",
    "resolve_data",
]
