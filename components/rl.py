"""rl as a Kubeflow component: tune System 2's elements by GRPO on System 2's rows."""

from kfp.dsl import ContainerSpec, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def rl(
    settings: str,
    store: str,
    adapter_digest: str,
    partition_digest: str,
    system1_digest: str,
    system2_digest: str,
    metrics: Output[Metrics],
    rl_adapter_digest: OutputPath(str),
) -> ContainerSpec:
    """Tune System 2's elements by GRPO on System 2's rows."""
    return task("rl")
