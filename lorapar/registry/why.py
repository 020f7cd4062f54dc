"""Why a version is what it is: one page from a name back to verdict, run, votes, rows and images, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lorapar.config import RunConfig, dump_changed
from lorapar.registry.aliases import AliasRecord
from lorapar.registry.chat_settings import stop_words
from lorapar.registry.overview import canary_words, lineage_of, verdict_words
from lorapar.registry.reference import CANDIDATE, PRODUCTION, parse_reference
from lorapar.registry.registry import Registry
from lorapar.registry.versions import Claim, Version

Section = tuple[str, list[str]]
_WIDTH = 12


def why(registry: Registry, reference: str) -> str:
    """The page; raises BadInputError for what is not there."""
    parsed, version = parse_reference(reference), registry.resolve(reference)
    claim, lineage = registry.claim(version), lineage_of(registry, version)
    alias = registry.read_alias(version.name, parsed.alias) if parsed.alias is not None else None
    sections = [
        _named(str(parsed), version, alias),
        _tried(registry, version),
        _judged(registry, version),
        _made(claim, lineage),
        *_lineage(lineage),
        _proved(claim),
    ]
    page = "\n".join(_lines(title, lines) for title, lines in sections if lines)
    return f"{page}\n\n{_reproduced(lineage)}"


def reproducing_settings(lineage: Mapping[str, Any]) -> str:
    """YAML that `lorapar run --config` takes: the settings that are not at their defaults, data and model pinned."""
    settings = lineage.get("settings", {})
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError:
        import yaml

        # Of another version, whose keys this one does not know: as they were written.
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return dump_changed(config)


def _named(reference: str, version: Version, alias: AliasRecord | None) -> Section:
    lines = [f"{reference} is version {version.number}", f"digest {version.digest}"]
    if alias is not None:
        lines.append(f"named so since {alias.moved_at} by {alias.by}" + (f": {alias.reason}" if alias.reason else ""))
        lines += [
            f"before: version {move.version} from {move.moved_at}, by {move.by}" for move in reversed(alias.history)
        ][:5]
    return version.name, lines


def _tried(registry: Registry, version: Version) -> Section:
    """The canary of a version: its share, or why it ended."""
    candidate = registry.read_alias(version.name, CANDIDATE)
    words = canary_words(candidate) if candidate is not None and candidate.version == version.number else ""
    return "canary", [f"as {CANDIDATE}: {words}"] if words else []


def _judged(registry: Registry, version: Version) -> Section:
    lines = []
    for verdict in registry.verdicts(version)[-3:]:
        lines += [verdict_words(verdict), *(f"  {reason}" for reason in verdict.get("reasons", []))]
    return "verdict", lines or [f"none: no gate has judged it, so no run has moved {PRODUCTION} to it"]


def _made(claim: Claim, lineage: Mapping[str, Any]) -> Section:
    lines = [f"published {claim.claimed_at} by {claim.by}"]
    if claim.run:
        lines.append(f"by the run {claim.run}")
    lines += [f"image {name}: {image}" for name, image in sorted(claim.images.items())]
    lines += [f"in {name}: {run}" for name, run in sorted(claim.trackers.items())]
    if lineage:
        lines.append(f"lorapar {lineage['code'].get('version', '?')}")
    return "made", lines


def _lineage(lineage: Mapping[str, Any]) -> list[Section]:
    if not lineage:
        return [("lineage", ["none: this folder was published without lineage.json"])]
    base, data, labels = lineage["base"], lineage["data"], lineage["labels"]
    rows = ", ".join(f"{count:,} {name}" for name, count in labels["rows"].items())
    teachers = [f"{name}: {about.get('model', '?')}" for name, about in lineage["teachers"].items()]
    return [
        ("base", [f"{base['name']} at {base['revision'] or 'no revision'} ({_held(base)})", _digest(base["digest"])]),
        ("data", [str(data["source"]), *_captures(data), _digest(data["source_digest"]), f"examples {data['digest']}"]),
        ("goes on", _parent(lineage.get("parent"))),
        ("packed", _compacted(lineage.get("compacted"))),
        ("votes", [*teachers, *(f"votes {digest}" for digest in lineage["votes"])]),
        ("rows", [rows, f"labels {labels['digest']}"]),
        ("partition", _facts(lineage["partition"])),
        ("training", _facts(lineage["training"])),
        ("picked", _picked(lineage.get("picked"))),
        ("serving", [*_facts(lineage["serving"]), *_ends(lineage["serving"])]),
    ]


def _captures(data: Mapping[str, Any]) -> list[str]:
    """Of each capture, the days and how many of its requests became rows."""
    return [
        f"capture {name}: {one['rows']:,} rows of {one['read']:,} requests, {one['since']} to {one['until']}"
        for name, one in sorted((data.get("captures") or {}).items())
    ]


def _held(base: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (base["dtype"], base.get("quantization"))))


def _compacted(packed: Mapping[str, Any] | None) -> list[str]:
    if not packed:
        return []
    lost = f"no module lost more than {100 * packed['largest_relative_error']:.3g}% of its norm"
    return [f"from {packed['version']}, whose rank was {packed['rank']}; {lost}", _digest(packed["digest"])]


def _picked(pick: Mapping[str, Any] | None) -> list[str]:
    """One line an adapter that was compared."""
    if not pick:
        return []
    lines = []
    for one in pick["candidates"]:
        against = f", against the last {one['wins']} won, {one['losses']} lost, p {one['p_value']:.2g}"
        lines.append(f"step {one['step']}: {one['right']} right{against if 'wins' in one else ''}")
    rows = f"by {pick['development_rows']} development rows; better below p {pick['p_below']:.2g}"
    return [f"step {pick['step']} of {pick['steps']}, {rows}", *lines]


def _parent(parent: Mapping[str, Any] | None) -> list[str]:
    if not parent:
        return []
    how = "its elements trained further" if parent["continued"] else "held frozen beside the new elements"
    return [f"from {parent['adapter']}, {how}", _digest(parent["digest"])]


def _ends(serving: Mapping[str, Any]) -> list[str]:
    words = stop_words(serving)
    return [f"answers end with {words}, which servers must be configured with"] if words else []


def _proved(claim: Claim) -> Section:
    return "proof", _facts(claim.verification)


def _reproduced(lineage: Mapping[str, Any]) -> str:
    if not lineage:
        return "Settings: not known, there is no lineage."
    return (
        "These settings make it again (`lorapar run --config FILE`, same version of lorapar and same images):\n\n"
        + reproducing_settings(lineage)
    )


def _facts(values: Mapping[str, Any]) -> list[str]:
    single = {key: value for key, value in values.items() if isinstance(value, str | int | float)}
    return [f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in single.items()]


def _digest(value: Any) -> str:
    return f"sha256 {value}" if value else "no digest"


def _lines(title: str, lines: list[str]) -> str:
    return "\n".join(f"{title if place == 0 else '':<{_WIDTH}}{line}" for place, line in enumerate(lines))
