"""evaluate as a Kubeflow component: held-out and benchmark scores of base, after SFT, after RL and the incumbent."""

from kfp.dsl import ContainerSpec, Markdown, Metrics, Output, OutputPath, container_component

from components.task import task


@container_component
def evaluate(
    settings: str,
    store: str,
    heldout_digest: str,
    after_sft_digest: str,
    published_digest: str,
    incumbent_digest: str,
    summary: Output[Markdown],
    metrics: Output[Metrics],
    evaluation_digest: OutputPath(str),
) -> ContainerSpec:
    """Held-out and benchmark scores of base, after SFT, after RL and the incumbent; code in answers is run."""
    return task("evaluate")
