"""The tasks of the pipeline between plan and report, in the order they run; who takes what stands in the graph.

Their loop stands inside a condition inside the exit handler: directly inside an exit handler one compiles, but fails on
a real backend (kubeflow/pipelines 12390). A loop is never empty (plan sees to it): KFP 2.17 cannot collect from one
without items.
"""

from typing import Any

from kfp import dsl

from components import evaluate, gate, init, partition, publish, rl, score, sft, vote, vote_rest
from lorapar.kubeflow.tasks import task_named
from pipelines.hardening import in_pool, on_gpu, settled
from pipelines.wiring import fed


class Steps:
    """Adds the tasks of a run one by one; each finds what it takes among those before it."""

    def __init__(self, planned: dsl.PipelineTask, store: Any, gpu_pool: Any) -> None:
        self.tasks: dict[str, dsl.PipelineTask] = {"plan": planned}
        self._store = store
        self._pool = gpu_pool

    def add(self, component: Any, name: str, *, gpu: bool = False) -> None:
        """A task with its own settings and what the graph says it takes.

        One that is never cached is told its run too: what it leaves must not be taken for that of an equal run.
        """
        run = {} if task_named(name).cached else {"run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        self._add(component, name, settings=self.tasks["plan"].outputs["settings"], **run)
        if gpu:
            on_gpu(self.tasks[name], self._pool)

    def vote_twice(self) -> None:
        """The first quorum of teachers reads every row, side by side; the others only what it leaves undecided."""
        planned = self.tasks["plan"].outputs
        with dsl.ParallelFor(planned["vote_first_lanes"], name="lanes") as lane:
            self._add(vote, "vote-first", settings=lane.settings, accelerators=lane.accelerators)
            in_pool(self.tasks["vote-first"], planned["vote_pool"])
        rest = {"settings": planned["settings"], "accelerators": planned["vote_rest_accelerators"]}
        self._add(vote_rest, "vote-rest", **rest)
        in_pool(self.tasks["vote-rest"], planned["vote_pool"])

    def _add(self, component: Any, name: str, **more: Any) -> None:
        task = component(store=self._store, **fed(name, self.tasks), **more)
        self.tasks[name] = settled(task, cached=task_named(name).cached).set_display_name(name)


def stages(planned: dsl.PipelineTask, store: Any, gpu_pool: Any) -> None:
    """Everything between plan and report."""
    steps = Steps(planned, store, gpu_pool)
    steps.vote_twice()
    steps.add(init, "init")
    steps.add(score, "score-system1", gpu=True)
    steps.add(score, "score-system2", gpu=True)
    steps.add(partition, "partition")
    steps.add(sft, "sft", gpu=True)
    steps.add(rl, "rl", gpu=True)
    steps.add(publish, "publish")
    steps.add(evaluate, "evaluate", gpu=True)
    steps.add(gate, "gate")
