"""Rows from captured requests: chosen by day and answer, without duplicates, and few similar ones.

Requests are read in a fixed order, so that equal files give equal rows: first those with feedback from a person, then
the newest. A request with an answer, or with one to come from the teacher, is kept unless a kept one asks the same or
nearly the same, or its cluster is full.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lorapar.capture import Capture, known_capture, request_digest
from lorapar.capture.parts import Part
from lorapar.capture.records import CapturedRequest, Feedback, answer_by_feedback, latest_feedback
from lorapar.capture.sheet import ID as SHEET_ID
from lorapar.capture.sheet import WrittenAnswer, parse_sheet
from lorapar.config import DataConfig
from lorapar.config.capture import CaptureSource
from lorapar.config.data import CAPTURE
from lorapar.data.readers import RawRow
from lorapar.errors import BadInputError
from lorapar.records import Omission, digest_of
from lorapar.store import is_s3, open_store

Conversation = tuple[tuple[str, str], ...]
"""(role, text) of each message of a request."""
AskTeacher = Callable[[Mapping[str, Conversation]], Mapping[str, str]]
"""From requests by id to a teacher's answers; refused ones are missing."""
_ROLES = frozenset({"system", "developer", "user", "assistant"})
_NO_ANSWER = "no person has praised or corrected the answer"
_CLOCKS_DIFFER = timedelta(hours=1)
"""How far servers' clocks may differ and how long a write may take: a part this much before the last may come later."""
_MOMENT = "%Y%m%dT%H%M%S.%fZ"
_SHOWN = 5


@dataclass(frozen=True)
class CapturedRows:
    """The rows from requests, and counts."""

    rows: list[RawRow]
    notes: list[str]
    omissions: list[Omission]
    facts: dict[str, Any]
    """For the lineage: days, counts, and digests of the parts and of each request whose text is in the rows."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of each part that was read, by its key in the store."""
    unmatched: frozenset[str] | None = None
    """Ids of the sheet without a request in this capture; None without a sheet."""
    more: bool = False
    """Whether rows exist beyond the limit."""


@dataclass(frozen=True)
class _Asked:
    """A request, and the answer for its row."""

    request: CapturedRequest
    answer: str | None
    """The answer; None: a teacher writes it."""
    reference: str | None = None
    whose: str = "teacher"
    same: list[str] = field(default_factory=list)
    """Digests of requests with exactly the same text."""

    @property
    def conversation(self) -> Conversation:
        """The conversation as in a row: OpenAI's newer role `developer` becomes `system`."""
        roles = ("system" if one.role == "developer" else one.role for one in self.request.messages)
        return tuple((role, one.content) for role, one in zip(roles, self.request.messages, strict=True))

    @property
    def question(self) -> str:
        """The user's messages; a system message that every request has would make all of them similar."""
        return "\n".join(one.content for one in self.request.messages if one.role == "user")


def with_window(config: DataConfig) -> DataConfig:
    """The settings with days and parts filled in, so that later requests change nothing."""
    wanted = config.capture
    if wanted.snapshot is not None:
        return config
    if wanted.last_days is not None:
        first = datetime.now(UTC).date() - timedelta(days=wanted.last_days - 1)
        wanted = wanted.model_copy(update={"since": first, "last_days": None})
    found = [part for name in _names(config) for part in _parts(_capture(wanted, name), wanted)]
    days = sorted(part.day for part in found if not part.of_feedback)
    if not days:
        raise BadInputError(
            f"data.source: {config.named} holds no requests of the days that data.capture names ({_days_text(wanted)})"
        )
    written = max(part.written for part in found)
    recent = sorted(part.token for part in found if part.written > _sure(written))
    pinned = {"since": days[0], "until": days[-1], "snapshot": written, "recent": tuple(recent)}
    return config.model_copy(update={"capture": wanted.model_copy(update=pinned)})


def _sure(snapshot: str) -> str:
    """The time until which all parts exist, whatever the servers' clocks say."""
    moment = datetime.strptime(snapshot, _MOMENT).replace(tzinfo=UTC)
    return (moment - _CLOCKS_DIFFER).strftime(_MOMENT)


def capture_digest(config: DataConfig) -> str:
    """sha256 identity of one source's parts, and of the sheet with answers."""
    capture = _capture(config.capture, _name(config))
    parts = [[part.info.key, part.info.version] for part in _parts(capture, config.capture)]
    sheet = _sheet_bytes(config.capture)
    return digest_of({"capture": capture.name, "parts": parts, "sheet": hashlib.sha256(sheet).hexdigest()})


