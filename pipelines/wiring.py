"""An artifact and its digest go together: KFP's cache key holds parameters, not what an artifact contains."""

from typing import Any

from kfp import dsl


def feed(port: str, task: dsl.PipelineTask, output: str) -> dict[str, Any]:
    """An output of a task as the input `port`, with its digest."""
    return {port: task.outputs[output], f"{port}_digest": task.outputs[_digest(task, output)]}


def gather(port: str, round_of_votes: dsl.PipelineTask) -> dict[str, Any]:
    """The votes of a round as the list `port`, with the list of their digests."""
    return {port: round_of_votes.outputs["votes"], f"{port}_digests": round_of_votes.outputs["digests"]}


def _digest(task: dsl.PipelineTask, output: str) -> str:
    """The digest of a stage's only output is called `digest`."""
    own = f"{output}_digest"
    return own if own in task.outputs else "digest"
