"""A base in 4 or 8 bits computes what its dequantised weights compute, in every mode, and keeps its bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft.utils.integrations import dequantize_module_weight

from lorapar.adapter import AdapterSettings, attach, base_digest
from lorapar.adapter.attach import lora_layers
from lorapar.basemodel import load_model, load_tokenizer, model_folder
from lorapar.basemodel.spread import Gpus, fits_one
from lorapar.config import ModelConfig, RunConfig
from lorapar.errors import BadInputError
from lorapar.local.estimate import stage_memory
from lorapar.stages.plan import resolve_config

TINY = ModelConfig(name="builtin:tiny", dtype="float32")
FLOAT = {"name": "self", "dtype": "float32"}
NF4 = TINY.model_copy(update={"quantization": "nf4"})
IDS = torch.arange(3, 27)[None]
KINDS = [
    {"quantization": "nf4"},
    {"quantization": "nf4", "double_quantization": False, "compute_dtype": "float32"},
    {"quantization": "int8"},
]


def gradient(model: torch.nn.Module) -> torch.Tensor:
    """Of a loss, with respect to what the first layer reads."""
    read = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=read).logits.logsumexp(-1).sum().backward()
    return read.grad


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_computes_what_its_dequantised_weights_compute(kind) -> None:
    model, plain = load_model(TINY.model_copy(update=kind)), load_model(TINY)
    before = base_digest(model)
    layers = dict(model.named_modules())
    for name, layer in plain.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layer.weight.data = dequantize_module_weight(layers[name]).clone()
    with torch.no_grad():
        answered = model.eval()(IDS).logits
        torch.testing.assert_close(answered, plain(IDS).logits, rtol=0, atol=1e-5)
        assert torch.equal(model.train()(IDS).logits, answered)
    # After an answer in evaluation mode, where bitsandbytes would have repacked the weights for a kernel without one.
    torch.testing.assert_close(gradient(model.eval()), gradient(plain), rtol=1e-4, atol=1e-5)
    assert base_digest(model) == before == base_digest(load_model(TINY.model_copy(update=kind)))


def test_a_weight_takes_a_quarter_of_the_bytes_and_double_quantisation_fewer() -> None:
    def held(**kind) -> int:
        model = load_model(TINY.model_copy(update={"dtype": "bfloat16", **kind}))
        return sum(t.numel() * t.element_size() for key, t in model.state_dict().items() if "self_attn" in key)

    full, single, double = held(), *(held(quantization="nf4", double_quantization=on) for on in (False, True))
    assert 0.25 * full < single < 0.5 * full
    assert double != single


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux shows what a process maps")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_full_weights_do_not_stay_in_memory(kind) -> None:
    """Embeddings and norms are used as the file has them; while they lay in its mapping, all of it was resident."""

    def mapped(model: torch.nn.Module) -> bool:
        return str(model_folder(TINY) / "model.safetensors") in Path("/proc/self/maps").read_text()

    assert mapped(load_model(TINY))
    assert not mapped(load_model(TINY.model_copy(update=kind)))


def test_products_are_computed_in_the_format_that_is_set() -> None:
    model = load_model(NF4.model_copy(update={"compute_dtype": "bfloat16"}))
    with torch.no_grad():
        narrow, wide = model(IDS).logits, load_model(NF4)(IDS).logits
    assert 1e-4 < (narrow - wide).abs().max() < 0.3
    assert NF4.quantization_text == "nf4 with double quantisation, computed in float32"


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_initialisation_from_the_weight_reads_the_dequantised_one(init) -> None:
    model = load_model(NF4)
    with torch.no_grad():
        bare = model(IDS).logits
    adapted = attach(model, AdapterSettings(rank=4, alpha=4, dropout=0.0, init=init), seed=0)
    with torch.no_grad():
        torch.testing.assert_close(adapted.eval()(IDS).logits, bare, rtol=0, atol=1e-4)
    layer = dict(lora_layers(adapted))["base_model.model.model.layers.0.self_attn.q_proj"]
    weight = dequantize_module_weight(layer.get_base_layer()).float()
    product = layer.lora_B["default"].weight[:, :4] @ layer.lora_A["default"].weight[:4]
    if init == "pissa":
        u, s, v = torch.linalg.svd(weight)
        torch.testing.assert_close(product, u[:, :4] * s[:4] @ v[:4], rtol=1e-3, atol=1e-4)
    else:
        q, r = torch.linalg.qr(weight)
        torch.testing.assert_close(product, q[:, :4] @ r[:4], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "fp8"),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "fbgemm-fp8"),
        ({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}}, "mxfp4"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "mlx"),
        # Files that tools wrote before config.json named the method.
        ({"quantize_config.json": {"bits": 4, "group_size": 128, "desc_act": False}}, "gptq"),
        ({"quant_config.json": {"w_bit": 4, "q_group_size": 128}}, "awq"),
        ({"hf_quant_config.json": {"producer": {"name": "modelopt"}}}, "modelopt"),
    ],
)
def test_plan_refuses_weights_that_others_quantised_and_says_what_to_name(values, method, tmp_path) -> None:
    folder = Path(shutil.copytree(model_folder(TINY), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    for name in [name for name in values if name.endswith(".json")]:
        (folder / name).write_text(json.dumps(values[name]))
    own = {key: value for key, value in values.items() if not key.endswith(".json")}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    model = ModelConfig(name=str(folder), dtype="float32")
    with pytest.raises(BadInputError, match=f"is quantised by {method}, .*name the model that it was made from"):
        resolve_config(RunConfig(model=model), ("model",))
    with pytest.raises(BadInputError, match=f"quantised by {method}"):
        load_model(model)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A folder whose weights bitsandbytes quantised."""
    folder = tmp_path_factory.mktemp("stored")
    load_model(NF4).save_pretrained(folder)
    load_tokenizer(TINY).save_pretrained(folder)
    return folder


