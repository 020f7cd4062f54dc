"""plan as a Kubeflow component: check everything in the first minute, hand each stage its own settings."""

from kfp.dsl import Artifact, ContainerSpec, Markdown, Metrics, Output, OutputPath, container_component

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
    plan: Output[Artifact],
    summary: Output[Markdown],
    metrics: Output[Metrics],
    digest: OutputPath(str),
    prepare_settings: OutputPath(str),
    vote_first_settings: OutputPath(list),
    tally_first_settings: OutputPath(str),
    vote_rest_settings: OutputPath(list),
    tally_settings: OutputPath(str),
    init_settings: OutputPath(str),
    score_system1_settings: OutputPath(str),
    score_system2_settings: OutputPath(str),
    partition_settings: OutputPath(str),
    sft_settings: OutputPath(str),
    rl_settings: OutputPath(str),
    publish_settings: OutputPath(str),
    evaluate_settings: OutputPath(str),
    execute_settings: OutputPath(str),
    gate_settings: OutputPath(str),
    promote_settings: OutputPath(str),
    vote_pool: OutputPath(dict),
) -> ContainerSpec:
    """Validate the parameters and settings, resolve model and data, and give each stage its settings as JSON."""
    return task("plan", store)
