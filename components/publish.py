"""publish as a Kubeflow component: publish the trained adapter as a version in the registry."""

from kfp.dsl import ContainerSpec, Model, Output, OutputPath, container_component

from components.task import task


@container_component
def publish(
    settings: str,
    store: str,
    run: str,
    adapter_digest: str,
    examples_digest: str,
    labels_digest: str,
    partition_digest: str,
    votes_first_digests: list,
    votes_rest_digest: str,
    publish_adapter: Output[Model],
    publish_adapter_digest: OutputPath(str),
    version_digest: OutputPath(str),
    incumbent_digest: OutputPath(str),
) -> ContainerSpec:
    """Publish the trained adapter as a version in the registry."""
    return task("publish")
