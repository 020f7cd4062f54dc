"""The tiny model, loaded once for the room."""

from __future__ import annotations

import pytest

from lorapar.basemodel import load_model, load_tokenizer
from lorapar.config import ModelConfig

TINY = ModelConfig(name="builtin:tiny", dtype="float32", description="a tiny model")


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """Settings of the tiny model."""
    return TINY


@pytest.fixture(scope="session")
def model():
    """The tiny model in float32."""
    return load_model(TINY)


@pytest.fixture(scope="session")
def tokenizer():
    """Its tokenizer: one token a byte."""
    return load_tokenizer(TINY)
