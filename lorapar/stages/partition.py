"""partition: from the scores of all systems, decide which elements each stage of training may touch.

summary.json, where a share is of all trainable elements of the adapter unless it says otherwise:

theta, alpha, beta, choose          the settings; with a budget theta is the share that the smaller set reaches
mask                                where it is not `both`, the setting
elements                            trainable elements of the adapter
system1_elements, system2_elements  elements in each system's set (its own and the shared ones)
system1_active_fraction, ...        the same as a share: what the paper's table 3 calls active
system1_only_elements, system2_only_elements, shared_elements, unused_elements     the four regions
system1_only_fraction, system2_only_fraction, shared_fraction, unused_fraction     the same as shares
system1_only_share_of_set, ...      a system's own region as a share of its set, as in the paper's region table
sft_active_fraction, rl_active_fraction    what each training stage may really move, after alpha and beta
jaccard                             shared elements over those of either set
regions                             counts by layer and module: layer, module, total, system1_only, system2_only, shared
scatter                             about 3,000 elements: their scores for both systems and their region, as columns
theta_curve                         active fractions, region shares and Jaccard for other values of theta, as columns
whole                               true where the adapter is of a kind that is not divided: every set is all of it,
                                    and there is neither scatter nor theta_curve
jaccards                            of named systems, instead of `jaccard`, one for each two of them, as `one/other`
provenance                          base model, adapter and rows the scores were made from

The output `sft` holds partition.safetensors of the systems that the node `sft` trains, and nothing of the others: so
runs that agree on these share their SFT, whatever RL trains.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from lorapar.config import SYSTEMS, PartitionConfig
from lorapar.config.adapter import Choice
from lorapar.config.base import unless_default
from lorapar.errors import BadInputError
from lorapar.records import read_json, write_json
from lorapar.stages.contract import WHOLE_FILE, Metrics, StageCall, StageSettings, StageSpec

if TYPE_CHECKING:
    import torch

    from lorapar.adapter import Partition

    Scores = dict[str, dict[str, torch.Tensor]]

SCATTER_ELEMENTS = 3000
_FILE = "partition.safetensors"
THETAS = (
    *(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75),
    *(0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0),
)
"""The curve's values; the steep end is drawn more finely."""


class Settings(StageSettings):
    """How much importance each system keeps, and how much of the shared region each may train."""

    partition: PartitionConfig
    seed: int
    system_names: tuple[str, ...] = SYSTEMS
    shared_fractions: dict[str, float] | None = None
    """By named system, the share of its shared elements that it trains; None: alpha and beta say it of the two."""
    choices: dict[str, Choice] | None = None
    """By system, how its elements are chosen; None: `partition.choose` says it of all."""
    sft_systems: tuple[str, ...] = SYSTEMS[:1]
    """The systems that the node `sft` trains."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(self, handler(self), "choices", "sft_systems")

    @property
    def chosen(self) -> dict[str, Choice]:
        """How each system's elements are chosen."""
        by_method = self.partition.choices
        if self.choices is not None:
            return self.choices
        if by_method["sft"] == by_method["rl"]:
            return dict.fromkeys(self.system_names, by_method["sft"])
        return dict(zip(SYSTEMS, (by_method["sft"], by_method["rl"]), strict=True))

    @property
    def fractions(self) -> dict[str, float]:
        """The share of its shared elements that each system trains."""
        if self.shared_fractions is None:
            return dict(zip(SYSTEMS, (self.partition.alpha, self.partition.beta), strict=True))
        return {system: self.shared_fractions[system] for system in self.system_names}


