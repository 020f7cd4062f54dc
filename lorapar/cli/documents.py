"""What `--json` prints: a model for each command that lists or shows; docs/json.md and the schemas are made from them.

`tests/frozen/json.txt` freezes the keys: new ones may be added, none changes its meaning or goes away. A command
imports this module only where `--json` was given.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Document(BaseModel):
    """A JSON object of which every key is there, `null` where it does not apply."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class PresetDocument(Document):
    """A preset."""

    name: str = Field(description="What `--preset` takes.")
    summary: str = Field(description="What it is for.")
    settings: dict[str, JsonValue] | None = Field(description="Its settings; only with `--show`.")


class Presets(Document):
    """`lorapar presets`"""

    presets: list[PresetDocument] = Field(description="Every preset; with `--show` only that one.")


class PlannedTime(Document):
    """How long a node will take, by earlier runs of the same shape."""

    seconds: float = Field(description="Median of those runs.")
    runs: int = Field(description="How many of them are recorded.")
    scaled: bool = Field(description="Whether they had another number of steps or rows, and the time is scaled.")
    device: str = Field(description="What they ran on.")
    processes: int = Field(description="Processes that shared the node.")


class PlanNode(Document):
    """A node of the graph."""

    node: str = Field(description="Name of the node.")
    stage: str = Field(description="Stage that it calls.")
    state: Literal["run", "reuse"] = Field(description="Whether it would run.")
    why: str = Field(description="What has changed, or why nothing has.")
    memory_bytes: int | None = Field(description="Estimated peak memory; `null` where none is estimated.")
    expected: PlannedTime | None = Field(description="How long it will take; `null` where no such run is recorded.")


class PlanDocument(Document):
    """`lorapar plan`"""

    run_folder: str = Field(description="Folder that the run would work in.")
    model: str = Field(description="Base model.")
    revision: str | None = Field(description="Its revision.")
    data: str = Field(description="Where the rows come from.")
    data_digest: str | None = Field(description="Digest of the rows' source.")
    nodes: list[PlanNode] = Field(description="Every node, in the order they run.")
    notes: list[str] = Field(description="Lines below the table, for people.")


class SweepDocument(Document):
    """The partition at one theta."""

    theta: float = Field(description="Share of each system's total score that is kept.")
    elements: int = Field(description="Elements of the adapter's trainable part.")
    selected: dict[str, int] = Field(description="By system: elements in its set.")
    active: dict[str, int] = Field(description="By system: elements that it would train.")
    exclusive: dict[str, int] = Field(description="By system: elements that only it selected.")
    shared: dict[str, int] = Field(description="By system: elements that it and the other selected.")
    jaccard: dict[str, float] = Field(description="By pair of systems (`system1/system2`): overlap of their sets.")


class PartitionDocument(Document):
    """`lorapar partition`"""

    partition: dict[str, JsonValue] | None = Field(description="Metrics of the run's partition; not with `--sweep`.")
    sweep: list[SweepDocument] | None = Field(description="A theta each; only with `--sweep`.")
    plot: str | None = Field(description="File with the plot; only with `--sweep`.")


class GateDocument(Document):
    """`lorapar gate`"""

    better: bool = Field(description="Whether the adapter is shown to be better; the exit code is 0 or 10.")
    reasons: list[str] = Field(description="Why, in words.")
    name: str = Field(description="Name of the adapter.")
    version: int = Field(description="Version that was judged.")
    incumbent: int | None = Field(description="Version it was compared with; `null`: the base model.")
    gain: JsonValue = Field(description="The gain that was measured, with its interval.")
    guards: JsonValue = Field(description="The benchmarks that must not get worse.")
    promoted: bool = Field(description="Whether production was moved.")
    promotion: str | None = Field(description="What the promotion said.")


class FindingDocument(Document):
    """One thing that was looked at."""

    what: str = Field(description="What was looked at.")
    state: Literal["ok", "note", "missing"] = Field(description="`missing`: runs cannot work without it.")
    found: str = Field(description="What was found.")
    advice: str = Field(description="What to do; empty for nothing.")


class DoctorDocument(Document):
    """`lorapar doctor`"""

    findings: list[FindingDocument] = Field(description="Everything that was looked at.")


class SaidDocument(Document):
    """An answer of one model."""

    text: str = Field(description="The answer, without what ends it.")
    tokens: int = Field(description="Tokens of it.")
    cut_off: bool = Field(description="Whether it was cut off at `--max-tokens`.")


class AskedDocument(Document):
    """`lorapar ask`: one question; with `--file` each line of the output is such an object."""

    id: str = Field(description="The row's `id`, else its number; `question` for one that was typed.")
    question: str = Field(description="What was asked.")
    system: str | None = Field(description="The system it was asked as.")
    base: SaidDocument | None = Field(description="What the base model says; `null` with `--no-base`.")
    adapter: SaidDocument = Field(description="What base and adapter say.")


