"""partition as a Kubeflow component: decide which elements SFT and RL may train."""

from kfp.dsl import ContainerSpec, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def partition(
    settings: str,
    store: str,
    scores_system1_digest: str,
    scores_system2_digest: str,
    metrics: Output[Metrics],
    partition_digest: OutputPath(str),
    sft_digest: OutputPath(str),
) -> ContainerSpec:
    """Decide which elements SFT and RL may train."""
    return task("partition")
