"""What the report is made from: folders of artifacts, any of which may be missing, read into one set of facts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lorapar.config import RunConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.records import (
    DEVELOPMENT_ROWS,
    HELDOUT_ROWS,
    OMISSIONS,
    Answer,
    Example,
    Label,
    Omission,
    Record,
    Vote,
    read_json,
    read_records,
)
from lorapar.store import read_manifest

Values = Mapping[str, Any]
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class ReportSources:
    """Folders of artifacts, named as the inputs of the stage `report`; None or () where the run did not get there."""

    plan: Path | None = None
    examples: Path | None = None
    votes: tuple[Path, ...] = ()
    labels: Path | None = None
    scores: tuple[Path, ...] = ()
    partition: Path | None = None
    sft: Path | None = None
    rl: Path | None = None
    published: Path | None = None
    version: Path | None = None
    evaluation: Path | None = None
    verdict: Path | None = None
    promotion: Path | None = None
    """No input of the stage, which must not wait for a promotion that may never come."""
    timings: Sequence[Values] | None = None
    """One entry a finished node: node, stage, seconds, peak_memory_bytes, reused. Known once the run has ended."""
    run: Path | None = None
    """The run folder on this machine; None in a pipeline, which has none."""


@dataclass(frozen=True)
class Facts:
    """What the folders hold; None (or empty) where a folder or file is missing."""

    plan: Values | None = None
    """plan.json: version, created, config, sections."""
    config: RunConfig | None = None
    examples: Mapping[str, Example] = field(default_factory=dict)
    """All rows by id."""
    data: Values | None = None
    """summary.json of prepare."""
    votes: tuple[Vote, ...] | None = None
    labels: tuple[Label, ...] | None = None
    voting: Values | None = None
    partition: Values | None = None
    sft_steps: tuple[Values, ...] | None = None
    rl_steps: tuple[Values, ...] | None = None
    rollouts: tuple[Values, ...] | None = None
    """rollouts.jsonl of rl: completions that were kept, with their rewards."""
    sft: Values | None = None
    rl: Values | None = None
    adapter: Values | None = None
    """adapter_config.json of the published adapter."""
    lineage: Values | None = None
    version: Values | None = None
    """version.json: the version that was published, and its incumbent."""
    verdict: Values | None = None
    promotion: Values | None = None
    answers: tuple[Answer, ...] | None = None
    evaluation: Values | None = None
    omissions: tuple[tuple[str, Omission], ...] = ()
    """What stages left out or cut, each with the name of its stage, in the order they ran."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Digest of each artifact that is there, by name."""
    timings: tuple[Values, ...] | None = None
    run: Path | None = None
    """The run folder, which the report is in."""


@dataclass(frozen=True)
class SharedQuestions:
    """Training rows that share their question with what is evaluated."""

    counts: Mapping[str, int]
    """By what evaluates it: held-out rows, and benchmarks by name."""
    left_out: bool
    """Whether they are left out of training."""


def overlap_of(facts: Facts) -> SharedQuestions:
    """What prepare found when it compared training rows with held-out rows and benchmarks."""
    benchmarks = [one.task for one in facts.config.data.benchmarks] if facts.config else []
    overlap = (facts.data or {}).get("overlap") or {}
    shared = Counter(one["measure"] for one in overlap.get("rows", ()))
    development = [DEVELOPMENT_ROWS] if facts.config is not None and facts.config.data.development else []
    counts = {measure: shared[measure] for measure in (HELDOUT_ROWS, *development, *benchmarks)}
    return SharedQuestions(counts, overlap.get("left_out", True))


