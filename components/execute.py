"""execute as a Kubeflow component: score generated code in the sandbox; everything else passes through."""

from kfp.dsl import Artifact, ContainerSpec, Input, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def execute(
    settings: str,
    store: str,
    evaluation: Input[Artifact],
    evaluation_digest: str,
    execute_evaluation: Output[Artifact],
    metrics: Output[Metrics],
    digest: OutputPath(str),
) -> ContainerSpec:
    """Score generated code in the sandbox; everything else passes through."""
    return task("execute", store)
