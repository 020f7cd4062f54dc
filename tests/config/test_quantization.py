"""What `model.quantization` and other ways to hold a base on GPUs go together with."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lorapar.config import ModelConfig, RunConfig
from lorapar.registry.lineage import base_facts


def test_a_base_that_is_not_quantised_is_written_as_ever() -> None:
    written = ModelConfig().model_dump(mode="json")
    assert not {"quantization", "double_quantization", "compute_dtype"} & set(written)
    assert "quantization" not in base_facts(ModelConfig())
    one = ModelConfig(quantization="nf4", double_quantization=False, compute_dtype="bfloat16", dtype="float32")
    assert ModelConfig.model_validate(one.model_dump(mode="json")) == one
    assert base_facts(one)["quantization"] == "nf4, computed in bfloat16"
    assert one.full == ModelConfig(dtype="float32")


@pytest.mark.parametrize("other", [{"double_quantization": True}, {"compute_dtype": "bfloat16"}])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_choices_of_nf4_are_refused_beside_others(other, quantization) -> None:
    with pytest.raises(ValidationError, match=rf"{next(iter(other))} is a choice of quantization nf4"):
        ModelConfig(quantization=quantization, **other)


@pytest.mark.parametrize("section", [{"rl": {"rollouts": "vllm"}}, {"model": {"quantization": "nf4"}}])
def test_sharding_is_refused_beside_what_holds_a_whole_base(section) -> None:
    with pytest.raises(ValidationError, match="sharding is fsdp2, and"):
        RunConfig(sharding="fsdp2", **section)
    assert RunConfig(sharding="fsdp2").sharding == "fsdp2"


@pytest.mark.parametrize("section", [{"rl": {"rollouts": "vllm"}}, {"evaluate": {"backend": "vllm"}}])
def test_vllm_is_refused_where_it_would_stand_for_the_quantised_base(section) -> None:
    RunConfig.model_validate(section)
    with pytest.raises(ValidationError, match="is vllm, which loads the full base and not the int8 one"):
        RunConfig.model_validate({"model": {"quantization": "int8"}, **section})


def test_an_engine_over_several_gpus_is_for_one_process() -> None:
    rl = {"rollouts": "vllm", "vllm": {"tensor_parallel_size": 2}}
    assert RunConfig(rl=rl, processes=1).rl.vllm.tensor_parallel_size == 2
    with pytest.raises(ValidationError, match=r"rl\.vllm\.tensor_parallel_size is 2, and each process"):
        RunConfig(rl=rl)
