"""In which number formats, and with which positions, a row's answer is its own whatever is computed beside it."""

from __future__ import annotations

import pytest
import torch

from lorapar.basemodel import load_model
from lorapar.basemodel.by_row import is_exact
from lorapar.basemodel.ended_rows import fewest_rows
from lorapar.basemodel.processor import processor
from lorapar.config import ModelConfig


@pytest.mark.parametrize(
    ("form", "exact"),
    [
        ({"dtype": "float32"}, True),
        ({"dtype": "bfloat16"}, False),
        ({"dtype": "float32", "quantization": "nf4"}, True),
        ({"dtype": "float32", "quantization": "nf4", "compute_dtype": "bfloat16"}, False),
        ({"dtype": "float32", "quantization": "int8"}, False),
    ],
    ids=str,
)
def test_a_row_is_by_itself_where_its_products_are_in_float32(form, exact) -> None:
    model = load_model(ModelConfig(name="builtin:tiny", **form))
    assert is_exact(model) is exact
    assert is_exact(model, autocast=True) is False
    if exact:
        assert fewest_rows(model, autocast=False) == 1


def test_layers_in_8_bits_handle_columns_of_the_whole_batch_so_no_row_is_left_out() -> None:
    model = load_model(ModelConfig(name="builtin:tiny", dtype="float32", quantization="int8"))
    assert fewest_rows(model, autocast=False) is None


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_stretch_with_the_longest_row_make_answers_depend_on_it(make_family, kind) -> None:
    model = make_family("llama")
    assert is_exact(model)
    model.model.rotary_emb.rope_type = kind
    assert not is_exact(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert fewest_rows(model, autocast=True) is None


def test_a_processor_is_its_instructions_and_threads_only_where_rounding_turns_answers(monkeypatch) -> None:
    plain, narrow = processor(threads=False), processor(threads=True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert processor(threads=False) == plain
    assert processor(threads=True) == {**narrow, "threads": 99} != narrow
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert processor(threads=False) != plain
