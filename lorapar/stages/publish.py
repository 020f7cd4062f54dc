"""publish: the trained adapter as a plain PEFT folder for the unmodified base model, proved, a version in a registry.

The folder has the same bytes whenever it is made from the same inputs, so publishing again returns the version that
is there. With `publish.pick: best` it first asks the run's candidates the development rows, and picks one
(`lorapar.stages.picking`). It also looks up what the new version has to beat: the incumbent, which is fetched and
verified. Never reused: registries change.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from lorapar import __version__
from lorapar.config import (
    AdapterConfig,
    Comparison,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PartitionConfig,
    PromptConfig,
    PublishConfig,
    RegistryConfig,
    RlConfig,
    ScoreConfig,
    SftConfig,
    TeacherConfig,
    VotingConfig,
)
from lorapar.config.systems import DEFAULT_SYSTEMS, Systems
from lorapar.config.training import DEFAULT_PHASES, Phases
from lorapar.errors import BadInputError
from lorapar.own_code import code_digest
from lorapar.records import Example, read_records, sample_rows, write_json
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec

if TYPE_CHECKING:
    from lorapar.evaluation.pick import Pick
    from lorapar.registry import Figure, Publication, PublishedVersion, Registry

QUESTIONS = 4
"""Held-out questions that the published adapter is compared with the trained one on."""
_OF_A_PICK = ("publish", "evaluate", "answers")
_STAGES = ("prepare", "vote", "tally", "init", "score", "partition", "sft", "rl")


class Settings(StageSettings):
    """The adapter's name and registry, and every setting that decided what the adapter is, for its lineage."""

    name: str
    seed: int
    model: ModelConfig
    data: DataConfig
    prompts: PromptConfig
    teachers: tuple[TeacherConfig, ...]
    voting: VotingConfig
    adapter: AdapterConfig
    score: ScoreConfig
    partition: PartitionConfig
    sft: SftConfig
    rl: RlConfig
    phases: Phases = DEFAULT_PHASES
    systems: Systems = DEFAULT_SYSTEMS
    registry: RegistryConfig
    publish: PublishConfig | None = None
    """Where an adapter is picked among several; None: the last one is published, and the two below are None too."""
    evaluate: EvaluateConfig | None = None
    """How the development rows are asked."""
    answers: Comparison | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Where nothing is picked, digests and lineages are as they were before there was a choice."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or key not in _OF_A_PICK}


SPEC = StageSpec(
    name="publish",
    summary="publish the trained adapter as a version in the registry",
    settings=Settings,
    inputs=("adapter", "examples", "labels", "partition"),
    many=("votes",),
    outputs=("adapter", "version", "incumbent"),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Publish; write the PEFT folder, version.json, and incumbent.json with the incumbent's folder `adapter/`."""
    from lorapar.registry import Proof, PublishedVersion, Registry, incumbent_for, publish_adapter
    from lorapar.registry.verdicts import VERSION_FILE
    from lorapar.store import open_store
    from lorapar.store.file_system import copy_files

    settings = call.settings
    if settings.registry.address is None:
        raise BadInputError("registry.address is not set; give s3://BUCKET/PREFIX or a folder")
    registry = Registry(open_store(settings.registry.address))
    shown_in = call.origin.tracking.ids if call.origin.tracking else {}
    adapter, pick, recalled = call.input("adapter"), None, 0
    if settings.publish is not None:
        from lorapar.stages.picking import picked

        adapter, pick, recalled = picked(call, settings.publish)
    proof = Proof(_questions(call), call.progress, call.origin.run, call.origin.images, shown_in)
    published = publish_adapter(_publication(call, adapter, pick), registry, call.scratch, proof)
    copy_files(call.scratch / "package", call.output("adapter"))
    incumbent = incumbent_for(registry, settings.name, published.version.number)
    _fetch_incumbent(call, registry, incumbent.version if incumbent else None)
    version = PublishedVersion(
        registry=registry.address,
        name=settings.name,
        version=published.version.number,
        digest=published.version.digest,
        incumbent=incumbent,
        verification=published.verification,
    )
    write_json(call.output("version") / VERSION_FILE, version.model_dump(mode="json"))
    call.progress.log(f"published as {version.reference}")
    pick_metrics = {} if pick is None else {"picked_step": float(pick.step), "candidates": float(len(pick.tried))}
    pick_metrics |= {"recalled": float(recalled)} if recalled else {}
    pick_metrics |= {"proof_recalled": 1.0} if published.recalled else {}
    rank = published.lineage.serving["rank"]
    ranked = {} if rank is None else {"rank": float(rank)}
    return {"version": float(version.version), **ranked, **_measured(version), **pick_metrics}


def _publication(call: StageCall[Settings], adapter: Path, pick: Pick | None) -> Publication:
    from lorapar.registry import Origins, Publication

    return Publication(
        name=call.settings.name,
        model=call.settings.model,
        origins=Origins(
            adapter=adapter,
            examples=call.input("examples"),
            votes=call.inputs["votes"],
            labels=call.input("labels"),
            partition=call.input("partition"),
        ),
        settings=_settings(call.settings),
        code={"version": __version__, "stages": {name: code_digest(f"lorapar.stages.{name}") for name in _STAGES}},
        figures=_figures(call),
        picked=None if pick is None else pick.document(),
    )


def _settings(settings: Settings) -> dict[str, Any]:
    """What decided what the adapter is; where its registry, or that of the one it goes on from, lies did not."""
    values = settings.model_dump(mode="json", exclude={"registry"})
    if settings.systems == DEFAULT_SYSTEMS:
        del values["systems"]  # so lineages stay as they were
    if settings.model.adapter_source is not None:
        values["model"]["adapter_source"]["registry"] = None
    return values


def _figures(call: StageCall[Settings]) -> dict[str, Figure]:
    """Plots for the model card, from the history of RL and the partition's summary."""
    from lorapar.registry import Figure
    from lorapar.report.elements import card_plots

    plots = card_plots(rl=call.input("adapter"), partition=call.input("partition"))
    return {f"figures/{name}.svg": Figure(caption, svg) for name, (caption, svg) in plots.items()}


def _fetch_incumbent(call: StageCall[Settings], registry: Registry, version: int | None) -> None:
    """incumbent.json, and the incumbent's files where there is one; the bytes do not depend on where it came from."""
    from lorapar.registry import refuse_other_base

    folder = call.output("incumbent")
    if version is None:
        write_json(folder / "incumbent.json", {"version": None, "digest": None})
        return
    reference = f"{call.settings.name}@{version}"
    refuse_other_base(registry, registry.resolve(reference), call.settings.model, call.input("adapter"))
    found = registry.pull(reference, folder / "adapter")
    write_json(folder / "incumbent.json", {"version": found.number, "digest": found.digest})


def _measured(version: PublishedVersion) -> Metrics:
    found = version.verification
    on_full_base = {key: float(found[key]) for key in ("full_base_mean_kl",) if key in found}
    return {
        "max_logit_difference": float(found["max_logit_difference"]),
        "mean_kl": float(found["mean_kl"]),
        "equal_greedy_share": found["equal_greedy_texts"] / found["prompts"],
        "max_change_of_base": float(found["max_change_of_base"]),
        **on_full_base,
    }


def _questions(call: StageCall[Settings]) -> list[str]:
    """Held-out rows where there are any: the model has not learnt their answers by heart."""
    rows = list(read_records(call.input("examples") / "examples.jsonl", Example))
    heldout = [row for row in rows if row.split == "heldout"]
    return [row.question for row in sample_rows(heldout or rows, QUESTIONS, call.settings.seed)]
