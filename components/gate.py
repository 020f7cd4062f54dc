"""gate as a Kubeflow component: judge the published adapter against the one in production."""

from kfp.dsl import Artifact, ContainerSpec, Markdown, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def gate(
    settings: str,
    store: str,
    evaluation_digest: str,
    version_digest: str,
    verdict: Output[Artifact],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    better: OutputPath(bool),
    promoted: OutputPath(bool),
) -> ContainerSpec:
    """Judge the published adapter against the one in production, and move production to a better one."""
    return task("gate", store)
