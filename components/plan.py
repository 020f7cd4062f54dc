"""plan as a Kubeflow component: check everything in the first minute, give each task its settings, read the rows."""

from kfp.dsl import ContainerSpec, Dataset, Markdown, Metrics, Output, OutputPath, container_component

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
    gpu_pool: dict,
    parallelism: int,
    run: str,
    vote_accelerators: str,
    examples: Output[Dataset],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    examples_digest: OutputPath(str),
    vote_first_lanes: OutputPath(list),
    vote_rest_settings: OutputPath(str),
    vote_rest_accelerators: OutputPath(str),
    vote_pool: OutputPath(dict),
    changed: OutputPath(bool),
    init_settings: OutputPath(str),
    score_system1_settings: OutputPath(str),
    score_system2_settings: OutputPath(str),
    partition_settings: OutputPath(str),
    sft_settings: OutputPath(str),
    rl_settings: OutputPath(str),
    publish_settings: OutputPath(str),
    evaluate_settings: OutputPath(str),
    gate_settings: OutputPath(str),
) -> ContainerSpec:
    """Validate parameters and settings, resolve model and data, give each task its settings, and read the rows."""
    return task("plan", store)
