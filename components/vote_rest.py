"""The second round of votes as a Kubeflow component: tally the first, ask about what is open, assign the rows."""

from kfp.dsl import ClassificationMetrics, ContainerSpec, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def vote_rest(
    settings: str,
    store: str,
    examples_digest: str,
    votes_first_digests: list,
    accelerators: str,
    confusion: Output[ClassificationMetrics],
    metrics: Output[Metrics],
    votes_digest: OutputPath(str),
    labels_digest: OutputPath(str),
    system1_digest: OutputPath(str),
    system2_digest: OutputPath(str),
    heldout_digest: OutputPath(str),
) -> ContainerSpec:
    """Tally the first round, ask the remaining teachers what it leaves undecided, tally both and assign the rows."""
    return task("vote")
