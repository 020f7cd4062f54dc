"""init as a Kubeflow component: attach a fresh LoRA adapter to the base model."""

from kfp.dsl import ContainerSpec, Metrics, Model, Output, OutputPath, container_component

from components.task import task


@container_component
def init(
    settings: str,
    store: str,
    adapter: Output[Model],
    metrics: Output[Metrics],
    adapter_digest: OutputPath(str),
) -> ContainerSpec:
    """Attach a fresh LoRA adapter to the base model."""
    return task("init", store)
