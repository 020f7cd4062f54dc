"""vLLM of which loading an adapter could change who answers a running request is refused by number."""

from __future__ import annotations

import pytest

from lorapar.errors import BadInputError
from lorapar.serving import vllm_plugin
from lorapar.serving.vllm_version import refuse_unsafe


@pytest.mark.parametrize("version", ["0.9.2", "0.25.0", "0.25.1", "0.25.1+cpu", "0.26.0rc1"])
def test_versions_without_the_fix_are_refused(version: str) -> None:
    with pytest.raises(BadInputError, match=rf"vLLM {version.replace('+', '.')} is here: before 0\.26\.0"):
        refuse_unsafe(version)


@pytest.mark.parametrize("version", ["0.26.0", "0.26.0+cpu", "0.32.0", "1.0", "0.1.dev1+g0123456", "main", None])
def test_others_are_not(version: str | None) -> None:
    try:
        refuse_unsafe(version)
    except BadInputError as error:
        pytest.fail(f"{version} has the fix, or no number to tell it by: {error}")


@pytest.mark.parametrize(("loading", "ends"), [("1", True), ("true", True), ("0", False), (None, False)])
def test_server_that_loads_at_run_time_ends_with_one_line(
    loading: str | None, ends: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine of our own votes, which has the same environment, loads nothing while it answers: it goes on."""
    monkeypatch.setenv("LORAPAR_REGISTRY", "s3://bucket/registry")
    monkeypatch.delenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", raising=False)
    if loading is not None:
        monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", loading)
    monkeypatch.setattr(vllm_plugin, "patch_cpu_lora", lambda: True)
    monkeypatch.setattr(vllm_plugin, "installed_vllm", lambda: "0.25.1")
    # Without vLLM here the plugin's next line, which registers the resolver, cannot be imported.
    with pytest.raises(SystemExit if ends else ModuleNotFoundError) as stopped:
        vllm_plugin.register()
    if ends:
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith("lorapar: vLLM 0.25.1 is here")