class GarbageDocument(Document):
    """`lorapar gc`"""

    looked_into: int = Field(description="Objects that may name content.")
    needed: int = Field(description="Objects that something names.")
    young: int = Field(description="Objects that nothing names, younger than `--grace-hours`.")
    left_over: int = Field(description="Objects that may go.")
    left_over_bytes: int = Field(description="Their size.")
    unfinished_uploads: int = Field(description="Uploads that were started and never finished.")
    removed: int | None = Field(description="Objects that were removed; `null` without `--delete`.")


class RunDocument(Document):
    """A run in Kubeflow."""

    run: str = Field(description="Its id.")
    name: str = Field(description="Its name.")
    state: str = Field(
        description="State in lower case, such as `running`, `succeeded`, `failed`, `cancelled`, `gone`."
    )
    started: str | None = Field(description="When, in ISO 8601.")


class Runs(Document):
    """`lorapar runs`"""

    runs: list[RunDocument] = Field(description="Runs, the newest first.")
    summaries: list[str] = Field(description="Summaries of ended runs that this call wrote into their stores.")


class ScheduleDocument(Document):
    """A recurring run in Kubeflow."""

    schedule: str = Field(description="Its id.")
    name: str = Field(description="Its name.")
    when: str = Field(description="Its cron expression of six fields, or `every N s`.")
    state: str = Field(description="`enabled` or `disabled`.")


class Schedules(Document):
    """`lorapar schedules list`"""

    schedules: list[ScheduleDocument] = Field(description="Recurring runs, the newest first.")


class StudyDocument(Document):
    """A study."""

    name: str = Field(description="What `lorapar study run` takes.")
    title: str = Field(description="The question that it answers.")
    settings: dict[str, JsonValue] | None = Field(description="The study itself; only with `--show`.")


class Studies(Document):
    """`lorapar study list`"""

    studies: list[StudyDocument] = Field(description="Every study that ships; with `--show` only that one.")


class CellDocument(Document):
    """A cell of a study with one seed."""

    cell: str = Field(description="Its name.")
    seed: int = Field(description="Its seed.")
    state: str = Field(
        description="`waiting`, `running`, `finished`, `failed`, `stopped`, `settings changed`, `of another version`."
    )
    reached: str | None = Field(description="Its last finished node; `null`: none.")
    nodes_finished: int = Field(description="Its finished nodes.")
    nodes: int = Field(description="Nodes that it has in all.")
    seconds: float | None = Field(description="Wall time of its last start; `null` where that is not known.")
    line: str = Field(description="What a failed one ended with; empty otherwise.")


class StudyStatusDocument(Document):
    """`lorapar study status`"""

    study: str = Field(description="Name of the study.")
    folder: str = Field(description="Its folder.")
    cells: list[CellDocument] = Field(description="Every cell with every seed, in the order they run.")


class AliasDocument(Document):
    """What an alias names now."""

    alias: str = Field(description="Name of the alias.")
    version: int = Field(description="Version that it names.")
    share_percent: float = Field(description="Share of the requests that a canary gives it; 0 without one.")
    share_reason: str = Field(description="Why a canary ended; empty otherwise.")


class AdapterDocument(Document):
    """An adapter."""

    name: str = Field(description="Its name.")
    versions: int = Field(description="How many versions it has.")
    latest: int | None = Field(description="The highest number; `null`: it has none.")
    aliases: list[AliasDocument] = Field(description="Its aliases.")
    fault: str | None = Field(description="Which record is damaged, and what to do; `null`: none.")


class VersionDocument(Document):
    """A version in a list."""

    version: int = Field(description="Its number.")
    aliases: list[str] = Field(description="Aliases that name it.")
    verdict: str = Field(description="The last verdict in words; empty: none; `damaged`.")
    published: str = Field(description="When, in ISO 8601; empty where that is not known.")
    fault: str | None = Field(description="What is damaged and what to do; `null`: nothing.")


class AdaptersDocument(Document):
    """`lorapar adapters list`"""

    registry: str = Field(description="Address of the registry.")
    adapters: list[AdapterDocument] = Field(description="Every adapter; with a name only that one.")
    versions: list[VersionDocument] | None = Field(description="Its versions, the newest first; only with a name.")


class ShownVersion(Document):
    """`lorapar adapters show`"""

    name: str = Field(description="Name of the adapter.")
    version: int = Field(description="Number of the version.")
    digest: str = Field(description="Digest of its content.")
    aliases: list[str] = Field(description="Aliases that name it.")
    verdict: str = Field(description="The last verdict in words; empty: none.")
    published: str = Field(description="When, in ISO 8601.")
    by: str = Field(description="Who published it.")
    base: str | None = Field(description="Base model; `null`: published without lineage.")
    base_revision: str | None = Field(description="Its revision.")
    rank: int | None = Field(description="Rank that serving pays for.")
    max_lora_rank: int | None = Field(description="Value for vLLM's --max-lora-rank; `null`: more than vLLM serves.")
    files: dict[str, int] = Field(description="Size of every file in bytes, by name.")


