"""What the resolver does not answer; that it answers the rest, and vLLM takes it, is in tests/integration/serving."""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from typing import Any

import pytest

from lorapar.registry import Registry
from lorapar.serving import ServingSettings
from lorapar.serving.cpu_lora import _without_base_tokens
from lorapar.serving.vllm_plugin import RegistryResolver, register

from .conftest import BASE


def resolve(settings: ServingSettings, name: str, base: str = BASE) -> Any:
    return asyncio.run(RegistryResolver(settings).resolve_lora(base, name))


def test_vllm_finds_the_plugin() -> None:
    (found,) = [point for point in entry_points(group="vllm.general_plugins") if point.name == "lorapar"]
    assert found.load() is register


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("LORAPAR_SERVING_CAPTURE", "{name: support, shar: 1}", "LORAPAR_SERVING_CAPTURE: shar: no such key"),
        (
            "LORAPAR_SERVING_CAPTURE",
            '{name: support, rules: {a: "("}}',
            "serving.capture.rules.a: '(' is not a regular",
        ),
        ("LORAPAR_SERVING_CANARY_REWARD", "no_such_module:reward", "no_such_module"),
        ("LORAPAR_SERVING_POLL_SECONDS", "soon", "LORAPAR_SERVING_POLL_SECONDS"),
        ("LORAPAR_SERVING_ADAPTERS", "task@1", "LORAPAR_SERVING_ADAPTERS: task@1 is a version"),
    ],
)
def test_wrong_settings_end_the_server_with_a_line_before_it_serves(
    name: str,
    value: str,
    complaint: str,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LORAPAR_REGISTRY", registry.address)
    monkeypatch.setenv("LORAPAR_SERVING_ADAPTERS", "task")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    monkeypatch.setattr("lorapar.serving.vllm_plugin.installed_vllm", lambda: "0.32.0")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        register()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lorapar: ")
    assert complaint in line


@pytest.mark.parametrize(
    "name",
    ["task", "task@production", "task@candidate", "task@0", "task@01", "task@../1", "../task@1", "/etc@1", "", "@1"],
)
def test_only_versions_are_answered(name: str, settings: ServingSettings) -> None:
    assert resolve(settings, name) is None


def test_versions_of_other_adapters_are_not_answered(settings: ServingSettings, registry: Registry) -> None:
    assert resolve(settings.model_copy(update={"adapters": "other"}), "task@1") is None


@pytest.mark.parametrize("name", ["task@9", "task@2"])
def test_missing_and_damaged_versions_are_not_answered(
    name: str, settings: ServingSettings, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.store.write("adapters/task/2/adapter_model.safetensors", b"weights X")
    assert resolve(settings, name) is None
    assert f"{name} is not loaded" in caplog.text


def test_tokens_without_an_adapter_get_nothing() -> None:
    import torch

    def shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
        """As vLLM's: an index of -1 takes the last slot."""
        output[:] = scaling * torch.einsum("td,trd->tr", inputs, weights[indices].squeeze(1))

    x, slots, y = torch.rand(4, 3), torch.rand(2, 1, 5, 3), torch.ones(4, 5)
    _without_base_tokens(shrink)(x, slots, y, torch.tensor([0, -1, 1, -1]), 2.0)
    assert torch.equal(y[[1, 3]], torch.zeros(2, 5))
    assert torch.allclose(y[0], 2.0 * slots[0, 0] @ x[0])
    assert torch.allclose(y[2], 2.0 * slots[1, 0] @ x[2])
