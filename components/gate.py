"""gate as a Kubeflow component: judge the published adapter against the one in production."""

from kfp.dsl import ContainerSpec, Markdown, Metrics, Output, container_component

from components.task import task


@container_component
def gate(
    settings: str,
    store: str,
    run: str,
    evaluation_digest: str,
    version_digest: str,
    summary: Output[Markdown],
    metrics: Output[Metrics],
) -> ContainerSpec:
    """Judge the published adapter against the one in production, and move production to a better one."""
    return task("gate")
