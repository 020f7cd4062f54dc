"""The LoRA-PAR pipeline in plain KFP: the same nodes and edges as lorapar/stages/graph.py, which a test compares.

`python -m pipelines.compile` writes it to lorapar/kubeflow/pipeline.yaml, which the wheel ships.
"""

from typing import Any

from kfp import dsl

from components import plan, report
from pipelines.form import FORM, takes
from pipelines.hardening import settled
from pipelines.steps import stages


@dsl.pipeline(
    name="lorapar",
    description="Fine-tune a language model the LoRA-PAR way: vote, partition, SFT, RL, publish, gate, promote.",
)
@takes(FORM)
def lorapar(**form: Any) -> None:
    """All stages, and the report whatever becomes of them."""
    run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    closing = settled(report(store=form["store"], run=run, webhook=form["webhook"]), cached=False, wait_seconds=5)
    with dsl.ExitHandler(closing, name="run"):
        planned = settled(plan(**form, run=run, vote_accelerators="1", accelerators={}), cached=False, wait_seconds=5)
        with dsl.If(planned.outputs["changed"] == True, name="stages"):  # noqa: E712 -- KFP compiles the comparison
            stages(planned, form["store"], form["gpu_pool"])
