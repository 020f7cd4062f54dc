"""promote as a Kubeflow component: move the alias production to a better version."""

from kfp.dsl import Artifact, ContainerSpec, Input, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def promote(
    settings: str,
    store: str,
    verdict: Input[Artifact],
    verdict_digest: str,
    version: Input[Artifact],
    version_digest: str,
    promotion: Output[Artifact],
    metrics: Output[Metrics],
    digest: OutputPath(str),
) -> ContainerSpec:
    """Move the alias production to a better version."""
    return task("promote", store)
