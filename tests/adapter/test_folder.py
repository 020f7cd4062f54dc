"""Saving and loading: an ordinary PEFT folder plus a mark that says what is trainable."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from lorapar.adapter import adapter_mark, assert_trainable, base_digest, load_adapter, lora_parameters, save_adapter
from lorapar.errors import BadInputError, TrainingError

IDS = torch.arange(5, 17).reshape(2, 6)


@pytest.fixture
def saved(make_adapter, tmp_path):
    model = make_adapter(rank=4)
    save_adapter(model, tmp_path / "adapter")
    return model, tmp_path / "adapter"


def test_a_saved_adapter_loads_bit_for_bit(saved, make_base):
    model, folder = saved
    loaded = load_adapter(make_base(), folder, trainable=True)
    assert adapter_mark(loaded) == adapter_mark(model)
    for name, parameter in lora_parameters(model).items():
        assert torch.equal(lora_parameters(loaded)[name], parameter)
    assert base_digest(loaded) == base_digest(make_base())


def test_on_a_bfloat16_base_the_adapter_stays_float32_bit_for_bit(saved, make_base):
    model, folder = saved
    loaded = load_adapter(make_base(dtype=torch.bfloat16), folder, trainable=True)
    for name, parameter in lora_parameters(model).items():
        assert torch.equal(lora_parameters(loaded)[name], parameter)


def test_plain_peft_loads_it_and_gives_the_same_logits(saved, make_base):
    model, folder = saved
    plain = PeftModel.from_pretrained(make_base(), folder)
    assert torch.allclose(plain.eval()(IDS).logits, model.eval()(IDS).logits, atol=1e-4)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["peft_type"], config["init_lora_weights"]) == (8, "LORA", True)


def test_the_same_adapter_gives_the_same_bytes(saved, make_adapter, tmp_path):
    _, folder = saved
    save_adapter(make_adapter(rank=4), tmp_path / "again")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "lorapar_adapter.json"]
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_the_base_models_name_is_written_and_kept(make_base, tmp_path):
    from lorapar.adapter import AdapterSettings, attach

    save_adapter(attach(make_base(), AdapterSettings(rank=2, base_model_name="org/model"), seed=0), tmp_path / "a")
    save_adapter(load_adapter(make_base(), tmp_path / "a", trainable=False), tmp_path / "b")
    for folder in ("a", "b"):
        config = json.loads((tmp_path / folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "org/model"


def test_an_adapter_loaded_for_inference_cannot_be_trained(saved, make_base):
    loaded = load_adapter(make_base(), saved[1], trainable=False)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(TrainingError, match="trainable=False"):
        assert_trainable(loaded)
    for parameter in lora_parameters(loaded).values():
        parameter.requires_grad_(True)  # what a trainer may do; the mark still says what it was loaded for
    with pytest.raises(TrainingError, match="trainable=False"):
        assert_trainable(loaded)


def test_a_frozen_adapter_tensor_or_a_loose_base_tensor_is_named(make_adapter):
    model = make_adapter()
    assert_trainable(model)
    name, parameter = next(iter(lora_parameters(model).items()))
    parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match=name):
        assert_trainable(model)
    parameter.requires_grad_(True)
    model.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(TrainingError, match=r"lm_head\.weight"):
        assert_trainable(model)


def test_an_adapter_made_elsewhere_is_trainable_as_a_whole(saved, make_base):
    (saved[1] / "lorapar_adapter.json").unlink()
    assert adapter_mark(load_adapter(make_base(), saved[1], trainable=True)).rank == 8


def test_a_model_wrapped_by_plain_peft_needs_an_explicit_rank(saved, make_base):
    with pytest.raises(BadInputError, match="pass rank="):
        adapter_mark(PeftModel.from_pretrained(make_base(), saved[1]))


def test_a_folder_that_is_none_is_refused(make_base, tmp_path):
    with pytest.raises(BadInputError, match=r"it has no adapter_config\.json"):
        load_adapter(make_base(), tmp_path, trainable=True)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "lorapar_adapter.json"])
def test_a_damaged_file_is_named(saved, make_base, file):
    (saved[1] / file).write_text("{")
    with pytest.raises(BadInputError, match=file):
        load_adapter(make_base(), saved[1], trainable=True)


def test_an_adapter_for_another_model_names_a_tensor_that_does_not_fit(saved, make_base):
    folder = saved[1]
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match=r"the model lacks '.*down_proj\.lora_A\.weight'"):
        load_adapter(make_base(), folder, trainable=True)
    config["target_modules"], config["r"] = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"], 3
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match=r"is \(8, 96\) in the file and \(3, 96\) in the model"):
        load_adapter(make_base(), folder, trainable=True)
