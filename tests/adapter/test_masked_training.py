"""The masked optimiser: nothing outside the mask moves, and inside it is dense AdamW bit for bit."""

from __future__ import annotations

import copy
from contextlib import suppress

import pytest
import torch

from lorapar.adapter import (
    MaskedAdamW,
    base_digest,
    check_only_active_moved,
    load_adapter,
    lora_parameters,
    masked_kernel,
    masked_training,
    save_adapter,
    snapshot,
    trainable_slice,
)
from lorapar.adapter.active_index import ActiveIndex
from lorapar.errors import BadInputError, TrainingError

RANK = 4
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
MAX_NORM = 0.1


def loss_of(model, step):
    ids = (torch.arange(24).reshape(2, 12) * (step + 3)) % 90 + 3
    return model(input_ids=ids, labels=ids).loss


def whole_mask(model, mask):
    """The mask as bool tensors of the whole parameters' shapes."""
    whole = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in lora_parameters(model).items()}
    for name, tensor in whole.items():
        trainable_slice(name, tensor, RANK).copy_(mask[name])
    return whole


def train(model, optimizer, steps, first=0):
    norms = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        for half in range(2):  # two accumulated micro-batches
            (loss_of(model, 2 * step + half) / 2).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM))
        optimizer.step()
    return norms


def dense_reference(model, mask, steps):
    """Dense fused AdamW given the same masked and clipped gradients; frozen elements are put back after each step."""
    parameters, whole = lora_parameters(model), whole_mask(model, mask)
    optimizer = torch.optim.AdamW(list(parameters.values()), fused=True, **SETTINGS)
    start = snapshot(model)
    norms = []
    for step in range(steps):
        optimizer.zero_grad()
        for half in range(2):
            (loss_of(model, 2 * step + half) / 2).backward()
        for name, parameter in parameters.items():
            parameter.grad[~whole[name]] = 0
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM))
        optimizer.step()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter[~whole[name]] = start[name][~whole[name]]
    return norms


