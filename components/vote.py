"""vote as a Kubeflow component: ask the teachers of a round which system each row needs."""

from kfp.dsl import ContainerSpec, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def vote(
    settings: str,
    store: str,
    examples_digest: str,
    accelerators: str,
    metrics: Output[Metrics],
    votes_digest: OutputPath(str),
) -> ContainerSpec:
    """Ask the teachers of a round which system each row needs."""
    return task("vote")
