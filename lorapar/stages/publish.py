"""publish: the trained adapter as a plain PEFT folder for the unmodified base model, proved, with card and lineage.

It is published into its output folder. It makes the same bytes from the same inputs, so a run may reuse
it; versions and aliases in an object store are a registry's and come with it.
"""

from __future__ import annotations

from lorapar import __version__
from lorapar.config import AdapterConfig, ModelConfig, PartitionConfig
from lorapar.records import Example, read_records, sample_rows
from lorapar.stages.code import code_digest
from lorapar.stages.contract import Metrics, StageCall, StageSettings, StageSpec

QUESTIONS = 4
"""Held-out questions that the published adapter is compared with the trained one on."""
_STAGES = ("init", "score", "partition", "sft", "rl", "publish")


class Settings(StageSettings):
    """The adapter's name, its base, and settings that its lineage tells."""

    name: str
    model: ModelConfig
    adapter: AdapterConfig
    partition: PartitionConfig
    seed: int


SPEC = StageSpec(
    name="publish",
    summary="publish the trained adapter as a plain PEFT folder, with card and lineage",
    settings=Settings,
    inputs=("adapter", "examples", "labels", "partition"),
    many=("votes",),
    outputs=("adapter",),
)


def run(call: StageCall[Settings]) -> Metrics:
    """Write adapter_config.json, adapter_model.safetensors, README.md and lineage.json."""
    from lorapar.registry import Origins, Publication, publish_local

    settings = call.settings
    publication = Publication(
        name=settings.name,
        model=settings.model,
        origins=Origins(
            adapter=call.input("adapter"),
            examples=call.input("examples"),
            votes=call.inputs["votes"],
            labels=call.input("labels"),
            partition=call.input("partition"),
        ),
        settings=settings.model_dump(mode="json", include={"adapter", "partition", "seed"}),
        code={"version": __version__, "stages": {name: code_digest(f"lorapar.stages.{name}") for name in _STAGES}},
    )
    lineage = publish_local(publication, call.output("adapter"), call.scratch, _questions(call), call.progress)
    found = lineage.verification
    return {
        "rank": float(lineage.serving["rank"]),
        "max_logit_difference": found.max_logit_difference,
        "mean_kl": found.mean_kl,
        "equal_greedy_share": found.equal_greedy_texts / found.prompts,
        "max_change_of_base": found.max_change_of_base,
    }


def _questions(call: StageCall[Settings]) -> list[str]:
    """Held-out rows where there are any: the model has not learnt their answers by heart."""
    rows = list(read_records(call.input("examples") / "examples.jsonl", Example))
    heldout = [row for row in rows if row.split == "heldout"]
    return [row.question for row in sample_rows(heldout or rows, QUESTIONS, call.settings.seed)]
