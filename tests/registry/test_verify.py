"""The proof before publishing: equal models pass, different ones are refused."""

from __future__ import annotations

from types import SimpleNamespace

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


@pytest.mark.parametrize("kind", [{"quantization": "nf4"}, {"quantization": "int8"}], ids=str)
def test_an_adapter_of_a_quantised_base_is_compared_there_and_on_the_full_one(base, trained, tmp_path, kind) -> None:
    model = base.model_copy(update=kind)
    package_adapter(trained, tmp_path / "made", model)
    found = verify_package(model, trained, tmp_path / "made", QUESTIONS, Silent())
    assert (found.max_logit_difference, found.equal_greedy_texts) == (0.0, 3)
    assert found.quantization == model.quantization_text
    assert found.full_base_max_logit_difference > 0.01
    assert found.full_base_mean_kl > 1e-6
    # The full base alone, by the same measure: were the two bases one, nothing of this would show.
    assert verify_package(base, trained, tmp_path / "made", QUESTIONS, Silent()).full_base_mean_kl is None


def test_a_changed_adapter_is_refused_on_a_quantised_base(base, trained, tmp_path) -> None:
    model = base.model_copy(update={"quantization": "nf4"})
    package_adapter(trained, tmp_path / "made", model)
    changed(tmp_path / "made", 1.001)
    with pytest.raises(IntegrityError, match=r"not published: largest logit difference 0.0"):
        verify_package(model, trained, tmp_path / "made", QUESTIONS, Silent())


def test_a_full_base_that_does_not_fit_is_left_out_and_reported(base, trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100_000))
    model = base.model_copy(update={"quantization": "nf4"})
    package_adapter(trained, tmp_path / "made", model)
    found = verify_package(model, trained, tmp_path / "made", QUESTIONS, Silent())
    assert found.full_base_left_out == "it takes 0.0 GB and 0.0 GB are free"
    assert found.full_base_mean_kl is None