def read_facts(sources: ReportSources) -> Facts:
    """Read whatever is there; raises BadInputError (file and line) for a file that is there but broken."""
    plan = _json(sources.plan, "plan.json")
    return Facts(
        plan=plan,
        config=_config(plan, sources.plan),
        examples={row.id: row for row in _records(sources.examples, "examples.jsonl", Example) or ()},
        data=_json(sources.examples, "summary.json"),
        votes=_votes(sources.votes),
        labels=_records(sources.labels, "labels.jsonl", Label),
        voting=_json(sources.labels, "summary.json"),
        partition=_json(sources.partition, "summary.json"),
        sft_steps=_steps(sources.sft),
        rl_steps=_steps(sources.rl),
        rollouts=_steps(sources.rl, "rollouts.jsonl"),
        sft=_json(sources.sft, "summary.json"),
        rl=_json(sources.rl, "summary.json"),
        adapter=_json(sources.published, "adapter_config.json"),
        lineage=_json(sources.published, "lineage.json"),
        version=_json(sources.version, "version.json"),
        verdict=_json(sources.verdict, "verdict.json"),
        promotion=_json(sources.promotion, "promotion.json"),
        answers=_records(sources.evaluation, "answers.jsonl", Answer),
        evaluation=_json(sources.evaluation, "summary.json"),
        omissions=tuple(_omissions(sources)),
        digests=_digests(sources),
        timings=tuple(sources.timings) if sources.timings else None,
        run=sources.run,
    )


def _omissions(sources: ReportSources) -> Iterator[tuple[str, Omission]]:
    """What each stage's summary says it left out or cut; older summaries say nothing of it."""
    scores = {f"score-system{number}": folder for number, folder in enumerate(sources.scores, 1)}
    stages = {
        "prepare": sources.examples,
        "tally": sources.labels,
        **scores,
        "sft": sources.sft,
        "rl": sources.rl,
        "evaluate": sources.evaluation,
    }
    for stage, folder in stages.items():
        for found in (_json(folder, "summary.json") or {}).get(OMISSIONS, ()):
            try:
                yield stage, Omission.model_validate(found)
            except ValidationError:
                raise BadInputError(f"{folder}/summary.json: {OMISSIONS} is not as this version writes it") from None


def _config(plan: Values | None, folder: Path | None) -> RunConfig | None:
    if plan is None:
        return None
    try:
        return RunConfig.model_validate(plan["config"])
    except (KeyError, ValidationError):
        raise BadInputError(
            f"{folder}/plan.json: this version does not know its settings (it was written by {plan.get('version')}); "
            "run the plan stage again"
        ) from None


def _votes(folders: Sequence[Path]) -> tuple[Vote, ...] | None:
    found = [_records(folder, "votes.jsonl", Vote) for folder in folders]
    present = [votes for votes in found if votes is not None]
    return tuple(vote for votes in present for vote in votes) if present else None


def _records(folder: Path | None, name: str, kind: type[R]) -> tuple[R, ...] | None:
    path = _file(folder, name)
    return None if path is None else tuple(read_records(path, kind))


def _json(folder: Path | None, name: str) -> dict[str, Any] | None:
    path = _file(folder, name)
    if path is None:
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: expected a JSON object, got {type(value).__name__}; run its stage again")
    return value


def _steps(folder: Path | None, name: str = "history.jsonl") -> tuple[Values, ...] | None:
    """The training history, or what was kept of its completions: one JSON object a line, in the order of the steps."""
    path = _file(folder, name)
    if path is None:
        return None
    steps = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            steps.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise BadInputError(f"{path}:{number}: not JSON: {error.msg}") from None
    return tuple(steps)


def _file(folder: Path | None, name: str) -> Path | None:
    path = None if folder is None else folder / name
    return path if path is not None and path.is_file() else None


def _digests(sources: ReportSources) -> dict[str, str]:
    named: dict[str, Path | None] = {
        "plan": sources.plan,
        "examples": sources.examples,
        **{f"votes, round {number}": path for number, path in enumerate(sources.votes, 1)},
        "labels": sources.labels,
        **{f"scores, system {number}": path for number, path in enumerate(sources.scores, 1)},
        "partition": sources.partition,
        "adapter after SFT": sources.sft,
        "adapter after RL": sources.rl,
        "published adapter": sources.published,
        "evaluation": sources.evaluation,
        "verdict": sources.verdict,
    }
    found = {}
    for name, folder in named.items():
        if folder is not None:
            try:
                found[name] = read_manifest(folder).digest
            except IntegrityError:
                continue
    return found