class DifferenceDocument(Document):
    """A key that differs."""

    key: str = Field(description="Key of lineage.json, such as `settings.rl.learning_rate`.")
    left: JsonValue = Field(description="Its value in the first version; `null`: not there.")
    right: JsonValue = Field(description="Its value in the second version; `null`: not there.")


class WeightsDocument(Document):
    """How far apart the weights are."""

    elements: int = Field(description="Numbers that were compared.")
    changed: int = Field(description="Numbers that are not equal.")
    tensors: int = Field(description="Tensors that both have, in one shape.")
    other_tensors: int = Field(description="Tensors without a counterpart.")
    largest: float = Field(description="Largest difference of two numbers.")
    relative: float = Field(description="Norm of the difference over the norm of the first weights.")


class DiffDocument(Document):
    """`lorapar adapters diff`"""

    left: str = Field(description="The first version.")
    right: str = Field(description="The second version.")
    differences: list[DifferenceDocument] = Field(description="Settings first, then the rest of the lineage.")
    weights: WeightsDocument = Field(description="What the weights differ in.")


class MoveDocument(Document):
    """A move of an alias."""

    alias: str = Field(description="Name of the alias.")
    version: int = Field(description="Version that it was moved to.")
    moved_at: str = Field(description="When, in ISO 8601.")
    by: str = Field(description="Who moved it.")
    reason: str = Field(description="Why; empty where nobody said.")
    rollback: bool = Field(description="Whether it was a rollback.")


class HistoryDocument(Document):
    """`lorapar adapters history`"""

    name: str = Field(description="Name of the adapter.")
    moves: list[MoveDocument] = Field(description="Moves of its aliases, the newest first.")


class WhyDocument(Document):
    """`lorapar adapters why`"""

    name: str = Field(description="Name of the adapter.")
    version: int = Field(description="Number of the version.")
    digest: str = Field(description="Digest of its content.")
    claim: dict[str, JsonValue] = Field(
        description="Who published it, when, in which run, with which images and proof."
    )
    verdicts: list[dict[str, JsonValue]] = Field(description="Every verdict of a gate, oldest first.")
    moves: list[MoveDocument] = Field(description="Moves of the alias that was given; empty for a number.")
    lineage: dict[str, JsonValue] = Field(description="lineage.json, with votes, rows, data, base and settings.")
    settings: str = Field(description="YAML that makes it again: `lorapar run --config FILE`; empty without lineage.")


class CheckDocument(Document):
    """One thing that was checked."""

    what: str = Field(description="`NAME@3`, `NAME@3 claim`, `NAME@3 verdicts`, `NAME@ALIAS` or `NAME digests`.")
    fault: str | None = Field(description="What is damaged; `null`: every byte is as its manifest names it.")


class VerifyDocument(Document):
    """`lorapar adapters verify`"""

    checks: list[CheckDocument] = Field(description="Everything that was checked; the exit code is 6 for a fault.")


class CollectedDocument(Document):
    """A version that may go."""

    version: str = Field(description="`NAME@3`.")
    state: Literal["would go", "deleted", "kept"] = Field(description="`kept`: an alias was moved to it meanwhile.")


class AdapterGcDocument(Document):
    """`lorapar adapters gc`"""

    versions: list[CollectedDocument] = Field(description="Versions that may go, oldest first.")


class WatchedNode(Document):
    """A stage's call in a run."""

    node: str = Field(description="Its name.")
    state: Literal["waiting", "running", "finished", "failed"] = Field(description="How far it has come.")
    seconds: float | None = Field(description="How long it took; `null`: not finished.")


class WorkingNode(Document):
    """What a node that works tells of itself."""

    node: str = Field(description="Its name.")
    state: Literal["waiting", "running", "finished", "failed"] = Field(description="How far it has come.")
    title: str = Field(description="The piece of work under way.")
    done: int = Field(description="Units of it that are done: steps, rows, answers.")
    total: int | None = Field(description="All of them; `null`: not known.")
    seconds_left: float | None = Field(description="Of this piece of work at the pace so far; `null`: not known.")
    updated: str = Field(description="When this was reported, in ISO 8601.")
    error: str = Field(description="The line it failed with; empty otherwise.")
    warnings: list[str] = Field(description="The latest lines that begin with `WARNING`.")
    history: list[dict[str, float]] = Field(
        description="The latest steps of training, as in history.jsonl: `step`, `loss`, `reward`, `cut_off_share` …"
    )
    rollouts: list[dict[str, JsonValue]] = Field(
        description="Completions of RL's newest step, as in rollouts.jsonl: `completion`, `reward`, `rewards` …"
    )


class WatchDocument(Document):
    """`lorapar watch`"""

    run: str = Field(description="The run that was asked about.")
    state: Literal["waiting", "running", "finished", "failed"] = Field(description="How far it has come.")
    nodes: list[WatchedNode] = Field(description="Every stage's calls, in the order in which they run.")
    now: list[WorkingNode] = Field(description="Those that work or failed; of an ended run the last one that reported.")
