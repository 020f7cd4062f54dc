"""publish as a Kubeflow component: publish the trained adapter as a version in the registry."""

from kfp.dsl import Artifact, ContainerSpec, Dataset, Input, Metrics, Model, Output, OutputPath, container_component

from components.task import task


@container_component
def publish(
    settings: str,
    store: str,
    adapter: Input[Model],
    adapter_digest: str,
    examples: Input[Dataset],
    examples_digest: str,
    labels: Input[Dataset],
    labels_digest: str,
    partition: Input[Artifact],
    partition_digest: str,
    votes_first: Input[list[Dataset]],
    votes_first_digests: list,
    votes_rest: Input[list[Dataset]],
    votes_rest_digests: list,
    publish_adapter: Output[Model],
    version: Output[Artifact],
    incumbent: Output[Model],
    metrics: Output[Metrics],
    publish_adapter_digest: OutputPath(str),
    version_digest: OutputPath(str),
    incumbent_digest: OutputPath(str),
    digest: OutputPath(str),
) -> ContainerSpec:
    """Publish the trained adapter as a version in the registry."""
    return task("publish", store)
