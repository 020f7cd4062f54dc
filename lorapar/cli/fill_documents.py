"""The documents of `lorapar.cli.documents`, made from what the rooms below give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar.cli.documents import (
    AdapterDocument,
    AdaptersDocument,
    AliasDocument,
    CellDocument,
    DiffDocument,
    DifferenceDocument,
    FindingDocument,
    GarbageDocument,
    HistoryDocument,
    MoveDocument,
    PlanDocument,
    PlannedTime,
    PlanNode,
    RunDocument,
    SaidDocument,
    ShownVersion,
    Studies,
    StudyDocument,
    StudyStatusDocument,
    SweepDocument,
    VersionDocument,
    WatchDocument,
    WatchedNode,
    WeightsDocument,
    WhyDocument,
    WorkingNode,
)

if TYPE_CHECKING:
    from lorapar.adapter import SweepRow
    from lorapar.doctor import Finding
    from lorapar.local.live import WatchedRun
    from lorapar.local.planning import RunPlan
    from lorapar.registry import AliasRecord, Registry, Version
    from lorapar.registry.diff import Difference, WeightDifference
    from lorapar.registry.overview import AdapterRow, VersionFacts, VersionRow
    from lorapar.serving.here import Reply
    from lorapar.store.garbage import Garbage
    from lorapar.study.how_far import Standing


def watched_document(seen: WatchedRun) -> WatchDocument:
    """A run as it is now."""
    now = [WorkingNode(**one.model_dump(exclude={"ended", "note"})) for one in seen.now]
    nodes = [WatchedNode(**node.model_dump()) for node in seen.nodes]
    return WatchDocument(run=seen.run, state=seen.state, nodes=nodes, now=now)


def plan_document(planned: RunPlan) -> PlanDocument:
    """What a run would do."""
    nodes = [
        PlanNode(
            node=one.node.name,
            stage=one.node.stage,
            state="reuse" if one.reused else "run",
            why=one.why,
            memory_bytes=one.memory_bytes,
            expected=PlannedTime(**asdict(one.expected)) if one.expected else None,
        )
        for one in planned.nodes
    ]
    model, data = planned.config.model, planned.config.data
    return PlanDocument(
        run_folder=str(planned.out),
        model=model.name,
        revision=model.revision,
        data=data.named,
        data_digest=data.digest,
        nodes=nodes,
        notes=[line.plain for line in planned.lines],
    )


def studies_document(names: Iterable[str], *, settings: bool) -> Studies:
    """Studies that ship, with their settings where those are asked for."""
    import yaml

    from lorapar.config.study import load_study, study_text

    rows = [
        StudyDocument(
            name=name, title=load_study(name).title, settings=yaml.safe_load(study_text(name)) if settings else None
        )
        for name in names
    ]
    return Studies(studies=rows)


def study_status_document(name: str, folder: Path, rows: Iterable[Standing]) -> StudyStatusDocument:
    """How each cell of a study stands."""
    cells = [
        CellDocument(
            cell=one.cell.name,
            seed=one.cell.seed,
            state=one.state,
            reached=one.reached or None,
            nodes_finished=one.nodes,
            nodes=one.last,
            seconds=one.seconds,
            line=one.line,
        )
        for one in rows
    ]
    return StudyStatusDocument(study=name, folder=str(folder), cells=cells)


def sweep_documents(rows: Iterable[SweepRow]) -> list[SweepDocument]:
    """Rows of `lorapar.adapter.sweep`."""
    return [
        SweepDocument(
            theta=row.theta,
            elements=row.total,
            selected=row.selected,
            active=row.active,
            exclusive=row.exclusive,
            shared=row.shared,
            jaccard={"/".join(pair): value for pair, value in row.jaccard.items()},
        )
        for row in rows
    ]


def finding_document(found: Finding) -> FindingDocument:
    """One thing that doctor looked at."""
    return FindingDocument(what=found.what, state=found.state, found=found.found, advice=found.advice)


def answer_document(answer: Reply) -> SaidDocument:
    """An answer of one model."""
    return SaidDocument(text=answer.text, tokens=answer.tokens, cut_off=answer.cut_off)


def garbage_document(found: Garbage, removed: int | None) -> GarbageDocument:
    """What a store holds that nothing names; `removed`: how many objects went, None where none was to."""
    return GarbageDocument(
        looked_into=found.roots,
        needed=found.reached,
        young=found.young,
        left_over=len(found.left_over),
        left_over_bytes=found.size_bytes,
        unfinished_uploads=found.unfinished,
        removed=removed,
    )


def run_document(run: Any, state: str) -> RunDocument:
    """A V2beta1Run of Kubeflow."""
    started = run.created_at.isoformat(timespec="seconds") if run.created_at else None
    return RunDocument(run=str(run.run_id), name=str(run.display_name), state=state, started=started)


def adapters_document(
    registry: Registry, rows: Iterable[AdapterRow], versions: Iterable[VersionRow] | None
) -> AdaptersDocument:
    """Adapters of a registry, and the versions of one where they were asked for."""
    return AdaptersDocument(
        registry=registry.address,
        adapters=[
            AdapterDocument(
                name=row.name,
                versions=row.versions,
                latest=row.latest,
                aliases=[_alias(alias, record) for alias, record in sorted(row.aliases.items())],
                fault=row.fault,
            )
            for row in rows
        ],
        versions=None
        if versions is None
        else [
            VersionDocument(
                version=row.number,
                aliases=list(row.names),
                verdict=row.verdict,
                published=row.published,
                fault=row.fault,
            )
            for row in versions
        ],
    )


def _alias(alias: str, record: AliasRecord) -> AliasDocument:
    return AliasDocument(
        alias=alias, version=record.version, share_percent=record.share_percent, share_reason=record.share_reason
    )


def shown_version(facts: VersionFacts) -> ShownVersion:
    """One version."""
    values = {key: value for key, value in vars(facts).items() if key not in ("names", "alias_texts")}
    return ShownVersion(aliases=list(facts.names), **values)


def diff_document(
    versions: tuple[str, str], differences: Iterable[Difference], weights: WeightDifference
) -> DiffDocument:
    """What two versions differ in."""
    return DiffDocument(
        left=versions[0],
        right=versions[1],
        differences=[DifferenceDocument(key=one.key, left=one.left, right=one.right) for one in differences],
        weights=WeightsDocument(**vars(weights)),
    )


def history_document(name: str, records: dict[str, AliasRecord]) -> HistoryDocument:
    """Every move of the aliases of an adapter, the newest first."""
    moves = [one for alias, record in sorted(records.items()) for one in _moves(alias, record)]
    return HistoryDocument(name=name, moves=sorted(moves, key=lambda move: move.moved_at, reverse=True))


def _moves(alias: str, record: AliasRecord) -> list[MoveDocument]:
    """Newest first."""
    return [
        MoveDocument(
            alias=alias,
            version=move.version,
            moved_at=move.moved_at,
            by=move.by,
            reason=move.reason,
            rollback=move.rollback,
        )
        for move in reversed(record.moves)
    ]


def why_document(registry: Registry, version: Version, alias: str | None) -> WhyDocument:
    """Why a version is what it is; `alias` is the one that it was asked for by."""
    from lorapar.registry.overview import lineage_of
    from lorapar.registry.why import reproducing_settings

    lineage = lineage_of(registry, version)
    record = registry.read_alias(version.name, alias) if alias is not None else None
    return WhyDocument(
        name=version.name,
        version=version.number,
        digest=version.digest,
        claim=registry.claim(version).model_dump(mode="json"),
        verdicts=registry.verdicts(version),
        moves=_moves(alias, record) if alias is not None and record is not None else [],
        lineage=lineage,
        settings=reproducing_settings(lineage) if lineage else "",
    )
