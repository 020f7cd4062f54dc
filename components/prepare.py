"""prepare as a Kubeflow component: read the examples, check every row and hold some out."""

from kfp.dsl import ContainerSpec, Dataset, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def prepare(
    settings: str,
    store: str,
    examples: Output[Dataset],
    metrics: Output[Metrics],
    digest: OutputPath(str),
) -> ContainerSpec:
    """Read the examples, check every row and hold some out."""
    return task("prepare", store)
