"""Which engine the settings open, and what they refuse; the real vLLM is asked in tests/integration/vllm."""

from __future__ import annotations

import sys

import pytest
from pydantic import ValidationError

from lorapar.basemodel import load_tokenizer
from lorapar.config import EvaluateConfig, ModelConfig, VllmOptions
from lorapar.errors import BadInputError
from lorapar.evaluation import TransformersEngine
from lorapar.evaluation.engine import open_engine
from lorapar.progress import Silent
from lorapar.voting.vllm_teacher import start_llm

BASE = ModelConfig(name="builtin:tiny", dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BASE)


def test_transformers_is_the_usual_engine(tokenizer) -> None:
    with open_engine(BASE, EvaluateConfig(), tokenizer, [None], Silent()) as engine, engine.asked(None) as model:
        assert isinstance(engine, TransformersEngine)
        assert all(1 <= len(answer) <= 3 for answer in model.generate([[1, 2], [3]], 3))


def test_without_vllm_its_backend_says_so(tokenizer, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    settings = EvaluateConfig(backend="vllm")
    with (
        pytest.raises(BadInputError, match="needs vllm, which is not installed here"),
        open_engine(BASE, settings, tokenizer, [None], Silent()),
    ):
        pass


def test_options_of_vllm_without_its_backend_are_refused() -> None:
    with pytest.raises(ValidationError, match="vllm: does nothing where backend is transformers"):
        EvaluateConfig.model_validate({"vllm": {"max_model_len": 512}})


def test_a_family_whose_adapters_vllm_answers_otherwise_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt_bigcode"}')
    model = ModelConfig(name=str(tmp_path), dtype="float32")
    with pytest.raises(BadInputError, match=r"adapters of gpt_bigcode than PEFT; set evaluate\.backend"):
        start_llm(model, VllmOptions(), Silent(), enable_lora=True)


def test_transformers_answers_where_vllm_cannot_take_an_adapter(tokenizer, tmp_path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    lines: list[str] = []
    progress = Silent()
    progress.log = lines.append
    with open_engine(BASE, EvaluateConfig(backend="vllm"), tokenizer, [None, tmp_path], progress) as engine:
        assert isinstance(engine, TransformersEngine)
    assert lines == [
        "evaluate.backend is vllm, and an adapter is of the kind prefix, and vLLM serves plain LoRA only; "
        "transformers answers instead"
    ]
