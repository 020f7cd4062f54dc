"""An adapter and its base on this machine: they answer as in evaluation, and merged they are one plain model."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorapar.basemodel import model_folder
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import Silent
from lorapar.records import Answer, Example, Turn, read_records
from lorapar.serving.here import merge, open_pair, question, read_adapter


@pytest.fixture
def loud(tiny_run, tmp_path) -> Path:
    """The tiny run's adapter with B made large, so that it answers unlike its base."""
    folder = Path(shutil.copytree(tiny_run / "adapter", tmp_path / "loud"))
    tensors = load_file(folder / "adapter_model.safetensors")
    noise = torch.Generator().manual_seed(1)
    moved = {
        name: one + torch.randn(one.shape, generator=noise) * 0.3 if "lora_B" in name else one
        for name, one in tensors.items()
    }
    save_file(moved, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_base_and_adapter_answer_as_they_did_in_evaluation(tiny_run) -> None:
    adapter = read_adapter("tiny", tiny_run / "adapter")
    (examples,) = (tiny_run / "stages" / "prepare" / "examples").glob("*.jsonl")
    rows = {one.id: one for one in read_records(examples, Example)}
    known = list(read_records(tiny_run / "stages" / "evaluate" / "evaluation" / "answers.jsonl", Answer))
    with open_pair(adapter, Silent()) as pair:
        for base, name in ((True, "base"), (False, "after_rl")):
            answers = [one for one in known if one.model == name]
            chosen = [one for one in answers if one.system == "system1"][:2]
            chosen += [one for one in answers if one.system == "system2"][:2]
            asked = [question(rows[one.example_id].question) for one in chosen]
            given = pair.ask(asked, [one.system for one in chosen], 8, base=base)  # evaluate.max_new_tokens of tiny
            assert [(one.text, one.tokens) for one in given] == [(one.text, one.tokens) for one in chosen]
            assert [one.cut_off or None for one in given] == [one.cut_off for one in chosen]


def test_the_adapter_is_on_for_its_own_answers_only(loud) -> None:
    with open_pair(read_adapter("loud", loud), Silent()) as pair:
        ours, theirs, again = (pair.ask([question("Why?")], [None], 8, base=base) for base in (False, True, False))
    assert ours == again != theirs


def test_what_was_said_before_is_part_of_the_question(loud) -> None:
    turns = [Turn(role="user", content="Why?"), Turn(role="assistant", content="Because.")]
    with open_pair(read_adapter("loud", loud), Silent()) as pair:
        alone, later = (pair.ask([question("And?", history=message)], [None], 8, base=True) for message in ((), turns))
    assert alone != later


def test_a_merged_model_is_plain_and_answers_as_base_with_adapter(loud, tmp_path) -> None:
    adapter = read_adapter("loud", loud)
    base = model_folder(adapter.model)
    before = digests(base)
    assert merge(adapter, tmp_path / "merged", Silent()) <= 1e-4
    assert digests(base) == before, "the base model is only read"
    assert not list(tmp_path.glob(".*")), "nothing half-made is left"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**prompt, do_sample=False, max_new_tokens=8)[0, prompt["input_ids"].shape[1] :]
    with open_pair(adapter, Silent()) as pair:
        (message,) = pair.ask([question("Why?")], [None], 8, base=False)
    assert pair.text(written.tolist()) == message.text
    ends = json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends


