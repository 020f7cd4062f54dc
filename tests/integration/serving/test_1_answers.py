"""What the server says is what plain PEFT says, whoever else it is talking to; and it says which version did."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lorapar.capture.records import CapturedRequest

from .adapters import BASE, plain_answer
from .conftest import Site
from .vllm_server import PYTHON, Reply

PROMPTS = ("What is 2 plus 3?", "Which class is a wurbel?", "Say it again, please: ", "x")
TOKENS = 16


def assert_equals_peft(site: Site, models: dict[str, str | None]) -> None:
    """All models at once, every prompt: tokens equal, log-probabilities within float32's rounding.

    Args:
        models: the version that must answer for each model name; None for the base.
    """
    asked = [(model, version, prompt) for prompt in PROMPTS for model, version in models.items()]

    def ask(question: tuple[str, str | None, str]) -> Reply:
        return site.vllm.complete(question[0], question[2], max_tokens=TOKENS)

    with ThreadPoolExecutor(len(asked)) as pool:
        replies = list(pool.map(ask, asked))
    for (model, version, prompt), reply in zip(asked, replies, strict=True):
        right = plain_answer(site.made[version] if version else None, prompt, TOKENS)
        assert reply.status == 200, reply.body
        assert reply.adapter == version
        assert reply.tokens == right.tokens, (model, prompt)
        assert reply.log_probs == pytest.approx(right.log_probs, abs=3e-4), (model, prompt)


def test_base_and_two_adapters_at_once_equal_peft(site: Site) -> None:
    """While a slot is free, which alone would hide the base's bug, and once the last slot holds weights.

    There are more versions than slots (`--max-loras`), so asking for each in turn fills them all. Without
    `lorapar/serving/cpu_lora.py` the base then answers as the adapter in the last slot does, and this test fails.
    """
    together = {BASE: None, "task": "task@1", "other": "other@1"}
    assert_equals_peft(site, together)
    assert len(site.made) > int(site.vllm.option("--max-loras"))
    for version in site.made:
        assert_equals_peft(site, {version: version})
    assert_equals_peft(site, together)
    assert_equals_peft(site, {BASE: None, "task": "task@1", "other@3": "other@3"})


OPERATORS = """
import sys
import torch
from lorapar.serving.cpu_lora import patch_cpu_lora
from vllm.lora.ops.torch_ops import lora_ops

x, slots, y = torch.ones(3, 4), torch.ones(2, 1, 5, 4), torch.full((3, 5), 7.0)
indices = torch.tensor([0, -1, 1])
lora_ops.bgmv_shrink(x, slots, y, indices, 2.0)
print(y[:, 0].tolist())
assert patch_cpu_lora() and patch_cpu_lora()
lora_ops.bgmv_shrink(x, slots, y, indices, 2.0)
print(y[:, 0].tolist())
lora_ops.sgmv_shrink(x, slots, y, torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1]), indices, 3, 1, 3, 2.0)
print(y[:, 0].tolist())
"""


def test_operators_skip_tokens_without_an_adapter_once_mended(site: Site) -> None:
    """Fails at its first line when vLLM has fixed this itself: then `lorapar/serving/cpu_lora.py` may go."""
    done = subprocess.run([PYTHON, "-c", OPERATORS], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-3:] == ["[8.0, 8.0, 8.0]", "[8.0, 0.0, 8.0]", "[8.0, 0.0, 8.0]"]


@pytest.mark.parametrize(
    ("model", "version"),
    [("task", "task@1"), ("task@production", "task@1"), ("task@candidate", "task@2"), ("task@3", "task@3")],
)
def test_header_says_which_version_answered(site: Site, model: str, version: str) -> None:
    reply = site.vllm.complete(model, "Who?")
    assert (reply.status, reply.adapter, reply.json["model"]) == (200, version, version)


def test_stream_passes_and_says_the_version(site: Site) -> None:
    reply = site.vllm.complete("task", "Tell me", stream=True, max_tokens=5)
    events = [line for line in reply.body.decode().splitlines() if line.startswith("data: ")]
    assert reply.adapter == "task@1"
    assert events[-1] == "data: [DONE]"
    assert len(events) >= 5


@pytest.mark.parametrize("model", ["task@99", "task@canary", "../task", "task@../1", "/etc", "unknown", "unknown@1"])
def test_names_that_lead_to_no_version_are_refused(site: Site, model: str) -> None:
    assert site.vllm.complete(model, "Who?").status == 404


def test_listing_and_metrics_name_aliases_and_versions(site: Site) -> None:
    listed = {card["id"]: card["root"] for card in site.vllm.get("/v1/models").json["data"]}
    assert listed["task"] == listed["task@production"] == "task@1"
    assert listed["task@candidate"] == "task@2"
    metrics = site.vllm.get("/metrics").body.decode()
    assert 'lorapar_serving_alias_version{adapter="task",alias="candidate"} 2.0' in metrics
    assert 'alias="production",status="200",version="1"} ' in metrics


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"])
def test_loading_is_closed_to_callers_outside(site: Site, path: str, tmp_path: Path) -> None:
    body = {"lora_name": "task@1", "lora_path": str(tmp_path), "name": "task@1", "src": str(tmp_path)}
    assert site.vllm.post(path, body).status == 403


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_kept_redacted_with_its_answer(site: Site, stream: bool) -> None:
    reply = site.vllm.complete("task", "Write to kim@example.org, please", stream=stream)
    asked = reply.headers["x-request-id"]

    def row() -> CapturedRequest | None:
        return next((one for one in site.kept.requests(site.kept.parts()) if one.request_id == asked), None)

    site.wait_until(lambda: row() is not None)
    kept = row()
    assert kept is not None
    assert [message.content for message in kept.messages] == ["Write to [EMAIL], please"]
    assert (kept.version, kept.redacted) == (1, 1)
    if not stream:
        assert kept.answer == reply.json["choices"][0]["text"]
    whole = site.vllm.complete("task", "Write to kim@example.org, please")
    assert kept.answer == whole.json["choices"][0]["text"]
    assert site.kept.delete(asked, datetime.now(UTC)).requests == 1
    assert row() is None
