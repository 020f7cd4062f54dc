"""The LoRA-PAR pipeline in plain KFP: the same nodes and edges as lorapar/stages/graph.py, which a test compares.

`python -m pipelines.compile` writes it to lorapar/kubeflow/pipeline.yaml, which the wheel ships.
"""

from typing import Any

from kfp import dsl

from components import plan, prepare, report
from pipelines.form import FORM, OF_THE_REPORT, PLANNED, takes
from pipelines.hardening import settled
from pipelines.steps import (
    Run,
    answer_and_score,
    decide,
    divide_adapter,
    publish_version,
    train_adapter,
    vote_twice,
)


@dsl.pipeline(name="lorapar-stages")
@takes(PLANNED)
def stages(**form: Any) -> None:
    """Everything but the report."""
    planned = settled(plan(**form, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, vote_accelerators="1"), cached=False, retries=0)
    run = Run(planned, form["store"], form["gpu_pool"])
    rows = settled(prepare(**run.told("prepare")))
    voted = vote_twice(run, rows)
    start, parts = divide_adapter(run, voted.dealt)
    tuned, rewarded = train_adapter(run, start, parts, voted.dealt)
    published = publish_version(run, rows, voted, parts, rewarded)
    scored = answer_and_score(run, voted.dealt, tuned, published)
    decide(run, scored, published)


@dsl.pipeline(
    name="lorapar",
    description="Fine-tune a language model the LoRA-PAR way: vote, partition, SFT, RL, publish, gate, promote.",
)
@takes(FORM)
def lorapar(**form: Any) -> None:
    """All stages, and the report whatever becomes of them."""
    own = {name: form.pop(name) for name in OF_THE_REPORT}
    closing = settled(report(store=form["store"], run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, **own), cached=False, retries=0)
    with dsl.ExitHandler(closing, name="run"):
        stages(**form)
