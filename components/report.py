"""report as a Kubeflow component: the exit task, which finds what the run made in the store."""

from kfp.dsl import HTML, ContainerSpec, Markdown, Output, PipelineTaskFinalStatus, container_component

from components.task import task


@container_component
def report(
    store: str,
    run: str,
    webhook: str,
    status: PipelineTaskFinalStatus,
    page: Output[HTML],
    summary: Output[Markdown],
) -> ContainerSpec:
    """Write the report, the figures and a one-page summary, whether the run succeeded or failed."""
    return task("report")
