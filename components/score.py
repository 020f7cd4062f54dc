"""score as a Kubeflow component: score every LoRA element's importance for one system."""

from kfp.dsl import ContainerSpec, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def score(
    settings: str,
    store: str,
    adapter_digest: str,
    rows_digest: str,
    metrics: Output[Metrics],
    scores_digest: OutputPath(str),
) -> ContainerSpec:
    """Score every LoRA element's importance for one system."""
    return task("score")
