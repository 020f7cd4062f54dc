"""The partition against the definition written out: sort, sum, cut."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar.adapter import Partition, partition_elements, random_partition_like, sweep
from lorapar.errors import BadInputError

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
UP = "base_model.model.model.layers.10.mlp.up_proj.lora_A.weight"
OTHER = "base_model.model.model.layers.2.mlp.up_proj.lora_A.weight"
SHAPES = {A: (2, 5), B: (4, 2), OTHER: (2, 3), UP: (2, 7)}


def order_of(scores):
    """(tensor name, flat index, value) by value descending, then tensor name, then flat index."""
    rows = [(n, i, float(v)) for n, tensor in scores.items() for i, v in enumerate(tensor.flatten().tolist())]
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))


def oracle(scores, theta):
    """The smallest prefix whose float64 running sum reaches theta * total, and its boundary's distance from it."""
    rows = order_of(scores)
    running = np.cumsum(np.array([value for *_, value in rows], dtype=np.float64))
    if theta == 1:
        return rows, math.inf
    target = theta * running[-1]
    size = int(np.searchsorted(running, target)) + 1
    margin = min(
        abs(running[min(size - 1, len(rows) - 1)] - target), abs((running[size - 2] if size > 1 else 0) - target)
    )
    return rows[:size], margin / running[-1]


def elements(mask):
    return {(name, i) for name, tensor in mask.items() for i in torch.nonzero(tensor.flatten()).flatten().tolist()}


def make_scores(seed, ties=False):
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name in reversed(SHAPES):  # given unsorted on purpose
        values = torch.rand(SHAPES[name], generator=generator) ** 4
        scores[name] = (values * 4).ceil() / 4 if ties else values
    return scores


@settings(deadline=None)  # busy machines
@given(
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
    theta=st.one_of(st.sampled_from([1e-6, 0.25, 0.5, 0.9, 0.95, 1.0]), st.floats(1e-9, 1)),
)
def test_a_systems_set_is_the_smallest_prefix_that_reaches_theta(seed, ties, theta):
    scores = make_scores(seed, ties)
    partition = partition_elements({"only": scores}, theta=theta, shared={"only": 1.0})
    expected, margin = oracle(scores, theta)
    if margin > 1e-12:
        assert elements(partition.selected("only")) == {(name, i) for name, i, _ in expected}
    else:  # the one boundary element lies within rounding of the target
        assert abs(partition.sizes()["only"].selected - len(expected)) <= 1


@settings(deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True), ties=st.booleans(), data=st.data())
def test_regions_and_masks_follow_the_definition_for_any_number_of_systems(seeds, ties, data):
    theta = data.draw(st.sampled_from([0.3, 0.6, 0.9, 1.0]))
    systems = {f"system{k}": make_scores(seed, ties) for k, seed in enumerate(seeds)}
    fractions = {s: data.draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])) for s in systems}
    partition = partition_elements(systems, theta=theta, shared=fractions)
    sets = {s: elements(partition.selected(s)) for s in systems}
    for system, scores in systems.items():
        others = set().union(*(chosen for s, chosen in sets.items() if s != system))
        ranked = [(n, i) for n, i, _ in order_of(scores) if (n, i) in sets[system] & others]
        best = set(ranked[: math.floor(fractions[system] * len(ranked))])
        assert elements(partition.mask(system)) == (sets[system] - others) | best
        sizes = partition.sizes()[system]
        assert (sizes.total, sizes.selected, sizes.shared) == (38, len(sets[system]), len(ranked))
        assert (sizes.exclusive, sizes.active) == (len(sets[system] - others), len(elements(partition.mask(system))))
        assert sizes.active_fraction == sizes.active / 38
        for other in systems:
            expected = len(sets[system] & sets[other]) / len(sets[system] | sets[other])
            assert partition.jaccard(system, other) == expected


def test_a_partition_worked_out_by_hand():
    """Totals 10 and 10, theta 0.8: system 1 takes 5+2+1 (the first of two equal ones), system 2 takes 6+2."""
    one = {"a.lora_A.weight": torch.tensor([[5.0, 1.0, 1.0]]), "a.lora_B.weight": torch.tensor([[2.0], [1.0]])}
    two = {"a.lora_A.weight": torch.tensor([[6.0, 0.5, 0.5]]), "a.lora_B.weight": torch.tensor([[1.0], [2.0]])}
    partition = partition_elements({"s1": one, "s2": two}, theta=0.8, shared={"s1": 1, "s2": 0})
    assert partition.mask("s1")["a.lora_A.weight"].tolist() == [[True, True, False]]
    assert partition.mask("s1")["a.lora_B.weight"].tolist() == [[True], [False]]
    assert partition.mask("s2")["a.lora_A.weight"].tolist() == [[False, False, False]]  # its 6.0 is shared, fraction 0
    assert partition.mask("s2")["a.lora_B.weight"].tolist() == [[False], [True]]
    assert partition.jaccard("s1", "s2") == 1 / 4