def captured_rows(config: DataConfig, ask: AskTeacher | None) -> CapturedRows:
    """The rows of one source `capture:NAME`, at most `data.limit`; only these are passed to `ask` for an answer.

    Without `ask`, rows that need a teacher's answer are only counted. Raises BadInputError where no row is left,
    IntegrityError for a damaged part.
    """
    wanted, name = config.capture, _name(config)
    capture = _capture(wanted, name)
    parts, files = _parts(capture, wanted), dict[str, str]()
    requests, feedback = capture.requests(parts, files), latest_feedback(capture.feedback(parts, files))
    sheet = parse_sheet(_sheet_bytes(wanted), str(wanted.file)) if wanted.file is not None else {}
    left_out: Counter[str] = Counter()
    asked = [one for row in requests if (one := _asked(row, feedback, sheet, wanted, left_out)) is not None]
    every = _chosen(asked, wanted, left_out)
    kept = every[: config.limit]
    waiting = {one.request.request_id: one.conversation for one in kept if one.answer is None}
    written = ask(waiting) if ask is not None and waiting else {}
    rows = [(one, one.answer or written.get(one.request.request_id)) for one in kept]
    if ask is not None:
        left_out["the teacher gave no whole answer"] += sum(answer is None for _, answer in rows)
    whole = [(one, answer) for one, answer in rows if answer is not None]
    omissions = _omissions(left_out, len(requests), wanted)
    if not whole and (ask is not None or not waiting):
        why = "; ".join(one.line for one in omissions) or f"it holds none of {_days_text(wanted)}"
        raise BadInputError(f"data.source: no row of {config.source} is left: {why}")
    counts = Counter(one.whose for one, _ in (whole if ask is not None else rows))
    return CapturedRows(
        rows=[_raw(capture, *one) for one in whole],
        notes=[_note(config.source, requests, counts, wanted)],
        omissions=omissions,
        facts=_facts(whole, wanted, len(requests), files),
        files=files,
        unmatched=frozenset(sheet.keys() - {one.request_id for one in requests}) if wanted.file is not None else None,
        more=len(kept) < len(every),
    )


def unmatched_text(file: str | None, found: Sequence[frozenset[str] | None]) -> list[str]:
    """A line about answers in the sheet to requests that no capture holds."""
    sheets = [one for one in found if one is not None]
    strange = sorted(frozenset.intersection(*sheets)) if sheets else []
    if not strange:
        return []
    more = f" and {len(strange) - _SHOWN:,} more" if len(strange) > _SHOWN else ""
    return [
        f"{file}: {len(strange):,} answers are not used, since no request that is read has their {SHEET_ID} "
        f"(mistyped, of other days, or deleted): {', '.join(strange[:_SHOWN])}{more}"
    ]


def _asked(
    request: CapturedRequest,
    feedback: Mapping[str, Feedback],
    sheet: Mapping[str, WrittenAnswer],
    wanted: CaptureSource,
    left_out: Counter[str],
) -> _Asked | None:
    """A request with its answer; None where it is left out, which is counted by reason."""
    roles = [one.role for one in request.messages]
    if not set(roles) <= _ROLES or roles[-1] != "user":
        left_out["its messages are not those of a user and an assistant, the user's last"] += 1
        return None
    if wanted.max_redactions is not None and request.redacted > wanted.max_redactions:
        left_out[f"more than {wanted.max_redactions} redactions"] += 1
        return None
    if (typed := sheet.get(request.request_id)) is not None:
        return _Asked(request, typed.answer, typed.reference, "person")
    if (learnt := answer_by_feedback(request, feedback.get(request.request_id))) is not None:
        return _Asked(request, learnt[0], None, learnt[1])
    if wanted.reference == "teacher":
        return _Asked(request, None)
    left_out[_NO_ANSWER + (" and the sheet has none" if wanted.reference == "file" else "")] += 1
    return None


def _chosen(asked: Sequence[_Asked], wanted: CaptureSource, left_out: Counter[str]) -> list[_Asked]:
    """The requests without duplicates, and with no cluster above its limit."""
    newest = sorted(asked, key=lambda one: (one.request.captured_at, one.request.request_id), reverse=True)
    ordered = sorted(newest, key=lambda one: one.answer is None)
    texts: dict[str, _Asked] = {}
    ids: set[str] = set()
    for one in ordered:
        key = digest_of([[role, " ".join(text.split())] for role, text in one.conversation])
        if key in texts:
            texts[key].same.append(request_digest(one.request.request_id))
            left_out["the same question"] += 1
        elif one.request.request_id in ids:
            left_out["the same request id as a newer one"] += 1
        else:
            texts[key] = one
            ids.add(one.request.request_id)
    return _not_alike(list(texts.values()), wanted, left_out)


def _not_alike(asked: Sequence[_Asked], wanted: CaptureSource, left_out: Counter[str]) -> list[_Asked]:
    from lorapar.data.similar import SimilarTexts

    similar, sizes, kept = SimilarTexts(wanted.near_duplicates, wanted.cluster_similarity), Counter[int](), []
    for one in asked:
        place = similar.place(one.question)
        if place.duplicate_of is not None:
            left_out["nearly the same question"] += 1
        elif wanted.max_per_cluster is not None and sizes[place.cluster] >= wanted.max_per_cluster:
            left_out[f"{wanted.max_per_cluster} questions like it are there"] += 1
        else:
            similar.keep(one.question, place.cluster)
            sizes[place.cluster] += 1
            kept.append(one)
    return kept


