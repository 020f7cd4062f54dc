"""What every component runs: its stage, told everything by ExecutorInput."""

from kfp.dsl import PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER, ContainerSpec

from lorapar.kubeflow.tasks import tasks_of_stage


def task(stage: str) -> ContainerSpec:
    """The container of a task. The command is complete, because the images have no entry point."""
    return ContainerSpec(
        image=tasks_of_stage(stage)[0].reference,
        command=["lorapar", "stage", stage],
        args=["--executor-input", PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