@pytest.mark.parametrize("theta", [0.1, 0.6, 0.9, 0.95, 0.999])
def test_a_third_of_a_million_scores_agree_with_a_full_sort(theta):
    """Scores spread over many orders of magnitude, in tensors whose sorted order is not their numeric one."""
    generator = torch.Generator().manual_seed(0)
    scores = {
        f"layers.{layer}.q_proj.lora_{side}.weight": torch.randn(16, 256, generator=generator).exp() ** 4 * 1e-9
        for layer in range(40)
        for side in "AB"
    }
    flat = np.concatenate([scores[name].flatten().numpy() for name in sorted(scores)])
    order = np.argsort(-flat, kind="stable")
    running = np.cumsum(flat[order], dtype=np.float64)
    expected = np.zeros(flat.size, dtype=bool)
    expected[order[: np.searchsorted(running, theta * running[-1]) + 1]] = True
    selected = partition_elements({"s": scores}, theta=theta, shared={"s": 1}).selected("s")
    ours = np.concatenate([selected[name].flatten().numpy() for name in sorted(scores)])
    assert (ours != expected).sum() <= 1  # the boundary element, where float64 sums round differently


def test_theta_one_keeps_everything_even_zeros():
    scores = {A: torch.tensor([[0.0, 1.0, 0.0]]), B: torch.tensor([[1e-30], [3.0]])}
    assert all(m.all() for m in partition_elements({"s": scores}, theta=1, shared={"s": 1}).mask("s").values())
    below = partition_elements({"s": scores}, theta=0.999999999, shared={"s": 1})
    assert below.mask("s")[A].tolist() == [[False, True, False]]


def test_a_sum_that_float32_cannot_hold_is_still_right():
    """One large score and four million of 1e-8 of it: a float32 running sum would never reach theta."""
    many = 4_000_000
    scores = {A: torch.tensor([[1.0]]), B: torch.full((many, 1), 1e-8)}
    total = 1 + many * float(np.float32(1e-8))
    partition = partition_elements({"s": scores}, theta=0.98, shared={"s": 1})
    expected = 1 + math.ceil((0.98 * total - 1) / float(np.float32(1e-8)))
    assert abs(partition.sizes()["s"].selected - expected) <= 1
    assert partition.mask("s")[B].flatten()[: expected - 2].all()  # ties by flat index


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e30])
def test_scores_of_any_magnitude_work(scale):
    scores = {A: torch.tensor([[4.0, 3.0, 2.0, 1.0]]) * scale}
    partition = partition_elements({"s": scores}, theta=0.6, shared={"s": 1})
    assert partition.mask("s")[A].tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("theta", [0, -0.1, 1.0000001, math.nan, math.inf])
def test_theta_outside_its_range_is_refused(theta):
    with pytest.raises(BadInputError, match="theta is"):
        partition_elements({"s": make_scores(0)}, theta=theta, shared={"s": 1})


@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "NaN or infinity"), (-math.nan, "NaN or infinity"), (math.inf, "NaN or infinity"), (-1.0, "negative")],
)
def test_scores_that_are_no_importance_name_system_and_tensor(value, message):
    scores = make_scores(0)
    scores[B][1, 1] = value
    with pytest.raises(BadInputError, match=rf"'{B}' for system 'system2'.*{message}"):
        partition_elements(
            {"system1": make_scores(1), "system2": scores}, theta=0.9, shared={"system1": 1, "system2": 1}
        )


def test_all_zero_scores_name_the_tensor():
    scores = make_scores(0)
    scores[UP].zero_()
    scores[UP][0, 0] = -0.0
    with pytest.raises(BadInputError, match=rf"'{UP}' for system 's' are all zero"):
        partition_elements({"s": scores}, theta=0.9, shared={"s": 1})


def test_minus_zero_is_zero():
    scores = {A: torch.tensor([[-0.0, 2.0, 1.0]])}
    assert partition_elements({"s": scores}, theta=0.9, shared={"s": 1}).mask("s")[A].tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("scores", "shared", "message"),
    [
        ({"s": {A: torch.rand(2, 2, dtype=torch.float64)}}, {"s": 1}, "not float32"),
        ({"s": {A: torch.rand(2, 2)}}, {"t": 1}, "give both"),
        ({"s": {A: torch.rand(2, 2)}}, {"s": 1.5}, "fraction of 's' is 1.5"),
        ({"s/x": {A: torch.rand(2, 2)}}, {"s/x": 1}, "no system name"),
        ({"s": {A: torch.rand(2, 2)}, "t": {A: torch.rand(2, 3)}}, {"s": 1, "t": 1}, "score different tensors"),
        ({"s": {A: torch.rand(2, 2)}, "t": {B: torch.rand(2, 2)}}, {"s": 1, "t": 1}, "score different tensors"),
        ({"s": {}}, {"s": 1}, "has no scores"),
        ({}, {}, "give both"),
    ],
)
def test_input_that_does_not_fit_together_is_refused(scores, shared, message):
    with pytest.raises(BadInputError, match=message):
        partition_elements(scores, theta=0.9, shared=shared)


