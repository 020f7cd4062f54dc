"""Unfinished work of a stage: when it is saved, and the copies of it in the store."""

from lorapar.checkpoint.generations import Generations
from lorapar.checkpoint.keeper import Keeper
from lorapar.checkpoint.mirror import StoreKeeper, forget, kept

__all__ = ["Generations", "Keeper", "StoreKeeper", "forget", "kept"]
