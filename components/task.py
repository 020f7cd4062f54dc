"""What every component runs: its stage, told everything by ExecutorInput."""

from kfp.dsl import PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER, ContainerSpec

from lorapar.kubeflow.images import stage_reference


def task(stage: str, store: str) -> ContainerSpec:
    """The container of a stage. The command is complete, because the images have no entry point."""
    return ContainerSpec(
        image=stage_reference(stage),
        command=["lorapar", "stage", stage],
        args=["--executor-input", PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER, "--store", store],
    )
