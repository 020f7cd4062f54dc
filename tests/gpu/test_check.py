"""The GPU check at a tiny shape on the CPU: the same stages, so that it works on the day a GPU is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TINY = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 1024,
}
SHORT = ("score.max_length=64", "sft.max_length=64", "rl.max_completion_length=8")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    path = Path(__file__).with_name("check.py")
    spec = importlib.util.spec_from_file_location("lorapar_gpu_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the reward is found by its import path
    spec.loader.exec_module(module)
    return module


def test_measures_every_stage_from_init_to_rl(check: ModuleType, tmp_path: Path) -> None:
    parts = check.measure_parts(TINY, tmp_path, SHORT)
    for title in [title for title in parts if title.startswith("completions of")]:
        assert parts.pop(title) == "vllm is not installed in this environment"
    for title in [title for title in parts if title.startswith("two processes")]:
        assert parts.pop(title) == "2 GPUs are needed, and fewer are visible"
    assert list(parts) == ["bfloat16", "nf4"]
    for figures in parts.values():
        assert [figure.stage for figure in figures] == ["init", "score", "score", "partition", "sft", "rl"]
        assert "steps 2" in figures[-1].note
        assert [figure.sampled is not None and figure.sampled > 0 for figure in figures] == [False] * 5 + [True]
    text = check.page({**parts, "completions of vLLM": "no vllm"}, "a CPU", "a tiny shape", 12.0)
    assert "- Tokens a second that vLLM samples: not measured (bound: 5 times).\n" in text
    assert text.count("\n| ") == 2 * (1 + 6)
    assert text.endswith("## completions of vLLM\n\nNot measured: no vllm.\n")


@pytest.mark.parametrize(
    ("by_vllm", "seconds", "lines"),
    [
        (5000.0, 470.0, []),
        (4900.0, 481.0, ["vLLM sampled 4.9 times", "the check took 481 s; the bound is 480"]),
        (None, 470.0, ["completions of vLLM: it failed (RuntimeError: no)"]),
    ],
)
def test_a_bound_that_is_missed_is_on_the_page(
    check: ModuleType, by_vllm: float | None, seconds: float, lines: list[str]
) -> None:
    theirs = [check.Figure("rl", 9.0, 0, "steps 2", 1000.0)]
    ours = "it failed (RuntimeError: no)" if by_vllm is None else [check.Figure("rl", 9.0, 0, "steps 2", by_vllm)]
    parts = {"bfloat16": theirs, "completions of vLLM": ours}
    found = check.missed(parts, seconds)
    assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines
    text = check.page(parts, "a card", "a shape", seconds)
    assert text.count("\n- **Missed**: ") == len(lines)


def test_a_part_that_fails_does_not_keep_the_others_from_being_measured(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_first(part: Any, *_: Any) -> list[Any]:
        if part is check.PARTS[0]:
            raise RuntimeError("CUDA error:\nno kernel image")
        return []

    monkeypatch.setattr(check, "measure_part", fail_first)
    monkeypatch.setattr(check.Part, "lacks", None)
    parts = check.measure_parts(TINY, tmp_path)
    assert parts.pop(check.PARTS[0].title) == "it failed (RuntimeError: CUDA error: no kernel image)"
    assert list(parts.values()) == [[]] * (len(check.PARTS) - 1)


def test_the_page_says_that_nothing_was_measured_until_it_was(check: ModuleType) -> None:
    text = check.PAGE.read_text(encoding="utf-8")
    assert text == check.not_measured() or "Measured on 20" in text


def test_refuses_in_one_line_without_a_gpu(
    check: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert check.main() == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