@pytest.fixture(params=["torch", "compiled"])
def step_by(request, monkeypatch):
    """Steps by PyTorch's operations, or by the compiled loop from the first step on."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        monkeypatch.setattr(masked_kernel, "_PAYS_AFTER_ELEMENTS", 0)


@pytest.mark.usefixtures("step_by")
@pytest.mark.parametrize("fraction", [0.01, 0.4, 1.0])
@pytest.mark.parametrize("init", ["residual", "paper"])
def test_active_elements_equal_dense_adamw_bit_for_bit(make_adapter, random_mask, fraction, init):
    model, dense = make_adapter(rank=RANK, init=init), make_adapter(rank=RANK, init=init)
    mask = random_mask(model, RANK, fraction)
    before, digest = snapshot(model), base_digest(model)
    with masked_training(model, mask) as masked:
        norms = train(model, masked.optimizer(**SETTINGS), steps=5)
    assert [norm.item() for norm in norms] == [norm.item() for norm in dense_reference(dense, mask, 5)]
    after = snapshot(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in snapshot(dense).items())
    moved = check_only_active_moved(before, after, mask, RANK)
    assert moved.active == sum(int(tensor.sum()) for tensor in mask.values()) == masked.active_elements
    assert moved.moved > 0.99 * moved.active
    assert base_digest(model) == digest


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("beta1", [0.9, 0.3])
@pytest.mark.parametrize(("weight_decay", "eps"), [(0.0, 1e-8), (0.1, 1e-8), (0.1, 1e-4)])
def test_the_compiled_step_gives_the_bits_of_pytorchs_operations(monkeypatch, threads, beta1, weight_decay, eps):
    pytest.importorskip("numba")

    def stepped(pays_after):
        monkeypatch.setattr(masked_kernel, "_PAYS_AFTER_ELEMENTS", pays_after)
        generator = torch.Generator().manual_seed(0)
        shapes = {"one block": (8, 40), "no whole vector": (3, 7), "several blocks": (8, 11008), "never given": (4, 4)}
        parameters = {
            name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()
        }
        indices = {name: ActiveIndex(torch.rand(shape, generator=generator) < 0.4) for name, shape in shapes.items()}
        decay = {"eps": eps, "weight_decay": weight_decay}
        optimizer = MaskedAdamW(parameters, indices, lr=1e-2, betas=(beta1, 0.99), **decay)
        for step in range(4):
            for name in list(shapes)[:3]:
                gradient = torch.randn(shapes[name][::-1], generator=generator).T  # not contiguous
                parameters[name].grad = gradient * 10.0 ** (-3 * step)
            optimizer.step()
        assert (optimizer._kernel._step is not None) is (pays_after == 0)
        return parameters, optimizer.state_dict()["state"]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (plain, plain_state), (compiled, compiled_state) = stepped(10**9), stepped(0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(compiled[name], plain[name]) for name in plain)
    assert "never given" not in compiled_state
    for name, state in plain_state.items():
        assert all(torch.equal(compiled_state[name][key], value) for key, value in state.items())


def test_a_step_without_any_gradient_does_nothing_when_compiled_either(monkeypatch):
    monkeypatch.setattr(masked_kernel, "_PAYS_AFTER_ELEMENTS", 0)
    parameter = torch.nn.Parameter(torch.ones(16))
    optimizer = MaskedAdamW({"a": parameter}, {"a": ActiveIndex(torch.ones(16, dtype=torch.bool))}, lr=1.0)
    parameter.grad = torch.zeros(16)
    optimizer.step()
    before = parameter.detach().clone()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(parameter, before)


def test_where_torch_rounds_otherwise_its_own_operations_step(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(masked_kernel, "_PAYS_AFTER_ELEMENTS", 0)
    assert masked_kernel.MaskedKernel().pays(1)
    monkeypatch.setattr(masked_kernel, "_compile", lambda: lambda *given: None)
    assert not masked_kernel.MaskedKernel().pays(1)


def test_the_step_is_compiled_once_it_pays_and_never_without_numba(monkeypatch):
    monkeypatch.setattr(masked_kernel, "_PAYS_AFTER_ELEMENTS", 1000)
    kernel = masked_kernel.MaskedKernel()
    assert [kernel.pays(400) for _ in range(4)] == [False, False, True, True]
    monkeypatch.setattr(masked_kernel.importlib.util, "find_spec", lambda name: None)
    without = masked_kernel.MaskedKernel()
    assert [without.pays(400) for _ in range(4)] == [False] * 4


def test_clipping_sees_active_gradients_only(make_adapter, random_mask):
    model, free = make_adapter(rank=RANK), make_adapter(rank=RANK)
    mask = random_mask(model, RANK, 0.2)
    loss_of(free, 0).backward()
    gradients = {name: p.grad.clone() for name, p in lora_parameters(free).items()}
    with masked_training(model, mask):
        loss_of(model, 0).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    active = torch.cat([gradients[name][whole] for name, whole in whole_mask(model, mask).items()])
    everything = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert torch.isclose(norm, active.norm(), rtol=1e-5)
    assert norm < 0.7 * everything.norm()


def test_active_values_are_all_that_training_changes(make_adapter, random_mask):
    model, other = make_adapter(rank=RANK), make_adapter(rank=RANK)
    mask = random_mask(model, RANK, 0.3)
    mask[next(iter(mask))].zero_()  # a tensor that this system does not train at all
    with masked_training(model, mask) as masked, masked_training(other, mask) as restored:
        train(model, masked.optimizer(**SETTINGS), steps=2)
        values = masked.gather(lora_parameters(model))
        assert sum(value.numel() for value in values.values()) == masked.active_elements
        held = snapshot(other)
        restored.scatter(values, held)
        restored.scatter(values)
    after = snapshot(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in snapshot(other).items())
    assert all(torch.equal(after[name], tensor) for name, tensor in held.items())


def test_values_of_another_mask_are_refused(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    with masked_training(model, random_mask(model, RANK, 0.3)) as masked:
        values = masked.gather(snapshot(model))
    with (
        masked_training(model, random_mask(model, RANK, 0.4)) as another,
        pytest.raises(BadInputError, match="with the mask they were saved under"),
    ):
        another.scatter(values)


def test_a_gradient_that_is_not_finite_outside_the_mask_does_not_matter(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    mask = random_mask(model, RANK)
    name, parameter = next(iter(lora_parameters(model).items()))
    frozen = torch.nonzero(~whole_mask(model, mask)[name])[0]
    parameter.register_hook(lambda gradient: gradient.index_put(tuple(frozen), torch.tensor(float("nan"))))
    with masked_training(model, mask):
        loss_of(model, 0).backward()
    assert torch.isfinite(parameter.grad).all()


def test_moments_and_index_cost_the_active_fraction(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    mask = random_mask(model, RANK, 0.4)
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(**SETTINGS)
        train(model, optimizer, steps=1)
    active = masked.active_elements
    state = optimizer.state_dict()["state"]
    assert sum(held[key].nbytes for held in state.values() for key in ("exp_avg", "exp_avg_sq")) == 8 * active
    assert 8 * active <= optimizer.moment_bytes() <= 8 * (active + 15 * len(mask))  # padded to whole vectors
    assert masked.index_bytes == 2 * active


def test_an_index_of_a_tensor_of_several_blocks_is_exact():
    from lorapar.adapter.active_index import ActiveIndex

    active = torch.rand(3, 100_000, generator=torch.Generator().manual_seed(0)) < 0.3
    active[0, 65_000:] = False  # a block with few elements
    index = ActiveIndex(active)
    assert torch.equal(index.flat(torch.device("cpu")), torch.nonzero(active.flatten()).squeeze(1))
    assert (len(index), index.nbytes) == (int(active.sum()), 2 * int(active.sum()))


@pytest.mark.usefixtures("step_by")
def test_training_resumes_bit_for_bit_from_the_saved_state(make_adapter, random_mask):
    straight = make_adapter(rank=RANK)
    mask = random_mask(straight, RANK)
    with masked_training(straight, mask) as masked:
        train(straight, masked.optimizer(**SETTINGS), steps=4)

    model = make_adapter(rank=RANK)
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(**SETTINGS)
        train(model, optimizer, steps=2)
        state = copy.deepcopy(optimizer.state_dict())
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(lr=1.0)  # the saved settings win, as in torch
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == SETTINGS["lr"]
        train(model, optimizer, steps=2, first=2)
    assert all(torch.equal(snapshot(straight)[name], tensor) for name, tensor in snapshot(model).items())


def test_the_state_is_named_by_tensor(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    mask = random_mask(model, RANK)
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(**SETTINGS)
        assert optimizer.state_dict()["state"] == {}
        train(model, optimizer, steps=3)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["params"] == list(mask)
    assert all(
        p is q for p, q in zip(optimizer.param_groups[0]["params"], lora_parameters(model).values(), strict=True)
    )
    for name, held in state["state"].items():
        assert held["exp_avg"].shape == held["exp_avg_sq"].shape == (int(mask[name].sum()),)
        assert held["step"] == 3


def test_a_state_of_another_mask_is_refused(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    states = []
    for fraction in (0.4, 0.5):
        with masked_training(model, random_mask(model, RANK, fraction)) as masked:
            optimizer = masked.optimizer(**SETTINGS)
            train(model, optimizer, steps=1)
            states.append(optimizer.state_dict())
            if fraction == 0.5:
                with pytest.raises(BadInputError, match="resume with the mask it was saved under"):
                    optimizer.load_state_dict(states[0])
    few = random_mask(model, RANK)
    few[next(iter(few))].zero_()
    with masked_training(model, few) as masked, pytest.raises(BadInputError, match="other tensors"):
        masked.optimizer(**SETTINGS).load_state_dict(states[0])


def test_schedulers_drive_the_learning_rate(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    with masked_training(model, random_mask(model, RANK)) as masked:
        optimizer = masked.optimizer(**SETTINGS)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
        before = snapshot(model)
        train(model, optimizer, steps=2)
        scheduler.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(model).items())


def test_tensors_without_a_gradient_or_without_active_elements_are_skipped(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    mask = random_mask(model, RANK)
    first, second, *_ = mask
    mask[first].zero_()
    before = snapshot(model)
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(**SETTINGS)
        loss_of(model, 0).backward()
        lora_parameters(model)[second].grad = None
        optimizer.step()
    after = snapshot(model)
    unmoved = [name for name in before if torch.equal(before[name], after[name])]
    assert unmoved == [first, second]
    assert first not in optimizer.state_dict()["param_groups"][0]["params"]


def test_hooks_end_with_the_block_and_so_does_the_optimiser(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    mask = random_mask(model, RANK)
    with suppress(KeyboardInterrupt), masked_training(model, mask) as masked:
        optimizer = masked.optimizer(**SETTINGS)
        raise KeyboardInterrupt
    loss_of(model, 0).backward()
    name, parameter = next(iter(lora_parameters(model).items()))
    assert parameter.grad[~whole_mask(model, mask)[name]].abs().sum() > 0
    with pytest.raises(TrainingError, match="block has ended"):
        optimizer.step()


def test_an_empty_mask_is_refused(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    with (
        pytest.raises(TrainingError, match="this run would train nothing"),
        masked_training(model, random_mask(model, RANK, 0.0)),
    ):
        pass


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype"])
def test_a_mask_that_does_not_fit_names_the_tensor(make_adapter, random_mask, fault):
    model = make_adapter(rank=RANK)
    mask = random_mask(model, RANK)
    name = list(mask)[3]
    if fault == "missing":
        del mask[name]
    elif fault == "unknown":
        mask[name := "aaa.lora_A.weight"] = torch.ones(1, 1).bool()
    elif fault == "shape":
        mask[name] = mask[name][:, :-1]
    else:
        mask[name] = mask[name].float()
    with pytest.raises(BadInputError, match=name), masked_training(model, mask):
        pass


def test_an_adapter_loaded_for_inference_is_refused(make_adapter, make_base, random_mask, tmp_path):
    save_adapter(make_adapter(rank=RANK), tmp_path)
    model = load_adapter(make_base(), tmp_path, trainable=False)
    with pytest.raises(TrainingError, match="train nothing"), masked_training(model, random_mask(model, RANK)):
        pass


def test_a_cast_is_noticed_before_it_does_harm_and_can_be_undone(make_adapter, random_mask):
    """TRL casts the adapter of a quantised base to bfloat16 when the trainer is made."""
    model = make_adapter(rank=RANK)
    mask, before = random_mask(model, RANK), snapshot(model)
    with masked_training(model, mask) as masked:
        optimizer = masked.optimizer(**SETTINGS)
        assert masked.undo_casts() == []
        for parameter in lora_parameters(model).values():
            parameter.data = parameter.data.to(torch.bfloat16)
        loss_of(model, 0).backward()
        with pytest.raises(TrainingError, match="call undo_casts"):
            optimizer.step()
        optimizer.zero_grad()
        assert masked.undo_casts() == list(mask)
        assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(model).items())
        train(model, optimizer, steps=1)
    assert check_only_active_moved(before, snapshot(model), mask, RANK).moved > 0


def test_the_check_names_the_tensor_of_a_frozen_element_that_moved(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    mask, before = random_mask(model, RANK), snapshot(model)
    name, parameter = list(lora_parameters(model).items())[7]
    with torch.no_grad():
        parameter.view(-1)[-1] += 1e-3  # in the frozen half
    with pytest.raises(TrainingError, match=rf"1 frozen elements of '{name}'"):
        check_only_active_moved(before, snapshot(model), mask, RANK)


def test_the_check_notices_a_run_that_moved_nothing_and_a_cast(make_adapter, random_mask):
    model = make_adapter(rank=RANK)
    mask, before = random_mask(model, RANK), snapshot(model)
    with pytest.raises(TrainingError, match=r"none of the \d+ active elements moved"):
        check_only_active_moved(before, before, mask, RANK)
    with pytest.raises(TrainingError, match=r"torch\.float32 .* torch\.float16"):
        check_only_active_moved(before, {name: t.half() for name, t in before.items()}, mask, RANK)


def test_gradient_masking_alone_would_not_freeze(make_adapter, random_mask):
    """The fault of the authors' example that this optimiser is for: weight decay moves masked elements."""
    model = make_adapter(rank=RANK)
    mask, before = random_mask(model, RANK), snapshot(model)
    with masked_training(model, mask):
        train(model, torch.optim.AdamW(list(lora_parameters(model).values()), fused=True, **SETTINGS), steps=1)
    with pytest.raises(TrainingError, match="frozen elements"):
        check_only_active_moved(before, snapshot(model), mask, RANK)
