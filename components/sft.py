"""sft as a Kubeflow component: tune System 1's elements on System 1's rows."""

from kfp.dsl import Artifact, ContainerSpec, Dataset, Input, Metrics, Model, Output, OutputPath, container_component

from components.task import task


@container_component
def sft(
    settings: str,
    store: str,
    adapter: Input[Model],
    adapter_digest: str,
    partition: Input[Artifact],
    partition_digest: str,
    system1: Input[Dataset],
    system1_digest: str,
    system2: Input[Dataset],
    system2_digest: str,
    sft_adapter: Output[Model],
    metrics: Output[Metrics],
    digest: OutputPath(str),
) -> ContainerSpec:
    """Tune System 1's elements on System 1's rows."""
    return task("sft", store)
