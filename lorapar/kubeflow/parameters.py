"""The parameters of the pipeline: what a person may set in Kubeflow's form, and the run's settings read from them.

They are few, grouped, and each has a safe default. One of them holds the run's settings, which hold everything else. A
test freezes their names, types and defaults; `pipelines/form.py` makes them the pipeline's signature. An error names
the parameter with the wrong value. `plan` reads them in the cluster and `lorapar submit` beforehand, so this module
imports nothing that takes long.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lorapar.addresses import is_s3
from lorapar.config import RunConfig, apply_override, dump_changed, parse_settings, preset_text, validate_settings
from lorapar.errors import BadInputError, LoraparError, nearest
from lorapar.kubeflow.checks import check_reach, check_store, check_webhook


@dataclass(frozen=True)
class Parameter:
    """One field of the form."""

    name: str
    type: type
    default: Any
    description: str
    key: str = ""
    """The key of the settings that it sets, where it sets one; an empty text leaves that to the settings."""


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "config", str, "preset:demo", "The run's settings: `preset:NAME`, an s3:// address of a YAML file, or YAML"
    ),
    Parameter("overrides", str, "", "Single settings on top, one `section.key=value` a line"),
    Parameter(
        "base_model", str, "", "Hub name of the base model (model.name); empty: as in the settings", "model.name"
    ),
    Parameter(
        "dataset", str, "", "Where the examples come from (data.source); empty: as in the settings", "data.source"
    ),
    Parameter(
        "teachers",
        str,
        "",
        "The voters: hub names separated by commas, or YAML as in the settings; empty: as in the settings",
        "teachers",
    ),
    Parameter(
        "theta",
        str,
        "",
        "Share of the total importance kept, above 0 up to 1; empty: as in the settings",
        "partition.theta",
    ),
    Parameter(
        "alpha",
        str,
        "",
        "Share of the shared elements that SFT may train; empty: as in the settings",
        "partition.alpha",
    ),
    Parameter(
        "beta", str, "", "Share of the shared elements that RL may train; empty: as in the settings", "partition.beta"
    ),
    Parameter("adapter_name", str, "", "Name the adapter is published under (name); empty: as in the settings", "name"),
    Parameter(
        "registry", str, "", "Where adapters are published; empty: `registry` below the store", "registry.address"
    ),
    Parameter("promote", bool, True, "Let `production` move to the new version where the gate finds it better"),
    Parameter("store", str, "s3://mlpipeline/lorapar", "Where data, checkpoints and results lie: s3://BUCKET/PREFIX"),
    Parameter("gpu_pool", dict, {}, 'Labels of the nodes that GPU stages run on, such as {"pool": "gpu"}; empty: any'),
    Parameter("parallelism", int, 4, "How many vote tasks of a round run at once, 1 or more"),
    Parameter("webhook", str, "", "Address that the closing summary is posted to as JSON; empty: nowhere"),
)


def pipeline_parameters(
    config: RunConfig, given: Sequence[str], store: str | None, mounts: Sequence[str] = ()
) -> dict[str, Any]:
    """The pipeline's parameters, checked as `plan` checks them; raises BadInputError naming what is wrong.

    `mounts` are folders that the run's pods have; this machine need not have them.
    """
    values: dict[str, Any] = {"config": dump_changed(config)}
    if store is not None:
        check_store(store)
        values["store"] = store
    known = {parameter.name: parameter for parameter in PARAMETERS}
    named: set[str] = set()
    for text in given:
        name, equals, value = text.partition("=")
        if name == "config":
            raise BadInputError(
                "--param config: here the settings come from --preset NAME or --config FILE, with --set on top"
            )
        if name not in known:
            raise BadInputError(f"--param {text}: the pipeline has no such parameter{nearest(name, list(known))}")
        if not equals:
            raise BadInputError(f"--param {text}: write it as {name}=VALUE")
        if name in named:
            raise BadInputError(f"--param {name}: is given twice; give it once")
        named.add(name)
        values[name] = _typed(name, value, known[name].type)
    whole = {parameter.name: parameter.default for parameter in PARAMETERS} | values
    check_reach(run_config(whole), values.get("store"), mounts)
    parallelism_of(whole["parallelism"])
    gpu_pool_of(whole["gpu_pool"])
    check_webhook(whole["webhook"])
    return values


def parallelism_of(value: Any) -> int:
    """How many vote tasks run at once; raises BadInputError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
        raise BadInputError(f"parallelism: expected a whole number of 1 or more, got {_as_typed(value)}")
    return int(value)


