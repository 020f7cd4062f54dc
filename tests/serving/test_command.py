"""The server's command, worked out from the registry; and the manifest for KServe."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.errors import BadInputError
from lorapar.records import write_json
from lorapar.registry import Registry
from lorapar.registry.versions import Version
from lorapar.serving import kserve_manifest, server_command
from lorapar.serving.base_identity import ServedBase
from lorapar.serving.settings import settings_from
from lorapar.store import open_store

from .conftest import BASE, adapter_files


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    """Each option with what follows it."""
    return {
        word: arguments[place + 1] if place + 1 < len(arguments) else ""
        for place, word in enumerate(arguments)
        if word.startswith("--")
    }


def test_command_names_base_rank_slots_and_middleware(registry: Registry) -> None:
    command = server_command(registry, ["task"])
    message = options(command.arguments)
    assert command.arguments[:3] == ("python", "-m", "vllm.entrypoints.openai.api_server")
    assert message["--model"] == BASE
    assert message["--max-lora-rank"] == "8"
    assert message["--max-loras"] == "2"  # what production names, and the version that takes its place
    assert message["--middleware"] == "lorapar.serving.middleware.AdapterMiddleware"
    assert command.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert settings_from(command.environment).adapters == "task"


def test_the_address_of_a_folder_holds_wherever_the_command_is_run(registry: Registry, monkeypatch) -> None:
    folder = Path(registry.address)
    monkeypatch.chdir(folder.parent)
    command = server_command(Registry(open_store(folder.name)), ["task"])
    assert command.environment["LORAPAR_REGISTRY"] == str(folder)


def test_rank_is_that_of_the_highest_alias_or_candidate(registry: Registry, tmp_path: Path) -> None:
    registry.publish("task", adapter_files(tmp_path / "made3", "weights 3", rank=24))
    assert options(server_command(registry, ["task"]).arguments)["--max-lora-rank"] == "8"
    registry.set_alias("task", "candidate", 3)
    assert options(server_command(registry, ["task"]).arguments)["--max-lora-rank"] == "32"


def test_local_copy_of_the_base_keeps_its_public_name(registry: Registry, tmp_path: Path) -> None:
    command = server_command(registry, ["task"], model=tmp_path / "copy")
    message = options(command.arguments)
    assert (message["--model"], message["--served-model-name"]) == (str(tmp_path / "copy"), BASE)
    assert settings_from(command.environment).base_model == BASE


def test_a_family_whose_adapters_vllm_answers_otherwise_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    write_json(tmp_path / "copy" / "config.json", {"model_type": "gpt_bigcode"})
    with pytest.raises(BadInputError, match=r"adapters of gpt_bigcode than PEFT.*--merged"):
        server_command(registry, ["task"], model=tmp_path / "copy")
    with pytest.raises(BadInputError, match="adapters of gpt_bigcode"):
        ServedBase(model=str(tmp_path / "copy")).refuse_other("task@1", tmp_path / "version")


def test_such_a_family_is_refused_by_its_hub_name_too(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    server_command(registry, ["task"])  # nothing is known of it yet
    place = tmp_path / "hub" / f"models--{BASE.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    (place / "snapshots" / ("a" * 40)).mkdir(parents=True)
    write_json(place / "snapshots" / ("a" * 40) / "config.json", {"model_type": "gpt_bigcode"})
    with pytest.raises(BadInputError, match="adapters of gpt_bigcode than PEFT"):
        ServedBase(model=BASE).refuse_other("task@1", tmp_path / "version")


def test_what_the_caller_adds_comes_last(registry: Registry) -> None:
    assert server_command(registry, ["task"], extra=["--max-loras", "9"]).arguments[-2:] == ("--max-loras", "9")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["task@2"], "is a version"),
        (["unknown"], "unknown"),
        (["task@missing"], "missing"),
        (["task", "third"], "different base models"),
        (["huge"], "rank 1024 is higher than vLLM serves"),
    ],
)
def test_what_cannot_be_served_is_reported(registry: Registry, tmp_path: Path, names: list[str], message: str) -> None:
    registry.publish("third", adapter_files(tmp_path / "third", "x", base="owner/other"))
    registry.set_alias("third", "production", 1)
    registry.publish("huge", adapter_files(tmp_path / "huge", "y", rank=1024))
    registry.set_alias("huge", "production", 1)
    with pytest.raises(BadInputError, match=message):
        server_command(registry, names)


def test_cli_prints_what_a_shell_runs(registry: Registry) -> None:
    shown = CliRunner().invoke(app, ["serve", "task", "--registry", registry.address, "--vllm", "--port 8001"])
    words = shlex.split(shown.output.replace("\\\n", ""))
    command = server_command(registry, ["task"], extra=["--port", "8001"])
    assert words == [f"{name}={value}" for name, value in command.environment.items()] + list(command.arguments)


def test_cli_says_where_vllm_is_missing(registry: Registry) -> None:
    shown = CliRunner().invoke(app, ["serve", "task", "--registry", registry.address, "--run"])
    assert isinstance(shown.exception, BadInputError)
    assert "lacks vLLM" in str(shown.exception)


class InS3(Registry):
    """The same registry, as if it lay in a bucket."""

    @property
    def address(self) -> str:
        return "s3://bucket/registry"


def test_kserve_manifest_names_base_and_adapter_by_address(registry: Registry) -> None:
    version = registry.resolve("task@2")
    manifest = kserve_manifest(InS3(registry.store), version)
    assert manifest["kind"] == "LLMInferenceService"
    assert manifest["metadata"]["name"] == "task-v2"
    assert manifest["metadata"]["annotations"]["lorapar.io/digest"] == version.digest
    model = manifest["spec"]["model"]
    assert (model["name"], model["uri"]) == (BASE, f"hf://{BASE}")
    assert model["lora"]["adapters"] == [{"name": "task@2", "uri": "s3://bucket/registry/adapters/task/2"}]


def test_kserve_is_given_a_rank_above_what_it_serves_by_itself(registry: Registry, tmp_path: Path) -> None:
    registry.publish("task", adapter_files(tmp_path / "made3", "weights 3", rank=20))
    asked = [kserve_manifest(InS3(registry.store), registry.resolve(f"task@{number}")) for number in (2, 3)]
    assert [manifest["spec"]["model"]["lora"].get("maxRank") for manifest in asked] == [None, 32]


def test_kserve_names_are_names_of_kubernetes_objects(registry: Registry, tmp_path: Path) -> None:
    registry.publish("My_Adapter.v2", adapter_files(tmp_path / "mine", "z"))
    version = registry.resolve("My_Adapter.v2@1")
    assert kserve_manifest(InS3(registry.store), version)["metadata"]["name"] == "my-adapter-v2-v1"


def test_kserve_needs_a_registry_in_s3(registry: Registry) -> None:
    with pytest.raises(BadInputError, match="KServe fetches adapters from S3"):
        kserve_manifest(registry, Version(name="task", number=1, digest="d"))


def test_export_prints_yaml(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "address", "s3://bucket/registry")
    shown = CliRunner().invoke(app, ["export", "--kserve", "task", "--registry", registry.store.address])
    assert yaml.safe_load(shown.output) == kserve_manifest(registry, registry.resolve("task@1"))


def test_export_asks_for_whom(registry: Registry) -> None:
    shown = CliRunner().invoke(app, ["export", "task", "--registry", registry.address])
    assert "--kserve" in str(shown.exception)


def published_with(registry: Registry, folder: Path, template: str = "", **serving: object) -> None:
    """A further version of task in production, whose lineage says this about serving."""
    made = adapter_files(folder, f"weights of {folder.name}")
    if template:
        (made / "chat_template.jinja").write_text(template, encoding="utf-8")
        serving["chat_template"] = "chat_template.jinja"
    write_json(made / "lineage.json", {"base": {"name": BASE}, "serving": {"rank": 8, **serving}})
    registry.set_alias("task", "production", registry.publish("task", made).number)


def test_server_gets_the_template_and_a_person_hears_what_ends_an_answer(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path / "cache"))
    assert "--chat-template" not in server_command(registry, ["task"]).arguments
    published_with(registry, tmp_path / "made3", "{{ messages }}", stop_tokens={"<|im_end|>": 7})
    command = server_command(registry, ["task"])
    assert Path(options(command.arguments)["--chat-template"]).read_text() == "{{ messages }}"
    assert any("answers of task end with <|im_end|> (7)" in note for note in command.notes)


def test_adapters_of_unlike_templates_need_a_server_each(registry: Registry, tmp_path: Path) -> None:
    published_with(registry, tmp_path / "made3", "{{ messages }}")
    notes = server_command(registry, ["task"]).notes
    assert notes == ("task@2 was trained with another chat template than task@3: give it a server of its own",)
    with pytest.raises(BadInputError, match=r"task@3 and task@2 were trained with unlike chat templates"):
        server_command(registry, ["task", "task@candidate"])


def test_kserve_manifest_says_what_requests_have_to_name(registry: Registry, tmp_path: Path) -> None:
    published_with(registry, tmp_path / "made3", stop_tokens={"<|im_end|>": 7, "</s>": 2}, stop_strings=["Q:"])
    assert any("end before 'Q:' too" in note for note in server_command(registry, ["task"]).notes)
    manifest = kserve_manifest(InS3(registry.store), registry.resolve("task@3"))
    assert manifest["metadata"]["annotations"]["lorapar.io/stop-token-ids"] == "[2, 7]"
    assert manifest["metadata"]["annotations"]["lorapar.io/stop"] == '["Q:"]'
