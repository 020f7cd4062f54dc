"""sft as a Kubeflow component: tune System 1's elements on System 1's rows."""

from kfp.dsl import ContainerSpec, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def sft(
    settings: str,
    store: str,
    adapter_digest: str,
    partition_digest: str,
    system1_digest: str,
    system2_digest: str,
    metrics: Output[Metrics],
    sft_adapter_digest: OutputPath(str),
) -> ContainerSpec:
    """Tune System 1's elements on System 1's rows."""
    return task("sft")
