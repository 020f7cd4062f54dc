"""`auto` number formats: torch is asked what the processor computes natively."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from lorapar.basemodel import load_model, number_format
from lorapar.config import ModelConfig, TeacherConfig
from tests.processors import NUMBER_FORMAT, pretend_cpu

EMULATING = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
NATIVE = {**EMULATING, "avx512_bf16": True}


@pytest.fixture
def cpu(monkeypatch):
    """Makes torch say that this machine's CPU is another one; `bfloat16_takes`: of the time of float32."""

    def use(capabilities, bfloat16_takes=0.5) -> None:
        pretend_cpu(monkeypatch, capabilities, bfloat16_takes)

    return use


@pytest.fixture
def gpu(monkeypatch):
    """Makes torch say that there is a GPU; one without bfloat16 may still emulate it."""

    def use(*, native: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation
        )

    return use


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        (EMULATING, "float32"),
        (NATIVE, "bfloat16"),
        ({**EMULATING, "amx_bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "avx2": True}, "float32"),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, "bfloat16"),
        ({"architecture": "aarch64", "neon": True, "bf16": False, "sve_bf16": True}, "bfloat16"),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, "float32"),
    ],
)
def test_a_cpu_gets_what_it_computes_natively(cpu, capabilities, dtype) -> None:
    cpu(capabilities)
    found = number_format()
    assert found.dtype == dtype
    assert found.description in (
        "bfloat16, which this CPU computes natively",
        "float32: this CPU only emulates bfloat16",
    )
    assert found.description.startswith(dtype)


def test_native_bfloat16_that_is_slower_than_float32_is_not_used(cpu) -> None:
    cpu(NATIVE, bfloat16_takes=1.9)
    assert number_format().dtype == number_format(accelerators=False).dtype == "float32"
    assert number_format().description == "float32, faster on this CPU than bfloat16"
    cpu(NATIVE, bfloat16_takes=1.0)
    assert number_format().dtype == "bfloat16", "as fast, and half of the memory"


def test_the_time_of_bfloat16_is_that_of_a_product(monkeypatch) -> None:
    linear = torch.nn.functional.linear

    def slower_in(slow):
        def product(states, weights):
            if states.dtype == slow:
                time.sleep(0.1)
            return linear(states, weights)

        return product

    for slow, expected in ((torch.bfloat16, "longer"), (torch.float32, "shorter")):
        monkeypatch.setattr(torch.nn.functional, "linear", slower_in(slow))
        found = NUMBER_FORMAT._time_of_bfloat16.__wrapped__(turns=2)
        assert ("longer" if found > 1 else "shorter") == expected


@pytest.mark.parametrize(("native", "supported"), [(False, False), (True, True)])
def test_an_older_torch_is_asked_in_its_own_way(cpu, monkeypatch, native, supported) -> None:
    cpu({})
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert (number_format().dtype == "bfloat16") is supported


def test_a_gpu_decides_where_there_is_one(cpu, gpu) -> None:
    cpu(NATIVE)
    gpu(native=False)
    assert number_format().description == "float32: this GPU only emulates bfloat16"
    assert number_format(accelerators=False).dtype == "bfloat16", "the machines that compute have none"
    cpu(EMULATING)
    gpu(native=True)
    assert number_format().description == "bfloat16, which this GPU computes natively"


def test_machines_with_accelerators_are_not_asked(cpu, monkeypatch) -> None:
    cpu(EMULATING)
    assert number_format(accelerators=True).dtype == "bfloat16"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert number_format(accelerators=True).dtype == "bfloat16"
    assert number_format().dtype == number_format(accelerators=False).dtype == "float32"
    assert number_format().description.startswith("float32: no torch")


def test_only_what_is_auto_is_settled(cpu) -> None:
    for capabilities, dtype, autocast in ((NATIVE, "bfloat16", "bfloat16"), (EMULATING, "float32", "none")):
        cpu(capabilities)
        found = number_format()
        settled = found.of_model(ModelConfig(dtype="auto", autocast="auto"))
        assert (settled.dtype, settled.autocast) == (dtype, autocast)
        for explicit in (ModelConfig(dtype="bfloat16", autocast="bfloat16"), ModelConfig(dtype="float16")):
            assert found.of_model(explicit) == explicit
        assert found.of_model(ModelConfig(dtype="float32", autocast="auto")).dtype == "float32"
        assert found.of_teacher(TeacherConfig(name="t")).dtype == dtype
        assert found.of_teacher(TeacherConfig(name="t", dtype="float16")).dtype == "float16"


@pytest.mark.parametrize("model", [{"dtype": "auto"}, {"dtype": "float32", "autocast": "auto"}])
def test_a_loader_that_sees_auto_was_called_without_a_plan(model) -> None:
    with pytest.raises(AssertionError, match="builtin:tiny reached a loader with dtype"):
        load_model(ModelConfig(name="builtin:tiny", **model))
