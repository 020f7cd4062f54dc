"""Settings without effect in this run: reported in a line, or refused where they are certainly a mistake."""

from collections.abc import Iterator, Mapping
from typing import Any

from lorapar.config.adapter import ScoreConfig
from lorapar.config.base import Section
from lorapar.config.run import RunConfig
from lorapar.config.systems import DEFAULT_SYSTEMS
from lorapar.config.training import PhaseConfig, systems_trained


def without_effect(config: RunConfig) -> list[str]:
    """A line for each group of settings that does nothing, though it is not at its default."""
    return [*_of_whole_kinds(config), *_of_shares(config), *_of_phases(config)]


def _of_whole_kinds(config: RunConfig) -> Iterator[str]:
    """Presets hold settings of scoring, and studies change nothing but the kind: so these are not refused."""
    if config.adapter.is_partitioned:
        return
    fields = ScoreConfig.model_fields
    idle = [f"score.{name}" for name in fields if getattr(config.score, name) != fields[name].default]
    idle += [f"systems[].shared of {one.name}" for one in config.systems if one.shared != 1.0]
    if idle:
        yield _line(idle, f"with adapter.kind {config.adapter.kind}, all of which is trained, without scores")


def _of_shares(config: RunConfig) -> Iterator[str]:
    """Shares of a system that no phase trains, or that a stage without mask trains all of."""
    if not config.adapter.is_partitioned:
        return
    trained = {system for system, _ in systems_trained(config.phases)}
    if config.systems != DEFAULT_SYSTEMS:
        for one in config.systems:
            if one.shared != 1.0 and one.name not in trained:
                yield _line([f"systems[].shared of {one.name}"], "because no phase trains it")
        return
    for name, system, method in (("alpha", "system1", "sft"), ("beta", "system2", "rl")):
        if getattr(config.partition, name) == 1.0:
            continue
        if system not in trained:
            yield _line([f"partition.{name}"], f"because no phase trains {system}")
        elif config.partition.mask not in ("both", method):
            yield _line(
                [f"partition.{name}"], f"because partition.mask {config.partition.mask} lets {method} train all"
            )


def _of_phases(config: RunConfig) -> Iterator[str]:
    """Settings of a phase that are what its section says."""
    for place, phase in enumerate(config.phases):
        if isinstance(phase, PhaseConfig):
            section: Section = config.sft if phase.method == "sft" else config.rl
            idle = [f"{'.'.join(path)}" for path in _paths(phase.settings) if _repeats(phase, section, path)]
            if idle:
                yield _line(
                    [f"phases[{place}].settings: {', '.join(idle)}"], f"the section {phase.method} says the same"
                )


def _line(names: list[str], why: str) -> str:
    return f"{', '.join(names)}: no effect, {why}; leave out"


def _paths(values: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where the values lie that are no mappings themselves."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, (*at, key))
        else:
            yield (*at, key)


def _repeats(phase: PhaseConfig, section: Section, path: tuple[str, ...]) -> bool:
    """Whether the phase is the same without one of its settings."""
    rest = phase.model_copy(update={"settings": _without(phase.settings, path)})
    try:
        return rest.of(section) == phase.of(section)
    except ValueError:  # the others need it
        return False


def _without(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    first, *others = path
    if others:
        return {**values, first: _without(values[first], tuple(others))}
    return {key: value for key, value in values.items() if key != first}
