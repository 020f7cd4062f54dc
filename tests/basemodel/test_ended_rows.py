"""Rows that ended are left out of a batch where that changes no bit of the others, and only there."""

from __future__ import annotations

import pytest
import torch

from lorapar.basemodel import load_model
from lorapar.basemodel.ended_rows import EndedRows, fewest_rows, products_go_by_row
from lorapar.config import ModelConfig
from lorapar.evaluation import generate_greedy

PROMPTS = [[5, 9], [7, 8, 60, 61, 62, 63, 64], [100], [30, 31, 32, 33], [40, 41], [50, 51, 52]]


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [("float32", True), ("bfloat16", True), ("bfloat16", False), ("float16", True), ("float16", False)],
)
def test_without_ended_rows_the_others_are_the_same_bits(dtype, autocast) -> None:
    """Of a model whose products go by row; on this CPU that may be none in bfloat16 or float16."""
    model = load_model(ModelConfig(name="builtin:tiny", dtype=dtype))
    computed: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, states: computed.append(len(states[0])))

    def answers(stops: list[int]) -> list[list[int]]:
        return generate_greedy(model, PROMPTS, stop_ids=stops, pad_id=2, max_new_tokens=12)

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if not products_go_by_row(model):
            pytest.skip("products of this processor depend on the rows beside a row")
        stops = [row[place] for place, row in zip((1, 3, 5), answers([]), strict=False)]
        expected = answers(stops)
        assert len({len(row) for row in expected}) > 1
        computed.clear()
        with EndedRows(torch.tensor(stops), fewest=2).left_out(model):
            assert answers(stops) == expected
    assert computed[0] == len(PROMPTS) > computed[-1]
    assert min(computed) >= 2


class OfFewRows(torch.nn.Linear):
    """A product that is rounded otherwise where two or three rows are multiplied, as some kernels do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product = super().forward(input)
        return product * (1 + 2**-20) if len(input) < 4 else product


class Experts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.zeros(4, 8, 8))


def test_one_layer_whose_products_depend_on_the_rows_is_enough() -> None:
    layers = [torch.nn.Embedding(8, 8), torch.nn.LayerNorm(8)]
    assert products_go_by_row(torch.nn.Sequential(*layers, OfFewRows(8, 8))) is False
    assert products_go_by_row(torch.nn.Sequential(*layers, torch.nn.Linear(8, 8), Experts())) is False


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_number_format_can_be_asked(dtype, quantization) -> None:
    """With bitsandbytes' packed layers, and those beside them that hold the format itself."""
    model = load_model(ModelConfig(name="builtin:tiny", dtype=dtype, quantization=quantization))
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert fewest_rows(model, autocast=autocast) in (None, 1, 2)


@pytest.mark.parametrize(("dtype", "fewest"), [("float32", 1), ("bfloat16", 2)])
def test_in_a_narrow_format_no_row_stays_alone(dtype, fewest, monkeypatch) -> None:
    """By itself it is no product of matrices, and is summed up in another order: the trial has two rows at least."""
    monkeypatch.setattr("lorapar.basemodel.ended_rows.products_go_by_row", lambda model: True)
    assert fewest_rows(load_model(ModelConfig(name="builtin:tiny", dtype=dtype)), autocast=False) == fewest


def test_a_layer_is_asked_in_the_number_format_it_holds() -> None:
    formats = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    asked: list[torch.dtype] = []
    layers = [torch.nn.Linear(8, 8, dtype=one) for one in formats]
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, states: asked.append(states[0].dtype))
        products_go_by_row(torch.nn.Sequential(layer))
    assert set(asked) == set(formats)
