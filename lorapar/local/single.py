"""One stage with local folders in and out: what a developer debugs with, and what a container will run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lorapar.config import RunConfig
from lorapar.errors import BadInputError, nearest
from lorapar.local.execute import executed, new_record
from lorapar.local.folder import StageRecord
from lorapar.progress import Progress
from lorapar.stages.contract import StageCall, StageSpec, stage_spec
from lorapar.stages.plan import resolve_config, stage_settings, with_number_formats
from lorapar.store import make_writable_folder, open_store, refuse_other_content, verify, write_atomically


@dataclass(frozen=True)
class StageOptions:
    """The options of `lorapar stage`, checked against what the stage takes and makes."""

    spec: StageSpec[Any]
    inputs: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, Path]
    parameters: Mapping[str, Any]
    scratch: Path | None

    @classmethod
    def parse(
        cls,
        name: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        parameters: Iterable[str],
        scratch: Path | None,
    ) -> StageOptions:
        """Read name=value options; raises BadInputError naming what is missing, unknown or given twice."""
        spec = stage_spec(name)
        many = _pairs("--input", inputs)
        for key, values in many.items():
            if len(values) > 1 and key not in spec.many:
                raise BadInputError(f"--input {key}: given {len(values)} times, but {name} takes one")
        _check_names(name, "--input", many, (*spec.inputs, *spec.many))
        made = _pairs("--output", outputs)
        _check_names(name, "--output", made, spec.outputs)
        parsed = {key: yaml.safe_load(values[-1]) for key, values in _pairs("--param", parameters).items()}
        return cls(
            spec,
            {key: tuple(Path(value) for value in values) for key, values in many.items()},
            {key: Path(values[-1]) for key, values in made.items()},
            parsed,
            scratch,
        )


def run_single(config: RunConfig, options: StageOptions, progress: Progress) -> StageRecord:
    """Run the stage; outputs are sealed with a manifest, and metrics and digests are returned."""
    spec = options.spec
    if spec.name != "plan":
        resolved, said = with_number_formats(resolve_config(config, spec.sections), spec.sections)
        if said is not None:
            progress.say(f"number format {said}")
        settings = stage_settings(resolved, spec.name, _known_parameters(spec, options.parameters))
    else:
        settings = spec.settings(config=config)
    for folder in options.outputs.values():
        _make_empty(folder)
    digests = {name: [verify(path).digest for path in paths] for name, paths in options.inputs.items()}
    record = new_record(spec.name, spec.name, settings.model_dump(mode="json"), digests)
    # Without --scratch the folder goes, but for a failure, whose message may name what it left there.
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="lorapar-"))
    make_writable_folder(scratch)
    call = StageCall(settings, options.inputs, options.outputs, scratch, progress)
    store = open_store(config.store.address) if config.store.address else None
    failed = False
    try:
        with executed(record, call, store, config.checkpoint) as finished:
            if options.scratch is not None:
                write_atomically(scratch / "stage.json", finished.model_dump_json(indent=2) + "\n")
    except Exception:
        failed = True
        raise
    finally:
        if options.scratch is None and not failed:
            shutil.rmtree(scratch, ignore_errors=True)
    return finished


def _pairs(option: str, texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise BadInputError(f"{option} {text}: write it as name=value")
        found.setdefault(name, []).append(value)
    return found


def _check_names(stage: str, option: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise BadInputError(
                f"{option} {name}: {stage} has no such one{nearest(name, list(known))}; it has: "
                f"{', '.join(known) or 'none'}"
            )
    missing = [name for name in known if name not in given]
    if missing:
        raise BadInputError(f"{option} {missing[0]}=FOLDER is missing; {stage} needs: {', '.join(known)}")


def _known_parameters(spec: StageSpec[Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters, once each is known and none is missing; sections of the settings are no parameters."""
    wanted = [name for name in spec.sections if name not in RunConfig.model_fields]
    for name in given:
        if name not in wanted:
            raise BadInputError(
                f"--param {name}: {spec.name} has no such parameter{nearest(name, wanted)}; it has: "
                f"{', '.join(wanted) or 'none'}"
            )
    missing = [name for name in wanted if name not in given and spec.settings.model_fields[name].is_required()]
    if missing:
        raise BadInputError(f"--param {missing[0]}=VALUE is missing; {spec.name} needs: {', '.join(wanted)}")
    return given


def _make_empty(folder: Path) -> None:
    make_writable_folder(folder)
    refuse_other_content(folder, f"--output {folder}: the folder is not empty; give a new one")
