"""rl as a Kubeflow component: tune System 2's elements by GRPO on System 2's rows."""

from kfp.dsl import Artifact, ContainerSpec, Dataset, Input, Metrics, Model, Output, OutputPath, container_component

from components.task import task


@container_component
def rl(
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
    rl_adapter: Output[Model],
    metrics: Output[Metrics],
    digest: OutputPath(str),
) -> ContainerSpec:
    """Tune System 2's elements by GRPO on System 2's rows."""
    return task("rl", store)
