"""The base model: which weights a name stands for, where they lie on this machine, and loading them. Never edited.

Importable without torch: `resolve_model` serves the client, the rest imports torch when called.
"""

from lorapar.basemodel.load import default_device, load_model, load_tokenizer, model_folder
from lorapar.basemodel.resolve import resolve_model

__all__ = ["default_device", "load_model", "load_tokenizer", "model_folder", "resolve_model"]
