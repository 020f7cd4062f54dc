"""evaluate as a Kubeflow component: held-out and benchmark scores of base, after SFT, after RL and the incumbent."""

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
    """Held-out and benchmark scores of base, after SFT, after RL and the incumbent."""
    return task("evaluate", store)