def test_a_merged_model_that_differs_is_not_kept(loud, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lorapar.registry.verify.MAX_LOGIT_DIFFERENCE", -1.0)
    with pytest.raises(IntegrityError, match="does not answer as base and adapter do"):
        merge(read_adapter("loud", loud), tmp_path / "merged", Silent())
    assert not (tmp_path / "merged").exists()


def test_an_adapter_made_elsewhere_is_asked_without_a_system_message(loud) -> None:
    (loud / "lineage.json").unlink()
    config = json.loads((loud / "adapter_config.json").read_text())
    folder = str(model_folder(ModelConfig(name="builtin:tiny")))
    (loud / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": folder}))
    found = read_adapter("mine", loud)
    assert (found.model.name, found.prompts.message_for("system2")) == (folder, None)


def test_an_adapter_made_elsewhere_is_asked_by_the_chat_template_beside_it(loud) -> None:
    (loud / "lineage.json").unlink()
    assert read_adapter("loud", loud).model.chat_template is None
    (loud / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}!"}))
    assert read_adapter("loud", loud).model.chat_template == "{{ messages[0].content }}!"


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", "lineage.json"])
@pytest.mark.parametrize("text", ["{here}", "", "no template"])
def test_an_adapter_from_elsewhere_cannot_name_a_file_of_this_machine_as_its_template(
    loud, tmp_path, where, text
) -> None:
    """Settings take a text without braces for a path, and read it: a published `export --merged` would hold it."""
    (tmp_path / "secret").write_text('{"auths": "mine"}')
    text = text.replace("{here}", str(tmp_path / "secret"))
    if where == "lineage.json":
        lineage = json.loads((loud / where).read_text())
        lineage["settings"]["model"]["chat_template"] = text
        (loud / where).write_text(json.dumps(lineage))
    else:
        (loud / "lineage.json").unlink()
        (loud / where).write_text(text if where.endswith("jinja") else json.dumps({"chat_template": text}))
    assert read_adapter("loud", loud).model.chat_template is None


def test_a_lineage_cannot_let_code_of_a_model_run(loud) -> None:
    lineage = json.loads((loud / "lineage.json").read_text())
    lineage["settings"]["model"]["trust_remote_code"] = True
    (loud / "lineage.json").write_text(json.dumps(lineage))
    assert read_adapter("loud", loud).model.trust_remote_code is False


def test_another_base_and_a_folder_that_is_none_are_refused(loud, tmp_path, make_family) -> None:
    make_family("gpt2").save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(model_folder(ModelConfig(name="builtin:tiny"))).save_pretrained(tmp_path / "other")
    with pytest.raises(IntegrityError, match="was trained on the base model"):
        read_adapter("loud", loud, tmp_path / "other")
    with pytest.raises(BadInputError, match="not an adapter folder"):
        read_adapter("other", tmp_path / "other")
    lineage = json.loads((loud / "lineage.json").read_text())
    lineage["settings"]["prompts"] = {"system3": "from a later version"}
    (loud / "lineage.json").write_text(json.dumps(lineage))
    with pytest.raises(BadInputError, match="written by another version of lorapar"):
        read_adapter("loud", loud)


@pytest.mark.parametrize("name", ["models/base", "./models/base", "base"])
def test_a_base_that_was_a_folder_and_is_gone_is_asked_for_and_not_looked_for_on_the_hub(
    loud, tmp_path, monkeypatch, name
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lorapar.basemodel.hub.snapshot", lambda *_: pytest.fail("the hub is asked"))
    lineage = json.loads((loud / "lineage.json").read_text())
    lineage["base"] |= {"name": name, "revision": None, "digest": "a" * 64}
    (loud / "lineage.json").write_text(json.dumps(lineage))
    with pytest.raises(BadInputError, match=rf"its base model '{name}' was a folder, .*: --model FOLDER"):
        read_adapter("loud", loud)
    with pytest.raises(IntegrityError, match=r"; name a folder with the base it was trained on as --model$"):
        read_adapter("loud", loud, model_folder(ModelConfig(name="builtin:tiny")))


def test_virtual_tokens_cannot_be_merged_and_the_line_says_so(tiny_run, tmp_path) -> None:
    folder = Path(shutil.copytree(tiny_run / "adapter", tmp_path / "prompt"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "PROMPT_TUNING"}))
    with pytest.raises(BadInputError, match="is of the kind prompt, which changes no weight of the base"):
        merge(read_adapter("prompt", folder), tmp_path / "merged", Silent())
    assert not (tmp_path / "merged").exists()
