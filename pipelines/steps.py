"""The steps of the pipeline between plan and report, each the tasks of a few nodes of lorapar/stages/graph.py.

Loops stand in nested pipelines inside the exit handler: directly inside one they compile, but fail on a real backend
(kubeflow/pipelines 12390). A loop is never empty (plan sees to it): KFP 2.17 cannot collect from one without items.
"""

from typing import Any, NamedTuple

from kfp import dsl

from components import (
    evaluate,
    execute,
    gate,
    init,
    partition,
    promote,
    publish,
    rl,
    score,
    sft,
    tally,
    vote,
)
from lorapar.kubeflow.ports import settings_parameter
from pipelines.hardening import in_pool, on_gpu, settled
from pipelines.wiring import feed, gather


class Run(NamedTuple):
    """What every task of a run is told, whatever it reads."""

    planned: dsl.PipelineTask
    store: Any
    gpu_pool: Any

    def told(self, node: str) -> dict[str, Any]:
        """A node's own settings, and where data lies."""
        return {"settings": self.planned.outputs[settings_parameter(node)], "store": self.store}


class Voted(NamedTuple):
    """Both rounds of votes, and the rows dealt to their systems."""

    first: dsl.PipelineTask
    rest: dsl.PipelineTask
    dealt: dsl.PipelineTask


class Votes(NamedTuple):
    """What a round of votes comes to: a folder of votes a task, and their digests."""

    votes: list[dsl.Dataset]
    digests: list


@dsl.pipeline(name="vote-round")
def vote_round(lanes: list, pool: dict, store: str, examples: dsl.Input[dsl.Dataset], examples_digest: str) -> Votes:
    """Ask the teachers of a round, side by side; `lanes` say who is asked in each task."""
    with dsl.ParallelFor(lanes, name="lanes") as lane:
        asked = settled(
            vote(
                settings=lane.settings,
                accelerators=lane.accelerators,
                store=store,
                examples=examples,
                examples_digest=examples_digest,
            )
        )
        in_pool(asked, pool)
    return Votes(votes=dsl.Collected(asked.outputs["votes"]), digests=dsl.Collected(asked.outputs["digest"]))


@dsl.pipeline(name="promotion")
def promotion(
    wanted: bool,
    settings: str,
    store: str,
    verdict: dsl.Input[dsl.Artifact],
    verdict_digest: str,
    version: dsl.Input[dsl.Artifact],
    version_digest: str,
) -> None:
    """Promote where the gate says so."""
    with dsl.If(wanted == True, name="better"):  # noqa: E712 -- KFP compiles the comparison
        settled(
            promote(
                settings=settings,
                store=store,
                verdict=verdict,
                verdict_digest=verdict_digest,
                version=version,
                version_digest=version_digest,
            ),
            cached=False,
        )


def vote_twice(run: Run, rows: dsl.PipelineTask) -> Voted:
    """The first quorum of teachers reads every row, the others only what it leaves undecided."""
    examples = feed("examples", rows, "examples")
    first = _round(run, "vote-first", examples)
    early = settled(tally(**run.told("tally-first"), **examples, **gather("votes_first", first)))
    early.set_display_name("tally-first")
    rest = _round(run, "vote-rest", feed("examples", early, "undecided"))
    dealt = settled(
        tally(**run.told("tally"), **examples, **gather("votes_first", first), **gather("votes_rest", rest))
    )
    return Voted(first, rest, dealt.set_display_name("tally"))


def _round(run: Run, node: str, examples: dict[str, Any]) -> dsl.PipelineTask:
    lanes = run.planned.outputs[settings_parameter(node)]
    asked = vote_round(lanes=lanes, pool=run.planned.outputs["vote_pool"], store=run.store, **examples)
    return asked.set_display_name(node)


def divide_adapter(run: Run, dealt: dsl.PipelineTask) -> tuple[dsl.PipelineTask, dsl.PipelineTask]:
    """A fresh adapter, and which of its elements belong to which system: scored side by side."""
    start = settled(init(**run.told("init")))
    scores1, scores2 = (_score(run, start, dealt, system) for system in ("system1", "system2"))
    parts = settled(
        partition(
            **run.told("partition"),
            **feed("scores_system1", scores1, "scores"),
            **feed("scores_system2", scores2, "scores"),
        )
    )
    return start, parts


def _score(run: Run, start: dsl.PipelineTask, dealt: dsl.PipelineTask, system: str) -> dsl.PipelineTask:
    node = f"score-{system}"
    scored = settled(score(**run.told(node), **feed("adapter", start, "adapter"), **feed("rows", dealt, system)))
    return on_gpu(scored, run.gpu_pool).set_display_name(node)


def train_adapter(
    run: Run, start: dsl.PipelineTask, parts: dsl.PipelineTask, dealt: dsl.PipelineTask
) -> tuple[dsl.PipelineTask, dsl.PipelineTask]:
    """System 1's elements by SFT, then System 2's by RL."""
    read = {
        **feed("partition", parts, "partition"),
        **feed("system1", dealt, "system1"),
        **feed("system2", dealt, "system2"),
    }
    tuned = settled(sft(**run.told("sft"), **feed("adapter", start, "adapter"), **read))
    on_gpu(tuned, run.gpu_pool)
    rewarded = settled(rl(**run.told("rl"), **feed("adapter", tuned, "sft_adapter"), **read))
    return tuned, on_gpu(rewarded, run.gpu_pool)


def publish_version(
    run: Run, rows: dsl.PipelineTask, voted: Voted, parts: dsl.PipelineTask, rewarded: dsl.PipelineTask
) -> dsl.PipelineTask:
    """A version in the registry, whatever the gate will say; not cached, because it looks up what serves today."""
    published = publish(
        **run.told("publish"),
        **feed("adapter", rewarded, "rl_adapter"),
        **feed("examples", rows, "examples"),
        **feed("labels", voted.dealt, "labels"),
        **feed("partition", parts, "partition"),
        **gather("votes_first", voted.first),
        **gather("votes_rest", voted.rest),
    )
    return settled(published, cached=False)


def answer_and_score(
    run: Run, dealt: dsl.PipelineTask, tuned: dsl.PipelineTask, published: dsl.PipelineTask
) -> dsl.PipelineTask:
    """The same rows put to base, both adapters and the incumbent; then answers that are code are run."""
    answered = settled(
        evaluate(
            **run.told("evaluate"),
            **feed("heldout", dealt, "heldout"),
            **feed("after_sft", tuned, "sft_adapter"),
            **feed("published", published, "publish_adapter"),
            **feed("incumbent", published, "incumbent"),
        )
    )
    on_gpu(answered, run.gpu_pool)
    return settled(execute(**run.told("execute"), **feed("evaluation", answered, "evaluation")))


def decide(run: Run, scored: dsl.PipelineTask, published: dsl.PipelineTask) -> None:
    """The gate's verdict, and promotion where it says so."""
    version = feed("version", published, "version")
    evaluation = feed("evaluation", scored, "execute_evaluation")
    judged = settled(gate(**run.told("gate"), **evaluation, **version), cached=False)
    wanted = judged.outputs["promote"]
    promotion(wanted=wanted, **run.told("promote"), **feed("verdict", judged, "verdict"), **version)
