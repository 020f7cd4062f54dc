"""plan as a Kubeflow component: check everything in the first minute, give each task its settings, read the rows."""

from kfp.dsl import ContainerSpec, Markdown, Output, OutputPath, container_component

from components.task import task


@container_component
def plan(
    config: str,
    overrides: str,
    base_model: str,
    dataset: str,
    teachers: str,
    theta: str,
    alpha: str,
    beta: str,
    adapter_name: str,
    registry: str,
    promote: bool,
    store: str,
    webhook: str,
    gpu_pool: dict,
    parallelism: int,
    run: str,
    vote_accelerators: str,
    accelerators: dict,
    summary: Output[Markdown],
    examples_digest: OutputPath(str),
    settings: OutputPath(str),
    vote_first_lanes: OutputPath(list),
    vote_rest_accelerators: OutputPath(str),
    vote_pool: OutputPath(dict),
    changed: OutputPath(bool),
) -> ContainerSpec:
    """Validate parameters and settings, resolve model and data, give each task its settings, and read the rows."""
    return task("plan")
