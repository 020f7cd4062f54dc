"""evaluate as a Kubeflow component: held-out scores of base, after SFT and after RL."""

from kfp.dsl import (
    Artifact,
    ContainerSpec,
    Dataset,
    Input,
    Markdown,
    Metrics,
    Model,
    Output,
    OutputPath,
    container_component,
)

from components.task import task


@container_component
def evaluate(
    settings: str,
    store: str,
    heldout: Input[Dataset],
    heldout_digest: str,
    after_sft: Input[Model],
    after_sft_digest: str,
    published: Input[Model],
    published_digest: str,
    incumbent: Input[Model],
    incumbent_digest: str,
    evaluation: Output[Artifact],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    digest: OutputPath(str),
) -> ContainerSpec:
    """Held-out scores of base, after SFT and after RL."""
    return task("evaluate", store)
