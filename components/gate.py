"""gate as a Kubeflow component: judge the published adapter against the one in production."""

from kfp.dsl import Artifact, ContainerSpec, Input, Markdown, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def gate(
    settings: str,
    store: str,
    evaluation: Input[Artifact],
    evaluation_digest: str,
    version: Input[Artifact],
    version_digest: str,
    verdict: Output[Artifact],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    digest: OutputPath(str),
    promote: OutputPath(bool),
) -> ContainerSpec:
    """Judge the published adapter against the one in production."""
    return task("gate", store)
