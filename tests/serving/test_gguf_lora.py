"""`lorapar export --gguf`: llama.cpp answers with the file as plain PEFT answers with the adapter, or it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import pytest
import typer.testing
from safetensors.torch import load_file

from lorapar.basemodel import load_tokenizer, model_folder
from lorapar.cli import app
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, ExitCode, IntegrityError
from lorapar.progress import Silent
from lorapar.serving.gguf_lora import FAMILIES, Family, write_gguf
from lorapar.serving.here import LocalAdapter, read_adapter
from lorapar.serving.llama_cpp import compare, require_llama_cpp
from tests.serving.gguf_base import save_lora, tiny_model, write_base


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ModelConfig(name="builtin:tiny"), Silent())


@pytest.fixture(scope="module")
def family(tokenizer, tmp_path_factory):
    """A model of a family in a folder, made once, and as a GGUF file."""
    made: dict[str, tuple] = {}

    def make(name: str):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            model = tiny_model(name, tokenizer)
            model.save_pretrained(root / "base")
            tokenizer.save_pretrained(root / "base")
            file = write_base(model, tokenizer, root / "base.gguf") if name in FAMILIES else None
            made[name] = (model, root / "base", file)
        return made[name]

    return make


def adapter_of(model, base: Path, folder: Path, **lora) -> LocalAdapter:
    save_lora(model, folder, **lora)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return read_adapter(folder.name, folder, base)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_llama_cpp_answers_with_the_file_as_peft_does(family, tmp_path, name: str) -> None:
    model, base, file = family(name)
    adapter = adapter_of(model, base, tmp_path / "adapter")
    modules = write_gguf(adapter, tmp_path / "adapter.gguf")
    assert modules == sum("lora_A" in key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    found = compare(adapter, tmp_path / "adapter.gguf", file, Silent())
    assert found.effect_kl > 0.05  # the adapter does something, so that a file that does nothing would show
    assert found.largest_difference < 1e-4
    assert found.mean_kl < 1e-5


@pytest.mark.parametrize(
    "lora",
    [{"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3, "down_proj": 40}}],
)
def test_scales_by_rslora_and_by_patterns_are_those_of_peft(family, tmp_path, lora: dict) -> None:
    model, base, file = family("qwen2")
    adapter = adapter_of(model, base, tmp_path / "adapter", **lora)
    write_gguf(adapter, tmp_path / "adapter.gguf")
    found = compare(adapter, tmp_path / "adapter.gguf", file, Silent())
    assert found.effect_kl > 0.01
    assert found.largest_difference < 1e-4


def test_a_file_that_llama_cpp_answers_otherwise_with_is_found_out(family, tmp_path, monkeypatch) -> None:
    model, base, file = family("llama")
    adapter = adapter_of(model, base, tmp_path / "adapter", targets=["q_proj", "k_proj"])
    with monkeypatch.context() as patched:
        patched.setitem(FAMILIES, "llama", Family("llama"))  # rows of q and k left as transformers has them
        write_gguf(adapter, tmp_path / "wrong.gguf")
    with pytest.raises(IntegrityError, match="does not answer with the adapter as PEFT does"):
        compare(adapter, tmp_path / "wrong.gguf", file, Silent())


def test_what_was_not_compared_is_refused_and_says_what_was(family, tokenizer, tmp_path) -> None:
    model, base, _ = family("gpt_neox")
    adapter = adapter_of(model, base, tmp_path / "adapter")
    with pytest.raises(
        BadInputError, match=r"base model is a gpt_neox, and only adapters of granite, llama, .* smollm3"
    ):
        write_gguf(adapter, tmp_path / "adapter.gguf")
    model, base, _ = family("llama")
    config = json.loads((base / "config.json").read_text())
    shutil.copytree(base, tmp_path / "custom")
    (tmp_path / "custom" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.Y"}}))
    adapter = adapter_of(model, tmp_path / "custom", tmp_path / "other")
    with pytest.raises(BadInputError, match="llama with code of its own"):
        write_gguf(adapter, tmp_path / "adapter.gguf")


def test_modules_that_llama_cpp_has_not_are_refused(family, tmp_path) -> None:
    model, base, _ = family("llama")
    shutil.copytree(base, tmp_path / "tied")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "tied" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    adapter = adapter_of(model, tmp_path / "tied", tmp_path / "adapter", targets=["lm_head"])
    with pytest.raises(BadInputError, match="LoRA on 'lm_head', which is no module of its own"):
        write_gguf(adapter, tmp_path / "adapter.gguf")
    adapter = adapter_of(model, base, tmp_path / "embedding", targets=["embed_tokens"])
    with pytest.raises(BadInputError, match="no part of a plain LoRA"):
        write_gguf(adapter, tmp_path / "adapter.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_the_command_compares_and_keeps_nothing_that_differs(tiny_run, family, tokenizer, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    tiny = AutoModelForCausalLM.from_pretrained(model_folder(ModelConfig(name="builtin:tiny"), Silent()))
    base = write_base(tiny.float(), tokenizer, tmp_path / "base.gguf")
    message = call("export", tiny_run / "adapter", "--gguf", tmp_path / "out" / "adapter.gguf", "--base", base)
    assert "mean KL" in message
    fields = gguf.GGUFReader(tmp_path / "out" / "adapter.gguf").fields
    assert fields["general.type"].contents() == "adapter"
    assert fields["adapter.type"].contents() == "lora"
    with pytest.raises(BadInputError, match="is there already"):
        call("export", tiny_run / "adapter", "--gguf", tmp_path / "out" / "adapter.gguf")
    for other, why in ((family("qwen2")[2], "architecture qwen2"), (family("llama")[2], "does not load it")):
        with pytest.raises(BadInputError, match=why):
            call("export", tiny_run / "adapter", "--gguf", tmp_path / "again.gguf", "--base", other)
    assert not (tmp_path / "again.gguf").exists()
    with pytest.raises(BadInputError, match="is no GGUF file"):
        require_llama_cpp(tiny_run / "adapter" / "adapter_config.json")


def call(*arguments: str | Path) -> str:
    """What the command prints; its errors are raised."""
    result = typer.testing.CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output
