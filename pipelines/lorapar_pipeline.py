"""The LoRA-PAR pipeline in plain KFP: the same nodes and edges as lorapar/stages/graph.py, which a test compares.

`python -m pipelines.compile` writes it to lorapar/kubeflow/pipeline.yaml, which the wheel ships.

Loops stand in nested pipelines inside the exit handler: directly inside one they compile, but fail on a real backend
(kubeflow/pipelines 12390). A loop is never empty (plan sees to it): KFP 2.17 cannot collect from one without items.
"""

from typing import NamedTuple

from kfp import dsl

from components import (
    evaluate,
    execute,
    gate,
    init,
    partition,
    plan,
    prepare,
    publish,
    report,
    rl,
    score,
    sft,
    tally,
    vote,
)
from components.promote import promote as promote_  # the pipeline has a parameter of that name
from pipelines.hardening import in_pool, on_gpu, settled
from pipelines.wiring import feed, gather


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
            promote_(
                settings=settings,
                store=store,
                verdict=verdict,
                verdict_digest=verdict_digest,
                version=version,
                version_digest=version_digest,
            ),
            cached=False,
        )


@dsl.pipeline(name="lorapar-stages")
def stages(
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
) -> None:
    """Everything but the report."""
    planned = settled(
        plan(
            config=config,
            overrides=overrides,
            base_model=base_model,
            dataset=dataset,
            teachers=teachers,
            theta=theta,
            alpha=alpha,
            beta=beta,
            adapter_name=adapter_name,
            registry=registry,
            promote=promote,
            store=store,
            gpu_pool=gpu_pool,
            parallelism=parallelism,
            run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            vote_accelerators="1",
        ),
        cached=False,
        retries=0,
    )
    given = planned.outputs
    rows = settled(prepare(settings=given["prepare_settings"], store=store))

    first = vote_round(
        lanes=given["vote_first_settings"], pool=given["vote_pool"], store=store, **feed("examples", rows, "examples")
    ).set_display_name("vote-first")
    early = settled(
        tally(
            settings=given["tally_first_settings"],
            store=store,
            **feed("examples", rows, "examples"),
            **gather("votes_first", first),
        )
    ).set_display_name("tally-first")
    rest = vote_round(
        lanes=given["vote_rest_settings"], pool=given["vote_pool"], store=store, **feed("examples", early, "undecided")
    ).set_display_name("vote-rest")
    dealt = settled(
        tally(
            settings=given["tally_settings"],
            store=store,
            **feed("examples", rows, "examples"),
            **gather("votes_first", first),
            **gather("votes_rest", rest),
        )
    ).set_display_name("tally")

    start = settled(init(settings=given["init_settings"], store=store))
    scores1, scores2 = (
        on_gpu(
            settled(
                score(
                    settings=given[f"score_{system}_settings"],
                    store=store,
                    **feed("adapter", start, "adapter"),
                    **feed("rows", dealt, system),
                )
            ),
            gpu_pool,
        ).set_display_name(f"score-{system}")
        for system in ("system1", "system2")
    )
    parts = settled(
        partition(
            settings=given["partition_settings"],
            store=store,
            **feed("scores_system1", scores1, "scores"),
            **feed("scores_system2", scores2, "scores"),
        )
    )
    tuned = on_gpu(
        settled(
            sft(
                settings=given["sft_settings"],
                store=store,
                **feed("adapter", start, "adapter"),
                **feed("partition", parts, "partition"),
                **feed("system1", dealt, "system1"),
                **feed("system2", dealt, "system2"),
            )
        ),
        gpu_pool,
    )
    rewarded = on_gpu(
        settled(
            rl(
                settings=given["rl_settings"],
                store=store,
                **feed("adapter", tuned, "sft_adapter"),
                **feed("partition", parts, "partition"),
                **feed("system1", dealt, "system1"),
                **feed("system2", dealt, "system2"),
            )
        ),
        gpu_pool,
    )
    published = settled(
        publish(
            settings=given["publish_settings"],
            store=store,
            **feed("adapter", rewarded, "rl_adapter"),
            **feed("examples", rows, "examples"),
            **feed("labels", dealt, "labels"),
            **feed("partition", parts, "partition"),
            **gather("votes_first", first),
            **gather("votes_rest", rest),
        ),
        cached=False,
    )
    answered = on_gpu(
        settled(
            evaluate(
                settings=given["evaluate_settings"],
                store=store,
                **feed("heldout", dealt, "heldout"),
                **feed("after_sft", tuned, "sft_adapter"),
                **feed("published", published, "publish_adapter"),
                **feed("incumbent", published, "incumbent"),
            )
        ),
        gpu_pool,
    )
    scored = settled(
        execute(settings=given["execute_settings"], store=store, **feed("evaluation", answered, "evaluation"))
    )
    judged = settled(
        gate(
            settings=given["gate_settings"],
            store=store,
            **feed("evaluation", scored, "execute_evaluation"),
            **feed("version", published, "version"),
        ),
        cached=False,
    )
    promotion(
        wanted=judged.outputs["promote"],
        settings=given["promote_settings"],
        store=store,
        **feed("verdict", judged, "verdict"),
        **feed("version", published, "version"),
    )


@dsl.pipeline(
    name="lorapar",
    description="Fine-tune a language model the LoRA-PAR way: vote, partition, SFT, RL, publish, gate, promote.",
)
def lorapar(
    config: str = "preset:demo",
    overrides: str = "",
    base_model: str = "",
    dataset: str = "",
    teachers: str = "",
    theta: str = "",
    alpha: str = "",
    beta: str = "",
    adapter_name: str = "",
    registry: str = "",
    promote: bool = True,
    store: str = "s3://mlpipeline/lorapar",
    gpu_pool: dict = {},  # noqa: B006 -- KFP reads the default, nothing changes it
    parallelism: int = 4,
    webhook: str = "",
) -> None:
    """All stages, and the report whatever becomes of them."""
    closing = settled(
        report(store=store, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, webhook=webhook), cached=False, retries=0
    )
    with dsl.ExitHandler(closing, name="run"):
        stages(
            config=config,
            overrides=overrides,
            base_model=base_model,
            dataset=dataset,
            teachers=teachers,
            theta=theta,
            alpha=alpha,
            beta=beta,
            adapter_name=adapter_name,
            registry=registry,
            promote=promote,
            store=store,
            gpu_pool=gpu_pool,
            parallelism=parallelism,
        )
