"""DoRA, IA3, prompt and prefix tuning: attached, saved, loaded by plain PEFT, and the base as it was."""

from __future__ import annotations

import math

import pytest
import torch

from lorapar.adapter import (
    WHOLE_KINDS,
    AdapterSettings,
    adapter_mark,
    adapter_parameters,
    assert_trainable,
    attach,
    base_digest,
    load_adapter,
    lora_parameters,
    save_adapter,
    take_off,
)
from lorapar.adapter.files import load_published, read_tensors
from lorapar.errors import BadInputError
from lorapar.evaluation.generate import generate_greedy

IDS = torch.tensor([[3, 5, 7, 9, 11]])
PROMPTS = [[3, 5, 7, 9, 11], [4, 6], [8, 9, 10, 11, 12, 13, 14, 15]]


def settings(kind: str) -> AdapterSettings:
    return AdapterSettings(kind=kind, rank=2, alpha=8, virtual_tokens=4)


@torch.no_grad()
def moved(model):
    """As training would have moved it."""
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter_parameters(model).values():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def written(model, prompts):
    return generate_greedy(model, prompts, stop_ids=[2], pad_id=0, max_new_tokens=6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", WHOLE_KINDS)
def test_a_kind_is_saved_and_loaded_bit_for_bit_by_us_and_by_plain_peft(make_base, tmp_path, kind, dtype) -> None:
    base = make_base(dtype=dtype)
    bare, digest = base(IDS).logits, base_digest(base)
    model = moved(attach(base, settings(kind), seed=1))
    assert base_digest(model) == digest
    assert {parameter.dtype for parameter in adapter_parameters(model).values()} == {torch.float32}
    assert_trainable(model)
    assert adapter_mark(model).kind == kind
    save_adapter(model, tmp_path)
    expected = model(IDS).logits
    ours = load_adapter(make_base(dtype=dtype), tmp_path, trainable=True).eval()
    assert torch.equal(ours(IDS).logits, expected)
    assert adapter_mark(ours).kind == kind
    other = make_base(dtype=dtype)
    plain = load_published(other, tmp_path).eval()
    assert torch.equal(plain(IDS).logits, expected)
    take_off(plain)
    assert torch.equal(other(IDS).logits, bare)
    assert base_digest(other) == digest


@pytest.mark.parametrize("kind", WHOLE_KINDS)
def test_an_answer_does_not_depend_on_the_rows_beside_it(make_base, tmp_path, kind) -> None:
    """PEFT drops the positions of padded prompts; with virtual tokens before them padding would count."""
    save_adapter(moved(attach(make_base(), settings(kind), seed=1)), tmp_path)
    model = load_published(make_base(), tmp_path).eval()
    together = written(model, PROMPTS)
    assert together == [written(model, [prompt])[0] for prompt in PROMPTS]
    row, answer = list(PROMPTS[1]), []
    while len(answer) < len(together[1]):  # as whole forward passes say it, without a cache
        answer.append(int(model(torch.tensor([row + answer])).logits[0, -1].argmax()))
    assert together[1] == answer


def test_dora_and_ia3_begin_as_the_base_and_one_seed_gives_one_adapter(make_base) -> None:
    bare = make_base()(IDS).logits
    for kind in ("dora", "ia3"):
        assert torch.allclose(attach(make_base(), settings(kind), seed=0).eval()(IDS).logits, bare, atol=1e-5)
    before = torch.get_rng_state()
    drawn = [adapter_parameters(attach(make_base(), settings("prompt"), seed=seed)) for seed in (0, 0, 1)]
    one, same, other = (parameters["prompt_embeddings"] for parameters in drawn)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_files_of_prompts_say_nothing_of_how_they_were_drawn(make_base, tmp_path) -> None:
    save_adapter(attach(make_base(), settings("prompt"), seed=0), tmp_path)
    assert '"prompt_tuning_init": "RANDOM"' in (tmp_path / "adapter_config.json").read_text()
    assert list(read_tensors(tmp_path / "adapter_model.safetensors")[0]) == ["prompt_embeddings"]


def test_rslora_is_a_plain_lora_whose_scale_is_alpha_by_the_root_of_the_rank(make_base) -> None:
    from peft.tuners.lora import LoraLayer

    model = attach(make_base(), AdapterSettings(kind="rslora", rank=4, alpha=8), seed=0)
    layer = next(module for module in model.modules() if isinstance(module, LoraLayer))
    assert layer.scaling["default"] == pytest.approx(8 / math.sqrt(4))
    assert not model.peft_config["default"].use_rslora
    plain = lora_parameters(attach(make_base(), AdapterSettings(rank=4, alpha=8), seed=0))
    assert all(torch.equal(plain[name], own) for name, own in lora_parameters(model).items())


def test_another_adapter_on_top_is_refused(make_base) -> None:
    with pytest.raises(BadInputError, match="already carries an adapter"):
        attach(attach(make_base(), settings("ia3"), seed=0).get_base_model(), settings("ia3"), seed=0)
