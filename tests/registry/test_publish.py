"""A published folder: verified, described, and equal whenever it is made again."""

from __future__ import annotations

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel

from lorapar.basemodel import load_model
from lorapar.errors import IntegrityError
from lorapar.progress import Silent
from lorapar.records import write_json
from lorapar.registry import Lineage, Publication, model_card, publish_local, verify
from lorapar.store import file_sha256, read_manifest


@pytest.fixture
def publication(base, origins) -> Publication:
    return Publication("my-adapter", base, origins, {"seed": 0}, {"version": "0.1"})


def publish(publication, out) -> Lineage:
    return publish_local(publication, out / "made", out / "scratch", ["1+2?"], Silent())


def test_the_folder_holds_what_its_lineage_says(publication, origins, base, tmp_path) -> None:
    lineage = publish(publication, tmp_path)
    made = tmp_path / "made"
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "lineage.json"]
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
    first = publish(publication, tmp_path / "a")
    summary = publication.origins.adapter / "summary.json"
    before = json.loads(summary.read_text())
    try:
        write_json(summary, {**before, "seconds": 99.0})
        assert publish(publication, tmp_path / "b") == first
    finally:
        write_json(summary, before)
    for path in (tmp_path / "a" / "made").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "made" / path.name).read_bytes()


def test_nothing_becomes_visible_that_failed_the_proof(publication, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(verify, "MAX_LOGIT_DIFFERENCE", -1.0)
    with pytest.raises(IntegrityError, match="so it is not published"):
        publish(publication, tmp_path)
    assert not (tmp_path / "made").exists()


def test_the_card_is_one_the_hub_reads(publication, tmp_path) -> None:
    lineage = publish(publication, tmp_path)
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    data = yaml.safe_load(card.split("---")[1])
    assert data["library_name"] == "peft"
    assert "lora" in data["tags"]
    # The built-in model is no model of the hub; a front matter that names it would be refused there.
    assert "base_model" not in data
    assert "--max-lora-rank 8" in card
    assert "| mean reward, last fifth of the steps | 0.75 |" in card
    on_hub = lineage.model_copy(update={"base": {**lineage.base, "name": "owner/model", "revision": "b" * 40}})
    read = ModelCard(model_card(on_hub))
    assert read.data.base_model == "owner/model"
    assert f'from_pretrained("owner/model", revision="{"b" * 40}")' in read.text
    from_wheel = lineage.model_copy(update={"base": {**lineage.base, "revision": "wheel:x==1"}})
    assert "rounded to 4 bits" in model_card(from_wheel)
    assert "revision=" not in model_card(from_wheel)