SPEC = StageSpec(
    name="partition",
    summary="decide which elements SFT and RL may train",
    settings=Settings,
    many=("scores",),
    outputs=("partition", "sft"),
    may_lack=("sft",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write partition.safetensors and summary.json; the metrics are the summary's single figures."""
    config = call.settings.partition
    names, shared = call.settings.system_names, call.settings.fractions
    if (shapes := _whole(call.inputs["scores"])) is not None:
        return _undivided(call, shapes)
    scores, provenance = _read_scores(call.inputs["scores"], names)
    partition = _made(call, scores, shared)
    partition.save(call.output("partition") / _FILE, _flat(provenance))
    _keep_for_sft(call, partition)
    metrics = _metrics(partition, config) if names == SYSTEMS else _named_metrics(partition, config)
    if config.budget is not None:
        metrics["theta"] = _reached(scores, partition)
    summary = {
        **metrics,
        "choose": config.choose if isinstance(config.choose, str) else call.settings.chosen,
        **({"mask": config.mask} if config.mask != "both" else {}),
        "regions": _regions(partition),
        "scatter": _scatter(scores, partition),
        **({} if names == SYSTEMS else {"systems": names, "jaccards": _jaccards(partition)}),
        "theta_curve": _theta_curve(scores, shared),
        "provenance": provenance,
    }
    write_json(call.output("partition") / "summary.json", summary)
    return {name: float(value) for name, value in metrics.items()}


def _keep_for_sft(call: StageCall[Settings], partition: Partition) -> None:
    """What SFT trains, and nothing that only RL reads; a call that wants no such output gets none."""
    from lorapar.adapter import only

    if "sft" in call.outputs:
        only(partition, call.settings.sft_systems).save(call.output("sft") / _FILE, {})


def _whole(folders: tuple[Path, ...]) -> dict[str, list[int]] | None:
    """Shapes of the tensors of an adapter that is not divided; None where there are scores."""
    path = folders[0] / WHOLE_FILE
    return read_json(path)["shapes"] if path.is_file() else None


def _undivided(call: StageCall[Settings], shapes: dict[str, list[int]]) -> Metrics:
    """The partition of an adapter that every phase trains as a whole."""
    from lorapar.adapter import whole_partition

    names, config = call.settings.system_names, call.settings.partition.model_copy(update={"theta": 1.0})
    partition = whole_partition(shapes, names)
    partition.save(call.output("partition") / _FILE, {})
    _keep_for_sft(call, partition)
    metrics = _metrics(partition, config) if names == SYSTEMS else _named_metrics(partition, config)
    named = {} if names == SYSTEMS else {"systems": names, "jaccards": _jaccards(partition)}
    summary = {**metrics, "whole": True, "regions": _regions(partition), **named}
    write_json(call.output("partition") / "summary.json", summary)
    return {name: float(value) for name, value in metrics.items()}


def _made(call: StageCall[Settings], scores: Scores, shared: dict[str, float]) -> Partition:
    """The sets by importance, as many elements chosen in another way, and without the mask where a stage has none."""
    from lorapar.adapter import combined, partition_elements, unmasked

    config = call.settings.partition
    names = call.settings.system_names
    counts = None if config.budget is None else dict.fromkeys(names, config.budget)
    best = partition_elements(scores, theta=config.theta, shared=shared, counts=counts)
    chosen = call.settings.chosen
    made = {choice: _chosen(call, best, choice, shared) for choice in dict.fromkeys(chosen.values())}
    partition = combined({system: made[chosen[system]] for system in names})
    stages = dict(zip(("sft", "rl"), names[:2], strict=True))
    bare = [system for stage, system in stages.items() if config.mask not in ("both", stage)]
    return unmasked(partition, bare) if bare else partition


def _chosen(call: StageCall[Settings], best: Partition, choice: Choice, shared: dict[str, float]) -> Partition:
    """As many elements as by importance (`best`), chosen in this way."""
    from lorapar.adapter import partition_elements, random_partition_like

    if choice == "importance":
        return best
    if choice == "random":
        return random_partition_like(best, call.settings.seed)
    others, _ = _read_scores(call.inputs["scores"], call.settings.system_names, choice)
    counts = {system: sizes.selected for system, sizes in best.sizes().items()}
    return partition_elements(others, theta=call.settings.partition.theta, shared=shared, counts=counts)


def compared(before: Path, after: Path) -> dict[str, dict[str, float]]:
    """By system, how alike two partitions of one adapter are: the ranks of their scores (Spearman), and their sets."""
    from lorapar.adapter import Partition
    from lorapar.evaluation.intervals import rank_correlation

    scatter = [read_json(folder / "summary.json")["scatter"] for folder in (before, after)]
    first, second = (Partition.load(folder / _FILE) for folder in (before, after))
    jaccard = {}
    for system in SYSTEMS:
        one, other = first.selected(system), second.selected(system)
        both = sum(int((one[name] & other[name]).sum()) for name in one)
        jaccard[system] = both / sum(int((one[name] | other[name]).sum()) for name in one)
    ranks = {system: rank_correlation(*(one[system] for one in scatter)) for system in SYSTEMS}
    return {"rank_correlation": ranks, "jaccard": jaccard}


def _reached(scores: Scores, partition: Partition) -> float:
    """The share of its total score that each system's set reaches; the smaller of the two."""
    shares = []
    for system, tensors in scores.items():
        chosen = partition.selected(system)
        kept = sum(float(tensor[chosen[name]].double().sum()) for name, tensor in tensors.items())
        shares.append(kept / sum(float(tensor.double().sum()) for tensor in tensors.values()))
    return min(shares)


def _read_scores(
    folders: tuple[Path, ...], names: tuple[str, ...], measure: str = "scores"
) -> tuple[Scores, dict[str, dict[str, str]]]:
    """Scores and their provenance by system, in the order of the names; all must come from one adapter on one base."""
    from lorapar.adapter import load_scores

    found: dict[str, Any] = {}
    for folder in [one for given in folders for one in (given, *(given / name for name in names)) if one.is_dir()]:
        path = folder / f"{measure}.safetensors"
        if measure != "scores" and not path.is_file():
            raise BadInputError(f"{path}: partition.choose is {measure}, but score.also did not name it; score again")
        scores, metadata = load_scores(path)
        system = metadata.get("system", "unnamed")
        if system not in names or system in found:
            raise BadInputError(
                f"{folder}: scores of '{system}', but one folder is needed for each of {', '.join(names)}"
            )
        found[system] = (scores, metadata)
    missing = [system for system in names if system not in found]
    if missing:
        raise BadInputError(f"there are no scores of {missing[0]}; run the stage score for it")
    provenance = {system: found[system][1] for system in names}
    if measure == "scores":
        _check_same_adapter(provenance)
    return {system: found[system][0] for system in names}, provenance


def _check_same_adapter(provenance: dict[str, dict[str, str]]) -> None:
    first, *others = provenance
    for other in others:
        for key in ("model_digest", "adapter_digest"):
            if provenance[first].get(key) != provenance[other].get(key):
                raise BadInputError(
                    f"the scores of {first} and {other} differ in {key}: they were made with different adapters "
                    "or base models; score both systems again"
                )


def _flat(provenance: dict[str, dict[str, str]]) -> dict[str, str]:
    return {f"{system}.{key}": value for system, entries in provenance.items() for key, value in entries.items()}


def _metrics(partition: Partition, config: PartitionConfig) -> dict[str, float]:
    one, two = (partition.sizes()[system] for system in SYSTEMS)
    total = one.total
    regions = {"system1_only": one.exclusive, "system2_only": two.exclusive, "shared": one.shared}
    regions["unused"] = total - sum(regions.values())
    return {
        "theta": config.theta,
        "alpha": config.alpha,
        "beta": config.beta,
        "elements": total,
        "system1_elements": one.selected,
        "system2_elements": two.selected,
        "system1_active_fraction": one.selected / total,
        "system2_active_fraction": two.selected / total,
        **{f"{region}_elements": count for region, count in regions.items()},
        **{f"{region}_fraction": count / total for region, count in regions.items()},
        "system1_only_share_of_set": one.exclusive / one.selected,
        "system2_only_share_of_set": two.exclusive / two.selected,
        "sft_active_fraction": one.active / total,
        "rl_active_fraction": two.active / total,
        "jaccard": partition.jaccard(*SYSTEMS),
    }


def _named_metrics(partition: Partition, config: PartitionConfig) -> dict[str, float]:
    """The same of named systems: by name, its set, what only it selected, and what its phases train."""
    sizes = partition.sizes()
    total = next(iter(sizes.values())).total
    regions = {f"{system}_only": own.exclusive for system, own in sizes.items()}
    regions["shared"] = sum(row.shared for row in partition.counts_by_layer_and_module())
    regions["unused"] = total - sum(regions.values())
    metrics: dict[str, float] = {"theta": config.theta, "elements": total}
    for system, own in sizes.items():
        metrics |= {
            f"{system}_elements": own.selected,
            f"{system}_active_fraction": own.selected / total,
            f"{system}_trained_fraction": own.active_fraction,
            f"{system}_only_share_of_set": own.exclusive / own.selected,
        }
    metrics |= {f"{region}_elements": count for region, count in regions.items()}
    return metrics | {f"{region}_fraction": count / total for region, count in regions.items()}


def _jaccards(partition: Partition) -> dict[str, float]:
    """By each two systems, as `one/other`, how much their sets have in common."""
    return {f"{one}/{other}": partition.jaccard(one, other) for one, other in combinations(partition.systems, 2)}


def _regions(partition: Partition) -> list[dict[str, Any]]:
    return [
        {
            "layer": row.layer,
            "module": row.module,
            "total": row.total,
            **{f"{system}_only": row.exclusive[system] for system in partition.systems},
            "shared": row.shared,
        }
        for row in partition.counts_by_layer_and_module()
    ]


def _scatter(scores: Scores, partition: Partition) -> dict[str, list[Any]]:
    """An even draw over all elements, so that a region's share of the points is its share of the elements."""
    import numpy as np

    def flat(tensors: dict[str, torch.Tensor]) -> Any:
        return np.concatenate([tensors[name].numpy().reshape(-1) for name in sorted(tensors)])

    systems = partition.systems
    values = {system: flat(scores[system]) for system in systems}
    chosen = {system: flat(partition.selected(system)) for system in systems}
    count = values[systems[0]].size
    drawn = np.sort(np.random.default_rng(0).choice(count, min(count, SCATTER_ELEMENTS), replace=False))
    takers = sum(chosen[system][drawn].astype(int) for system in systems)
    only = sum(place * chosen[system][drawn].astype(int) for place, system in enumerate(systems))
    names = [f"{system}_only" for system in systems]
    return {
        **{system: [float(f"{value:.5g}") for value in values[system][drawn]] for system in systems},
        "region": [
            "unused" if not number else "shared" if number > 1 else names[place]
            for number, place in zip(takers, only, strict=True)
        ],
    }


def _theta_curve(scores: Scores, shared: dict[str, float]) -> dict[str, list[float]]:
    from lorapar.adapter import sweep

    rows = sweep(scores, THETAS, shared=shared)
    curve = {
        "theta": [row.theta for row in rows],
        **{f"{system}_active_fraction": [row.selected[system] / row.total for row in rows] for system in shared},
        **{f"{system}_only_fraction": [row.exclusive[system] / row.total for row in rows] for system in shared},
    }
    if tuple(shared) == SYSTEMS:
        curve["shared_fraction"] = [row.shared[SYSTEMS[0]] / row.total for row in rows]
        curve["jaccard"] = [row.jaccard[(SYSTEMS[0], SYSTEMS[1])] for row in rows]
    return curve
