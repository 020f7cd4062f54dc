"""A published folder: verified, described, equal whenever it is made again, and one version however often it comes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel

from lorapar.basemodel import load_model, load_tokenizer, model_folder
from lorapar.errors import BadInputError, IntegrityError
from lorapar.progress import Silent
from lorapar.records import write_json
from lorapar.registry import (
    Figure,
    Lineage,
    Proof,
    Publication,
    Published,
    Registry,
    chat_settings,
    make_package,
    model_card,
    publish,
    publish_adapter,
    refuse_other_base,
    verify,
)
from lorapar.registry.chat_settings import ChatSettings
from lorapar.store import file_sha256, open_store, read_manifest


@pytest.fixture
def publication(base, origins) -> Publication:
    figures = {"figures/reward.svg": Figure("Mean reward", "<svg/>")}
    return Publication("my-adapter", base, origins, {"seed": 0}, {"version": "0.1"}, figures)


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(open_store(tmp_path / "registry"))


def published(publication, registry, out) -> Published:
    return publish_adapter(publication, registry, out / "scratch", Proof(["1+2?"], Silent(), run="host:/runs/a"))


def test_the_folder_holds_what_its_lineage_says(publication, origins, base, tmp_path) -> None:
    made = tmp_path / "made"
    lineage = make_package(publication, made)
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "figures", "lineage.json"]
    assert sorted(path.name for path in made.iterdir()) == names
    assert Lineage.model_validate_json((made / "lineage.json").read_text()) == lineage
    assert lineage.files == {name: file_sha256(made / name) for name in names[1:3]}
    assert lineage.data == {
        "digest": read_manifest(origins.examples).digest,
        "source": "task-mix",
        "source_digest": "e" * 64,
        "splits": None,
    }
    assert set(lineage.teachers) == {"teacher1", "teacher2"}
    assert lineage.votes == tuple(read_manifest(folder).digest for folder in origins.votes)
    assert lineage.labels["rows"] == {"held_out": 1, "system1": 1, "system2": 2}
    assert lineage.partition["theta"] == 0.9
    assert "scatter" not in lineage.partition
    assert lineage.training["weights_sha256"] == lineage.files["adapter_model.safetensors"]
    assert lineage.serving == {"rank": 8, "max_lora_rank": 8}
    PeftModel.from_pretrained(load_model(base), str(made))


def test_times_do_not_enter_so_that_equal_runs_give_equal_bytes(publication, tmp_path) -> None:
    first = make_package(publication, tmp_path / "a")
    summary = publication.origins.adapter / "summary.json"
    before = json.loads(summary.read_text())
    try:
        write_json(summary, {**before, "seconds": 99.0})
        assert make_package(publication, tmp_path / "b") == first
    finally:
        write_json(summary, before)
    for path in (tmp_path / "a").iterdir():
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_how_the_model_is_asked_comes_from_training_and_the_tokenizer_is_not_loaded(
    publication, origins, base, tmp_path, monkeypatch
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(origins.adapter, adapter)
    known = ChatSettings({"<|im_end|>": 2}, "{{ messages }}", {"eos_token_id": [2]})
    write_json(adapter / "summary.json", {"steps": 3, **known.in_summary(base)})
    again = replace(publication, origins=replace(origins, adapter=adapter))
    with monkeypatch.context() as without:
        without.setattr(chat_settings, "load_tokenizer", None)
        lineage = make_package(again, tmp_path / "made")
    assert lineage.serving["stop_tokens"] == {"<|im_end|>": 2}
    assert json.loads((tmp_path / "made" / "generation_config.json").read_text()) == {"eos_token_id": [2]}
    assert (tmp_path / "made" / "chat_template.jinja").read_text() == "{{ messages }}"

    # Told of another model, or of another template, it is not taken.
    write_json(adapter / "summary.json", known.in_summary(base.model_copy(update={"digest": "e" * 64})))
    assert "stop_tokens" not in make_package(again, tmp_path / "made").serving
    write_json(adapter / "summary.json", known.in_summary(base.model_copy(update={"chat_template": "{{ other }}"})))
    assert "stop_tokens" not in make_package(again, tmp_path / "made").serving


def test_what_is_published_is_a_version_named_candidate(publication, registry, tmp_path) -> None:
    found = published(publication, registry, tmp_path)
    assert str(found.version) == "my-adapter@1"
    assert registry.resolve("my-adapter@candidate") == found.version
    claim = registry.claim(found.version)
    assert claim.run == "host:/runs/a"
    assert claim.verification == found.verification
    assert found.verification["max_logit_difference"] <= 1e-4
    registry.pull("my-adapter@1", tmp_path / "pulled")
    assert Lineage.model_validate_json((tmp_path / "pulled" / "lineage.json").read_text()) == found.lineage


def test_publishing_again_is_the_same_version_and_proves_nothing_twice(
    publication, registry, tmp_path, monkeypatch
) -> None:
    first = published(publication, registry, tmp_path)

    def asked(*_) -> None:
        raise AssertionError("it was verified again")

    monkeypatch.setattr(publish, "verify_package", asked)
    assert published(publication, registry, tmp_path) == first
    assert registry.versions("my-adapter") == [1]
    assert len(registry.read_alias("my-adapter", "candidate").moves) == 1


def test_nothing_becomes_visible_that_failed_the_proof(publication, registry, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(verify, "MAX_LOGIT_DIFFERENCE", -1.0)
    with pytest.raises(IntegrityError, match="so it is not published"):
        published(publication, registry, tmp_path)
    assert registry.names() == []
    assert not list(registry.store.list())


def test_an_incumbent_for_another_base_is_refused_whatever_the_bases_are_called(
    publication, registry, base, origins, tmp_path
) -> None:
    version = published(publication, registry, tmp_path).version

    def refuse(name: str, digest: str | None, adapter: Path = origins.adapter) -> None:
        refuse_other_base(registry, version, base.model_copy(update={"name": name, "digest": digest}), adapter)

    refuse("builtin:tiny", base.digest)
    refuse("/models/copy-of-tiny", base.digest)
    refuse("/models/copy-of-tiny", "0" * 64)  # a folder's files, with the weights of the built-in model
    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "summary.json", {"base_weights_sha256": "0" * 64})
    for name, adapter in (("builtin:tiny", origins.adapter), ("/models/another", other)):
        with pytest.raises(BadInputError, match=r"my-adapter@1.*base model builtin:tiny.*another `name`"):
            refuse(name, "0" * 64, adapter)


def test_the_card_is_one_the_hub_reads(publication, tmp_path) -> None:
    lineage = make_package(publication, tmp_path / "made")
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    data = yaml.safe_load(card.split("---")[1])
    assert data["library_name"] == "peft"
    assert "lora" in data["tags"]
    # The built-in model is no model of the hub; a front matter that names it would be refused there.
    assert "base_model" not in data
    assert "--max-lora-rank 8" in card
    assert "| mean reward, last fifth of the steps | 0.75 |" in card
    assert "![Mean reward](figures/reward.svg)" in card
    assert "(float32) and compared with the trained" in card
    on_hub = lineage.model_copy(update={"base": {**lineage.base, "name": "owner/model", "revision": "b" * 40}})
    read = ModelCard(model_card(on_hub))
    assert read.data.base_model == "owner/model"
    assert f'from_pretrained("owner/model", revision="{"b" * 40}")' in read.text
    from_wheel = lineage.model_copy(update={"base": {**lineage.base, "revision": "wheel:x==1"}})
    assert "rounded to 4 bits" in model_card(from_wheel)
    assert "revision=" not in model_card(from_wheel)


def test_publishing_again_names_a_damaged_claim_and_puts_a_damaged_manifest_back(
    publication, registry, tmp_path
) -> None:
    first = published(publication, registry, tmp_path)
    registry.store.write("adapters/my-adapter/1/manifest.json", b"{")
    assert published(publication, registry, tmp_path) == first
    registry.require_whole(first.version)
    registry.store.write("adapters/my-adapter/1/claim.json", b"x")
    with pytest.raises(IntegrityError, match=r"1/claim\.json: not a claim .*delete it and publish the same content"):
        published(publication, registry, tmp_path)
    registry.store.delete("adapters/my-adapter/1/claim.json")
    assert published(publication, registry, tmp_path).version == first.version
    assert registry.claim(first.version).run == "host:/runs/a"


def test_stop_strings_of_several_tokens_stand_in_lineage_and_card(publication, base, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(base, Silent()), folder)
    settings = {"eos_token_id": 2, "stop_strings": ["\nQuestion:", "END"]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    moved = replace(publication, model=base.model_copy(update={"name": str(folder)}))
    lineage = make_package(moved, tmp_path / "made")
    assert lineage.serving["stop_strings"] == settings["stop_strings"]
    card = (tmp_path / "made" / "README.md").read_text()
    assert '"stop": ["\\nQuestion:", "END"]' in card
    assert "They end before the text" in card
    without = {key: value for key, value in lineage.serving.items() if key != "stop_strings"}
    assert "They end before" not in model_card(lineage.model_copy(update={"serving": without}))


def test_what_servers_cannot_know_of_the_base_is_beside_the_adapter(publication, base, tmp_path) -> None:
    """A template that ends turns otherwise than the tokenizer says, and takes no system message."""
    template = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.content + '<|endoftext|>' }}{% endif %}{% endfor %}"
    )
    moved = replace(publication, model=base.model_copy(update={"chat_template": template}))
    lineage = make_package(moved, tmp_path / "made")
    assert lineage.serving["stop_tokens"] == {"<|endoftext|>": 0, "<|im_end|>": 2}
    assert json.loads((tmp_path / "made" / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    shipped = (tmp_path / "made" / lineage.serving["chat_template"]).read_text()
    chat = [{"role": "system", "content": "Show steps."}, {"role": "user", "content": "3+4?"}]
    asked = load_tokenizer(base).apply_chat_template(chat, chat_template=shipped, tokenize=False)
    assert asked == "Show steps.\n\n3+4?<|endoftext|>"
    card = (tmp_path / "made" / "README.md").read_text()
    assert '"stop_token_ids": [0, 2]' in card
    assert "--chat-template" in card
    PeftModel.from_pretrained(load_model(base), str(tmp_path / "made"))
