"""From two files of scores to masks and the figures a report shows."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from pydantic import ValidationError

from lorapar.adapter import Partition, load_scores, partition_elements, save_scores, trainable_slice
from lorapar.adapter.files import read_tensors
from lorapar.config import SYSTEMS, load_config
from lorapar.errors import BadInputError
from lorapar.store import seal


def made(kit, folders, out, **partition):
    metrics, out = kit.run("partition", out, {"partition": partition, "seed": 0}, {"scores": tuple(folders)})
    summary = json.loads((out / "partition" / "summary.json").read_text())
    return metrics, Partition.load(out / "partition" / "partition.safetensors"), summary


def test_the_masks_are_those_of_the_adapter_room_in_any_order_of_the_folders(kit, scores, tmp_path) -> None:
    loaded = {system: load_scores(folder / "scores.safetensors")[0] for system, folder in scores.items()}
    expected = partition_elements(loaded, theta=0.8, shared={"system1": 0.5, "system2": 0.25})
    _, partition, _ = made(kit, reversed(scores.values()), tmp_path, theta=0.8, alpha=0.5, beta=0.25)
    for system in SYSTEMS:
        for name, mask in expected.mask(system).items():
            assert torch.equal(partition.mask(system)[name], mask)
    assert partition.metadata["system1.system"] == "system1"
    assert partition.metadata["system2.samples"] == "4"


def test_random_elements_are_as_many_in_each_region_and_others_with_another_seed(kit, scores, tmp_path) -> None:
    def drawn(choose, seed):
        settings = {"partition": {"choose": choose, "alpha": 0.5}, "seed": seed}
        _, out = kit.run("partition", tmp_path / f"{choose}{seed}", settings, {"scores": tuple(scores.values())})
        return Partition.load(out / "partition" / "partition.safetensors")

    def elements(partition):
        return torch.cat([mask.flatten() for mask in partition.mask("system1").values()])

    best, zero, one = drawn("importance", 0), drawn("random", 0), drawn("random", 1)
    assert zero.sizes() == one.sizes() == best.sizes()
    assert torch.equal(elements(zero), elements(drawn("random", 0)))
    assert torch.equal(elements(best), elements(drawn("importance", 1)))
    assert not torch.equal(elements(zero), elements(one))
    assert not torch.equal(elements(zero), elements(best))


def chosen_of(partition, system):
    return torch.cat([mask.flatten() for mask in partition.mask(system).values()])


def test_sft_and_rl_may_choose_in_different_ways_and_sft_is_then_as_without(kit, scores, tmp_path) -> None:
    ways = {"best": "importance", "random": "random", "mixed": {"rl": "random"}, "other": {"sft": "magnitude"}}
    found = {
        name: made(kit, scores.values(), tmp_path / name, choose=choose, alpha=0.5) for name, choose in ways.items()
    }
    parts = {name: one[1] for name, one in found.items()}
    assert torch.equal(chosen_of(parts["mixed"], "system1"), chosen_of(parts["best"], "system1"))
    assert torch.equal(chosen_of(parts["mixed"], "system2"), chosen_of(parts["random"], "system2"))
    assert torch.equal(chosen_of(parts["other"], "system2"), chosen_of(parts["best"], "system2"))
    assert not torch.equal(chosen_of(parts["other"], "system1"), chosen_of(parts["best"], "system1"))
    assert {one.sizes()["system2"].active for one in parts.values()} == {parts["best"].sizes()["system2"].active}
    assert found["mixed"][2]["choose"] == {"system1": "importance", "system2": "random"}
    kept = {name: (tmp_path / name / "sft" / "partition.safetensors").read_bytes() for name in ways}
    assert kept["best"] == kept["mixed"], "so their SFT is one"
    assert kept["best"] != kept["random"]
    assert Partition.load(tmp_path / "best" / "sft" / "partition.safetensors").systems == ("system1",)


def test_what_sft_reads_does_not_depend_on_what_rl_may_train(kit, scores, tmp_path) -> None:
    kept = []
    for beta in (0.0, 1.0):
        made(kit, scores.values(), tmp_path / str(beta), beta=beta)
        kept.append((tmp_path / str(beta) / "sft" / "partition.safetensors").read_bytes())
    assert kept[0] == kept[1]


def test_an_adapter_that_is_not_divided_has_no_scores_and_every_set_is_all_of_it(kit, tmp_path) -> None:
    settings = {"model": kit.TINY, "adapter": {"kind": "ia3"}, "seed": 0}
    _, out = kit.run("init", tmp_path / "init", settings)
    scored = []
    for system in SYSTEMS:
        given = {"adapter": out / "adapter", "rows": kit.rows_folder(tmp_path / f"rows-{system}", kit.words(1))}
        settings = {"model": kit.TINY, "prompts": {}, "score": {}, "seed": 0, "system": system}
        scored.append(kit.run("score", tmp_path / system, settings, given)[1] / "scores")
    _, partition, summary = made(kit, scored, tmp_path / "partition")
    tensors, _ = read_tensors(out / "adapter" / "adapter_model.safetensors")
    assert summary["whole"]
    assert summary["theta"] == summary["jaccard"] == summary["rl_active_fraction"] == 1
    assert summary["elements"] == sum(tensor.numel() for tensor in tensors.values())
    assert {name: tuple(mask.shape) for name, mask in partition.mask("system2").items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert all(bool(mask.all()) for mask in partition.mask("system1").values())
    assert {row["module"] for row in summary["regions"]} == {"k_proj", "v_proj", "down_proj"}


def test_the_figures_add_up(kit, scores, tmp_path) -> None:
    metrics, partition, summary = made(kit, scores.values(), tmp_path, alpha=0.0, beta=0.5)
    sizes = partition.sizes()
    regions = ("system1_only", "system2_only", "shared", "unused")
    assert sum(summary[f"{region}_elements"] for region in regions) == summary["elements"]
    assert sum(summary[f"{region}_fraction"] for region in regions) == pytest.approx(1)
    assert summary["sft_active_fraction"] == pytest.approx(summary["system1_only_fraction"])
    assert summary["rl_active_fraction"] == sizes["system2"].active / summary["elements"]
    either = summary["elements"] - summary["unused_elements"]
    assert summary["jaccard"] == pytest.approx(summary["shared_elements"] / either)
    assert summary["system1_only_share_of_set"] == pytest.approx(
        summary["system1_only_elements"] / summary["system1_elements"]
    )
    assert metrics == {name: value for name, value in summary.items() if isinstance(value, int | float)}
    for region in regions[:3]:
        assert sum(row[region] for row in summary["regions"]) == summary[f"{region}_elements"]
    assert {(row["layer"], row["module"]) for row in summary["regions"]} == {
        (layer, f"{module}_proj") for layer in (0, 1) for module in ("q", "k", "v", "gate", "up", "down")
    }


def test_the_scatter_shows_real_elements_with_their_region(kit, scores, tmp_path) -> None:
    _, partition, summary = made(kit, scores.values(), tmp_path)
    scatter = summary["scatter"]
    assert len(scatter["region"]) == len(scatter["system1"]) == len(scatter["system2"]) == 3000
    for region in ("system1_only", "system2_only", "shared", "unused"):
        share = scatter["region"].count(region) / 3000
        assert share == pytest.approx(summary[f"{region}_fraction"], abs=0.03)
    # In one system's order, whatever is selected scores at least what is not.
    selected = [
        s for s, r in zip(scatter["system1"], scatter["region"], strict=True) if r in ("shared", "system1_only")
    ]
    rest = [s for s, r in zip(scatter["system1"], scatter["region"], strict=True) if r in ("unused", "system2_only")]
    assert min(selected) >= max(rest)
    assert partition.theta == 0.9


def test_the_curve_rises_with_theta_and_passes_through_the_partition(kit, scores, tmp_path) -> None:
    _, _, summary = made(kit, scores.values(), tmp_path)
    curve = summary["theta_curve"]
    assert {0.3, 0.6, 0.8, 0.9, 0.95, 1.0} <= set(curve["theta"])
    assert curve["theta"] == sorted(curve["theta"])
    for system in SYSTEMS:
        active = curve[f"{system}_active_fraction"]
        assert active == sorted(active)
        assert active[curve["theta"].index(0.9)] == summary[f"{system}_active_fraction"]
        assert active[-1] == 1.0
    assert curve["jaccard"][-1] == 1.0


def test_one_folder_a_system_from_one_adapter(kit, scores, tmp_path) -> None:
    with pytest.raises(BadInputError, match="scores of 'system1', but one folder is needed for each"):
        made(kit, [scores["system1"], scores["system1"]], tmp_path / "twice")
    with pytest.raises(BadInputError, match="there are no scores of system2; run the stage score"):
        made(kit, [scores["system1"]], tmp_path / "one")
    tensors, metadata = load_scores(scores["system2"] / "scores.safetensors")
    other = tmp_path / "other"
    save_scores(other / "scores.safetensors", tensors, {**metadata, "adapter_digest": "another"})
    seal(other, "score.scores")
    with pytest.raises(BadInputError, match="differ in adapter_digest"):
        made(kit, [scores["system1"], other], tmp_path / "mixed")


@pytest.mark.parametrize("measure", ["gradient", "magnitude"])
def test_as_many_elements_of_each_set_by_another_measure(kit, scores, tmp_path, measure) -> None:
    _, best, _ = made(kit, scores.values(), tmp_path / "best", theta=0.6)
    _, other, summary = made(kit, scores.values(), tmp_path / "other", theta=0.6, choose=measure)
    for system, folder in scores.items():
        assert other.sizes()[system].selected == best.sizes()[system].selected
        values = load_scores(folder / f"{measure}.safetensors")[0]
        chosen = other.selected(system)
        inside = torch.cat([values[name][mask] for name, mask in chosen.items()])
        outside = torch.cat([values[name][~mask] for name, mask in chosen.items()])
        assert inside.min() >= outside.max()
    assert summary["choose"] == measure


def test_the_measures_are_values_and_gradients_without_their_sign(kit, scores, adapter) -> None:
    """First-order importance is the product of the two: the score, but for its second-order part."""
    values = read_tensors(adapter / "adapter_model.safetensors")[0]
    for folder in scores.values():
        sizes, gradients, both = (
            load_scores(folder / f"{name}.safetensors")[0] for name in ("magnitude", "gradient", "scores")
        )
        for name, size in sizes.items():
            assert torch.equal(size, trainable_slice(name, values[name], 2).abs())
            torch.testing.assert_close(gradients[name] * size, both[name], rtol=0.2, atol=1e-5)


@pytest.mark.parametrize(("mask", "sft", "rl"), [("sft", False, True), ("rl", True, False), ("none", True, True)])
def test_a_stage_without_the_mask_trains_all_elements_and_the_sets_stay(kit, scores, tmp_path, mask, sft, rl) -> None:
    _, masked, _ = made(kit, scores.values(), tmp_path / "masked", beta=0.5)
    _, bare, summary = made(kit, scores.values(), tmp_path / "bare", beta=0.5, mask=mask)
    for system, whole in (("system1", sft), ("system2", rl)):
        assert bare.sizes()[system].selected == masked.sizes()[system].selected
        assert (bare.sizes()[system].active == summary["elements"]) == whole
        assert whole or elements_of(bare, system) == elements_of(masked, system)
    assert summary["mask"] == mask
    assert (summary["sft_active_fraction"] == 1, summary["rl_active_fraction"] == 1) == (sft, rl)


def elements_of(partition, system):
    return torch.cat([mask.flatten() for mask in partition.mask(system).values()]).tolist()


def test_a_budget_takes_so_many_of_the_most_important_elements(kit, scores, tmp_path) -> None:
    _, by_count, summary = made(kit, scores.values(), tmp_path / "count", budget_elements=123)
    assert {system: sizes.selected for system, sizes in by_count.sizes().items()} == {"system1": 123, "system2": 123}
    shares = []
    for folder in scores.values():
        values = load_scores(folder / "scores.safetensors")[0]
        flat = torch.cat([tensor.flatten() for tensor in values.values()]).double()
        shares.append(float(flat.sort(descending=True).values[:123].sum() / flat.sum()))
    assert summary["theta"] == pytest.approx(min(shares))
    _, by_bytes, _ = made(kit, scores.values(), tmp_path / "bytes", budget_bytes=1239)
    assert elements_of(by_bytes, "system2") == elements_of(by_count, "system2")
    _, everything, _ = made(kit, scores.values(), tmp_path / "all", budget_elements=10**9)
    assert everything.sizes()["system1"].active == summary["elements"]
    with pytest.raises(ValidationError, match="give one of the two"):
        made(kit, scores.values(), tmp_path / "two", budget_elements=1, budget_bytes=10)


def test_a_measure_that_was_not_kept_is_reported(kit, scores, tmp_path) -> None:
    with pytest.raises(BadInputError, match=r"partition.choose is gradient, which scoring keeps only where"):
        load_config(preset="tiny", overrides=["partition.choose=gradient"])
    for system, folder in scores.items():
        copy = tmp_path / system
        copy.mkdir()
        shutil.copyfile(folder / "scores.safetensors", copy / "scores.safetensors")
        seal(copy, "test.scores")
    with pytest.raises(BadInputError, match=r"gradient.safetensors: partition.choose is gradient, but score.also"):
        made(kit, [tmp_path / "system1", tmp_path / "system2"], tmp_path / "out", choose="gradient")
