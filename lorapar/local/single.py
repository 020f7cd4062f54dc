"""One stage with local folders in and out: what a developer debugs with, and what a container will run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lorapar.config import RunConfig
from lorapar.errors import BadInputError, nearest
from lorapar.local.execute import executed, new_record
from lorapar.local.folder import StageRecord
from lorapar.progress import Progress
from lorapar.stages.contract import StageCall, StageSettings, StageSpec, stage_spec
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
        made = _once("--output", _pairs("--output", outputs))
        _check_names(name, "--output", made, spec.outputs, spec.may_lack)
        return cls(
            spec,
            {key: tuple(Path(value) for value in values) for key, values in many.items()},
            {key: Path(value) for key, value in made.items()},
            _known_parameters(spec, _once("--param", _pairs("--param", parameters))),
            scratch,
        )

    def idle(self, overrides: Iterable[str]) -> list[str]:
        """Settings given on top that the stage does not read, nor what keeps its work: they change nothing."""
        read = {*self.spec.sections, "store", "checkpoint", "processes", "sharding"}
        keys = [text.partition("=")[0].strip() for text in overrides]
        return [key for key in keys if self.spec.name != "plan" and key.partition(".")[0] not in read]


def run_single(config: RunConfig, options: StageOptions, progress: Progress) -> StageRecord:
    """Run the stage; outputs are sealed with a manifest, and metrics and digests are returned."""
    spec = options.spec
    settings = _settings(config, options, progress)
    for folder in options.outputs.values():
        _make_empty(folder)
    digests = {name: [verify(path).digest for path in paths] for name, paths in options.inputs.items()}
    record = new_record(spec.name, spec.name, settings.model_dump(mode="json"), digests)
    # Without --scratch the folder goes, but for a failure, whose message may name what it left there.
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="lorapar-"))
    make_writable_folder(scratch)
    how: dict[str, Any] = {"processes": config.processes, "sharding": config.sharding}
    call = StageCall(settings, options.inputs, options.outputs, scratch, progress, **how)
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


def _settings(config: RunConfig, options: StageOptions, progress: Progress) -> StageSettings:
    """The stage's sections of the settings, and its parameters; `plan` reads the settings whole."""
    spec = options.spec
    if spec.name != "plan":
        config, description = with_number_formats(resolve_config(config, spec.sections), spec.sections)
        if description is not None:
            progress.log(f"number format {description}")
    whole = {"config": config} if spec.name == "plan" else {}
    try:
        return stage_settings(config, spec.name, {**whole, **options.parameters})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadInputError(f"--param {where}={problem['input']}: {problem['msg']}") from None


def _pairs(option: str, texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise BadInputError(f"{option} {text}: write it as name=value")
        found.setdefault(name, []).append(value)
    return found


def _once(option: str, given: Mapping[str, list[str]]) -> dict[str, str]:
    """The one value of each name."""
    for name, values in given.items():
        if len(values) > 1:
            raise BadInputError(f"{option} {name}: is given {len(values)} times; give it once")
    return {name: values[0] for name, values in given.items()}


def _check_names(
    stage: str, option: str, given: Iterable[str], known: tuple[str, ...], may_lack: tuple[str, ...] = ()
) -> None:
    for name in given:
        if name not in known:
            raise BadInputError(
                f"{option} {name}: {stage} has no such one{nearest(name, list(known))}; it has: "
                f"{', '.join(known) or 'none'}"
            )
    needed = [name for name in known if name not in may_lack]
    missing = [name for name in needed if name not in given]
    if missing:
        raise BadInputError(f"{option} {missing[0]}=FOLDER is missing; {stage} needs: {', '.join(needed)}")


def _known_parameters(spec: StageSpec[Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters, once each is known and none is missing; settings, in whole or a section, are no parameters."""
    settings = ("config", *RunConfig.model_fields)
    wanted = [name for name in spec.sections if name not in settings]
    for name, value in given.items():
        if name in settings:
            how = "--preset NAME or --config FILE" if name == "config" else f"--set {name}={value} or in --config FILE"
            raise BadInputError(f"--param {name}: {spec.name} takes it from the settings; give {how}")
        if name not in wanted:
            raise BadInputError(
                f"--param {name}: {spec.name} has no such parameter{nearest(name, wanted)}; it has: "
                f"{', '.join(wanted) or 'none'}"
            )
    missing = [name for name in wanted if name not in given and spec.settings.model_fields[name].is_required()]
    if missing:
        raise BadInputError(f"--param {missing[0]}=VALUE is missing; {spec.name} needs: {', '.join(wanted)}")
    return {name: _parsed(name, value) for name, value in given.items()}


def _parsed(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInputError(f"--param {name}={text}: not YAML: {getattr(error, 'problem', error)}") from None


def _make_empty(folder: Path) -> None:
    make_writable_folder(folder)
    refuse_other_content(folder, f"--output {folder}: the folder is not empty; give a new one")
