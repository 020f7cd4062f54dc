"""init as a Kubeflow component: attach a fresh LoRA adapter to the base model."""

from kfp.dsl import ContainerSpec, OutputPath, container_component

from components.task import task


@container_component
def init(
    settings: str,
    store: str,
    adapter_digest: OutputPath(str),
) -> ContainerSpec:
    """Attach a fresh LoRA adapter to the base model."""
    return task("init")
