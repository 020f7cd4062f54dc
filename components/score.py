"""score as a Kubeflow component: score every LoRA element's importance for one system."""

from kfp.dsl import Artifact, ContainerSpec, Dataset, Input, Metrics, Model, Output, OutputPath, container_component

from components.task import task


@container_component
def score(
    settings: str,
    store: str,
    adapter: Input[Model],
    adapter_digest: str,
    rows: Input[Dataset],
    rows_digest: str,
    scores: Output[Artifact],
    metrics: Output[Metrics],
    digest: OutputPath(str),
) -> ContainerSpec:
    """Score every LoRA element's importance for one system."""
    return task("score", store)
