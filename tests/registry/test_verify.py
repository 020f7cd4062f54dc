"""The proof before publishing: equal models pass, different ones are refused."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from lorapar.errors import IntegrityError
from lorapar.progress import Silent
from lorapar.registry import package_adapter, verify_package

QUESTIONS = ["1+2?", "What is a bix?"]


def changed(folder, factor: float) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor * factor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_package_answers_as_the_trained_model(base, trained, tmp_path, dtype) -> None:
    model = base.model_copy(update={"dtype": dtype})
    package_adapter(trained, tmp_path / "made", model)
    found = verify_package(model, trained, tmp_path / "made", QUESTIONS, Silent())
    assert (found.dtype, found.prompts, found.equal_greedy_texts) == (dtype, 3, 3)
    assert found.max_logit_difference <= (1e-4 if dtype == "float32" else 0.05)
    assert abs(found.mean_kl) < 1e-4
    # Not two bare base models compared with each other.
    assert found.max_change_of_base > 0.1
    assert found.positions > 60


def test_in_float32_a_small_difference_is_refused(base, trained, tmp_path) -> None:
    package_adapter(trained, tmp_path / "made", base)
    changed(tmp_path / "made", 1.0001)
    with pytest.raises(IntegrityError, match=r"not published: largest logit difference 0.00.*mean KL"):
        verify_package(base, trained, tmp_path / "made", QUESTIONS, Silent())


@pytest.mark.parametrize("factor", [-2.0, float("nan")])
def test_in_bfloat16_other_texts_are_refused(base, trained, tmp_path, factor) -> None:
    model = base.model_copy(update={"dtype": "bfloat16"})
    package_adapter(trained, tmp_path / "made", model)
    changed(tmp_path / "made", factor)
    with pytest.raises(IntegrityError, match="greedy texts equal"):
        verify_package(model, trained, tmp_path / "made", QUESTIONS, Silent())