def test_an_unknown_system_suggests_the_nearest():
    partition = partition_elements({"system1": make_scores(0)}, theta=0.9, shared={"system1": 1})
    with pytest.raises(BadInputError, match="did you mean 'system1'"):
        partition.mask("sytem1")


def two_systems(fraction=0.5):
    systems = {"system1": make_scores(1), "system2": make_scores(2)}
    return partition_elements(systems, theta=0.9, shared={"system1": 1.0, "system2": fraction})


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_partition_survives_its_file(tmp_path, fraction):
    partition = two_systems(fraction)
    partition.save(tmp_path / "p.safetensors", {"base": "tiny@abc"})
    loaded = Partition.load(tmp_path / "p.safetensors")
    assert (loaded.theta, loaded.shared, loaded.systems) == (0.9, partition.shared, ("system1", "system2"))
    assert loaded.metadata == {"base": "tiny@abc"}
    for system in partition.systems:
        for read in ("mask", "selected"):
            ours, theirs = getattr(partition, read)(system), getattr(loaded, read)(system)
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_file_takes_one_bit_a_system_and_element(tmp_path):
    from safetensors import safe_open

    scores = {A: torch.rand(8, 4096), B: torch.rand(4096, 8)}
    partition = partition_elements({"s": scores, "t": scores}, theta=0.9, shared={"s": 1, "t": 1})
    partition.save(tmp_path / "p.safetensors", {})
    with safe_open(tmp_path / "p.safetensors", framework="np") as opened:
        assert sum(opened.get_tensor(key).nbytes for key in opened.keys()) == 2 * 2 * 8 * 4096 / 8  # noqa: SIM118
        assert json.loads(opened.metadata()["lorapar.partition"])["theta"] == 0.9


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, message in [("other", "holds no partition"), ("missing", "cannot read")]:
        with pytest.raises(BadInputError, match=message):
            Partition.load(tmp_path / f"{name}.safetensors")


def test_counts_by_layer_and_module_add_up():
    partition = two_systems()
    rows = partition.counts_by_layer_and_module()
    assert [(row.layer, row.module, row.total) for row in rows] == [
        (0, "q_proj", 18),
        (2, "up_proj", 6),
        (10, "up_proj", 14),
    ]
    sizes = partition.sizes()
    for system in partition.systems:
        assert sum(row.exclusive[system] for row in rows) == sizes[system].exclusive
        assert sum(row.shared for row in rows) == sizes[system].shared
    chosen = partition.selected("system1")
    in_first_layer = int(chosen[A].sum() + chosen[B].sum())
    assert rows[0].exclusive["system1"] + rows[0].shared == in_first_layer


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_a_random_partition_has_the_same_sizes_and_other_elements(fraction):
    partition = two_systems(fraction)
    drawn = random_partition_like(partition, seed=0)
    assert drawn.sizes() == partition.sizes()
    assert drawn.jaccard("system1", "system2") == partition.jaccard("system1", "system2")
    assert elements(drawn.mask("system1")) != elements(partition.mask("system1"))
    assert elements(drawn.mask("system2")) <= elements(drawn.selected("system2"))
    assert elements(random_partition_like(partition, 0).mask("system1")) == elements(drawn.mask("system1"))
    assert elements(random_partition_like(partition, 1).mask("system1")) != elements(drawn.mask("system1"))


def test_every_element_is_drawn_equally_often():
    partition = two_systems()
    share = partition.sizes()["system1"].active_fraction
    draws = torch.stack([random_partition_like(partition, s).mask("system1")[UP].flatten() for s in range(400)])
    assert (draws.float().mean(0) - share).abs().max() < 5 * (share * (1 - share) / 400) ** 0.5


def test_a_sweep_agrees_with_the_partition_at_each_theta():
    systems = {"system1": make_scores(1), "system2": make_scores(2, ties=True), "third": make_scores(3)}
    fractions = {"system1": 1.0, "system2": 0.5, "third": 0.0}
    rows = sweep(systems, [0.3, 0.9, 1.0], shared=fractions)
    assert [row.theta for row in rows] == [0.3, 0.9, 1.0]
    for row in rows:
        partition = partition_elements(systems, theta=row.theta, shared=fractions)
        for system, sizes in partition.sizes().items():
            assert (row.selected[system], row.exclusive[system]) == (sizes.selected, sizes.exclusive)
            assert (row.active[system], row.shared[system]) == (sizes.active, sizes.shared)
            assert row.active_fraction(system) == sizes.active_fraction
        assert row.jaccard["system1", "third"] == partition.jaccard("system1", "third")
    with pytest.raises(BadInputError, match="theta is 0"):
        sweep(systems, [0.5, 0])