def gpu_pool_of(value: Any) -> dict[str, str]:
    """Labels of nodes; raises BadInputError."""
    if not isinstance(value, dict) or not all(isinstance(label, str) for label in value.values()):
        raise BadInputError(f'gpu_pool: expected labels of nodes such as {{"pool": "gpu"}}, got {_as_typed(value)}')
    return {str(key): label for key, label in value.items()}


def _as_typed(value: Any) -> str:
    """A value as a person wrote it: Kubeflow passes every number on as a float."""
    return re.sub(r"\b(\d+)\.0\b", r"\1", json.dumps(value, ensure_ascii=False, default=str))


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The run's settings with the parameters on top."""
    origin, text = _config_text(str(values.get("config") or "preset:demo"))
    settings = parse_settings(text, origin)
    config = validate_settings(settings, origin)
    for override in str(values.get("overrides") or "").splitlines():
        if override.strip():
            config = _with(settings, override, "overrides")
    for parameter in PARAMETERS:
        value = str(values.get(parameter.name) or "").strip()
        if parameter.name == "registry" and not (value or config.registry.address):
            value = f"{str(values.get('store') or '.').rstrip('/')}/registry"
        if parameter.key and value:
            plain = _teachers(value) if parameter.name == "teachers" else value
            config = _with(settings, f"{parameter.key}={plain}", parameter.name)
    # Promotion needs both the form and the settings: a form's default must not overrule the settings.
    return config if _promote(values.get("promote", True)) else _with(settings, "gate.promote=false", "promote")


def _config_text(config: str) -> tuple[str, str]:
    """The name of the settings in errors, and their YAML."""
    if config.startswith("preset:"):
        name = config.removeprefix("preset:").strip()
        try:
            return f"config: preset {name}", preset_text(name)
        except BadInputError as error:
            raise BadInputError(f"config: {str(error).removeprefix('--preset: ')}") from None
    if is_s3(config):
        folder, _, key = config.strip().rpartition("/")
        try:
            from lorapar.store import open_store

            return f"config: {config}", open_store(folder).read(key).decode("utf-8")
        except UnicodeDecodeError:
            raise BadInputError(f"config: {config} is not UTF-8; save it as UTF-8") from None
        except LoraparError as error:
            error.args = (f"config: {error}",)
            raise
    if ":" not in config:
        raise BadInputError(
            f"config: '{config}' is neither `preset:NAME` nor an s3:// address nor YAML with sections such as `model:`"
        )
    return "config", config


def _with(settings: dict[str, Any], override: str, parameter: str) -> RunConfig:
    """Put one value on top of the settings; changes `settings` too."""
    trial = copy.deepcopy(settings)
    try:
        apply_override(trial, override.strip())
        config = validate_settings(trial, parameter)
    except BadInputError as error:
        text = str(error).removeprefix("--set ")
        raise BadInputError(text if text.startswith(f"{parameter}: ") else f"{parameter}: {text}") from None
    settings.clear()
    settings.update(trial)
    return config


def _teachers(value: str) -> str:
    """Teachers as YAML in one line; hub names become teachers named after them."""
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadInputError(f"teachers: not YAML: {getattr(error, 'problem', error)}") from None
    if isinstance(parsed, str):
        parsed = [part.strip() for part in parsed.split(",") if part.strip()]
    if not isinstance(parsed, list):
        raise BadInputError(f"teachers: expected names separated by commas or a YAML list, got {value!r}")
    return json.dumps([_named(one) if isinstance(one, str) else one for one in parsed])


def _named(model: str) -> dict[str, str]:
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in model)
    return {"name": kept.strip("-._")[:64], "model": model}


def _promote(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadInputError(f"promote: expected true or false, got {value!r}")
    return value


def _typed(name: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {bool: "true or false", int: "a whole number", dict: "labels such as {pool: gpu}"}
        raise BadInputError(f"--param {name}={text}: expected {words[kind]}")
    return value