def test_a_folder_that_bitsandbytes_quantised_is_loaded_as_it_is(stored) -> None:
    config = resolve_config(RunConfig(model=ModelConfig(name=str(stored), dtype="float32")), ("model",)).model
    with torch.no_grad():
        assert torch.equal(load_model(config)(IDS).logits, load_model(NF4)(IDS).logits)
    assert base_digest(load_model(config)) == base_digest(load_model(NF4))
    # A plan counts the bits that it has, and no GPU is short of memory for the full weights.
    held = config.model_copy(update={"quantization": "nf4"})
    memory = [stage_memory(RunConfig(model=one, teachers=[FLOAT]), "cuda")["sft"].weights for one in (config, held)]
    assert memory[0] == memory[1] < stage_memory(RunConfig(model=TINY, teachers=[FLOAT]), "cuda")["sft"].weights
    assert fits_one(config, Gpus((100_000, 100_000)))
    with pytest.raises(BadInputError, match=r"sharding is fsdp2, and .* is a base in 8 or 4 bits"):
        resolve_config(RunConfig(model=config, sharding="fsdp2", processes=2), ("model",))
    with pytest.raises(BadInputError, match=r"rl\.rollouts is vllm, and .* in 8 or 4 bits, .*rollouts to transformers"):
        resolve_config(RunConfig(model=config, rl={"rollouts": "vllm"}), ("model",))
    with pytest.raises(BadInputError, match=r"evaluate\.backend is vllm, and .* is a base in 8 or 4 bits"):
        resolve_config(RunConfig(model=config, evaluate={"backend": "vllm"}), ("model",))
    again = config.model_copy(update={"quantization": "int8"})
    with pytest.raises(BadInputError, match=r"model\.quantization is int8, but .* bitsandbytes already"):
        resolve_config(RunConfig(model=again), ("model",))


def test_without_bitsandbytes_the_setting_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr("lorapar.basemodel.quantized.is_installed", lambda: False)
    with pytest.raises(BadInputError, match=r"model\.quantization nf4 needs bitsandbytes.*pip install"):
        load_model(NF4)


def test_the_command_imports_it_for_a_quantised_base_alone(tmp_path) -> None:
    """As in the command's process: PEFT looks for it, finds none, and finds it once a quantised base is loaded."""
    program = """
import sys
import lorapar.held_back
import peft
from peft.import_utils import is_bnb_available
from lorapar.basemodel import load_model
from lorapar.config import ModelConfig
assert not is_bnb_available()
load_model(ModelConfig(name="builtin:tiny", dtype="float32"))
assert sys.modules["bitsandbytes"] is None
model = load_model(ModelConfig(name="builtin:tiny", dtype="float32", quantization="nf4"))
assert is_bnb_available()
from peft import LoraConfig, get_peft_model
adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
print(type(adapted.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path.cwd())
    assert done.stdout.strip() == "Linear4bit", done.stderr


def test_importing_it_runs_no_kernel_of_the_hub(tmp_path) -> None:
    """bitsandbytes would fetch a compiled one through the package `kernels` where the processor computes bfloat16."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    raise SystemExit('a kernel was fetched')\n")
    program = (
        "from lorapar.basemodel.quantized import load_library; load_library(); import bitsandbytes, kernels; print(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
