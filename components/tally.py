"""tally as a Kubeflow component: turn votes into labels and deal the rows to their systems."""

from kfp.dsl import (
    ClassificationMetrics,
    ContainerSpec,
    Dataset,
    Input,
    Metrics,
    Output,
    OutputPath,
    container_component,
)

from components.task import task


@container_component
def tally(
    settings: str,
    store: str,
    examples: Input[Dataset],
    examples_digest: str,
    votes_first: Input[list[Dataset]],
    votes_first_digests: list,
    labels: Output[Dataset],
    undecided: Output[Dataset],
    system1: Output[Dataset],
    system2: Output[Dataset],
    heldout: Output[Dataset],
    confusion: Output[ClassificationMetrics],
    metrics: Output[Metrics],
    labels_digest: OutputPath(str),
    undecided_digest: OutputPath(str),
    system1_digest: OutputPath(str),
    system2_digest: OutputPath(str),
    heldout_digest: OutputPath(str),
    digest: OutputPath(str),
    votes_rest: Input[list[Dataset]] = None,
    votes_rest_digests: list = None,
) -> ContainerSpec:
    """Turn votes into labels and deal the rows to their systems."""
    return task("tally", store)