def _raw(capture: Capture, asked: _Asked, answer: str) -> RawRow:
    messages = [{"role": role, "content": text} for role, text in asked.conversation]
    row_id = request_digest(asked.request.request_id)
    row = {
        "messages": [*messages, {"role": "assistant", "content": answer}],
        "reference": asked.reference,
        "id": row_id,
    }
    return f"{CAPTURE}{capture.name}, row {row_id}", row


_REMEDIES = {
    _NO_ANSWER: "gather feedback, or set data.capture.reference to teacher or file",
    "more than": "raise data.capture.max_redactions",
    "nearly the same": "raise data.capture.near_duplicates",
    "the teacher": "give it more room with data.capture.teacher.openai.max_tokens",
}


def _omissions(left_out: Mapping[str, int], total: int, wanted: CaptureSource) -> list[Omission]:
    found = []
    for why, count in left_out.items():
        cluster = f"{wanted.max_per_cluster} questions" if wanted.max_per_cluster else "none"
        remedies = {**_REMEDIES, cluster: "raise data.capture.max_per_cluster"}
        remedy = next((what for begins, what in remedies.items() if why.startswith(begins)), "nothing is to be done")
        found.append(Omission(count=count, total=total, what="captured requests left out", why=why, remedy=remedy))
    return [one for one in found if one.count]


def _note(source: str, requests: Sequence[CapturedRequest], counts: Mapping[str, int], wanted: CaptureSource) -> str:
    whose = {
        "person": "with an answer that a person wrote",
        "praised": "with an answer that a person praised",
        "teacher": f"for the teacher {wanted.teacher.model if wanted.teacher else ''} to answer",
    }
    parts = ", ".join(f"{counts[key]:,} {words}" for key, words in whose.items() if counts.get(key))
    rows = sum(counts.values())
    return f"{source}: {len(requests):,} requests of {_days_text(wanted)}, {rows:,} rows: {parts or 'none'}"


def _facts(
    rows: Sequence[tuple[_Asked, str]], wanted: CaptureSource, requests: int, files: Mapping[str, str]
) -> dict[str, Any]:
    digests = {request_digest(one.request.request_id) for one, _ in rows} | {
        same for one, _ in rows for same in one.same
    }
    return {
        "since": str(wanted.since) if wanted.since else None,
        "until": str(wanted.until) if wanted.until else None,
        "snapshot": wanted.snapshot,
        "files": len(files),
        "files_digest": digest_of(files),
        "read": requests,
        "rows": len(rows),
        "answers": dict(sorted(Counter(one.whose for one, _ in rows).items())),
        # A single text, so that two lineages differ in one key and not in thousands.
        "requests": " ".join(sorted(digests)),
    }


def _days_text(wanted: CaptureSource) -> str:
    first, last = wanted.since, wanted.until
    if first and last:
        return f"{first} to {last}" if first != last else str(first)
    return f"from {first} on" if first else f"until {last}" if last else "any day"


def _name(config: DataConfig) -> str:
    return config.source.removeprefix(CAPTURE)


def _names(config: DataConfig) -> list[str]:
    return [_name(part) for part in config.parts if part.source.startswith(CAPTURE)]


def _capture(wanted: CaptureSource, name: str) -> Capture:
    if wanted.address is None:
        raise BadInputError(
            "data.capture.address is not set, and neither is registry.address: name the store that the server writes to"
        )
    return known_capture(open_store(wanted.address), name, f"data.source: {CAPTURE}")


def _parts(capture: Capture, wanted: CaptureSource) -> list[Part]:
    """Parts that existed when the run was planned: requests of its days, and all feedback."""
    return [
        part
        for part in capture.parts()
        if _was_there(part, wanted)
        and (part.of_feedback or wanted.since is None or part.day >= wanted.since)
        and (part.of_feedback or wanted.until is None or part.day <= wanted.until)
    ]


def _was_there(part: Part, wanted: CaptureSource) -> bool:
    if wanted.snapshot is None or wanted.recent is None:
        return wanted.snapshot is None or part.written <= wanted.snapshot
    return part.written <= _sure(wanted.snapshot) or part.token in wanted.recent


def _sheet_bytes(wanted: CaptureSource) -> bytes:
    """The sheet's bytes; none where the settings name none."""
    if wanted.file is None:
        return b""
    if is_s3(wanted.file):
        folder, _, name = wanted.file.rpartition("/")
        return open_store(folder).read(name)
    try:
        return Path(wanted.file).expanduser().read_bytes()
    except OSError as error:
        raise BadInputError(f"data.capture.file: {wanted.file} cannot be read: {error.strerror}") from None


def answer_key(wanted: CaptureSource, conversation: Conversation) -> str:
    """Digest of everything that a teacher's answer depends on."""
    teacher = wanted.teacher.model_dump(mode="json", exclude={"openai"}) if wanted.teacher else None
    more = wanted.teacher.openai.extra_body if wanted.teacher and wanted.teacher.openai else {}
    return digest_of({"teacher": teacher, "extra_body": json.dumps(more, sort_keys=True), "asked": conversation})
