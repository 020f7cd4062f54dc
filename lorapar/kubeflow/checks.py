"""Checks of `lorapar submit` and `schedule` before anything is sent: settings, server, and the cron expression.

Could pods read what the settings name, would the server take it? A cron expression is checked as Kubeflow's scheduled
workflows read it (robfig/cron, seconds first). This module imports nothing that takes long to load.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lorapar.addresses import is_s3, parse_address
from lorapar.config import RunConfig
from lorapar.config.data import CAPTURE, TASK_MIX
from lorapar.errors import BadInputError
from lorapar.kubeflow.placement import MODELS, checked_plugins
from lorapar.kubeflow.tasks import Takes
from lorapar.store.s3_headers import SETTINGS, in_variable

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""What Kubernetes allows as the name of a namespace (RFC 1123)."""
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
"""What Kubernetes allows as most other names, such as a ServiceAccount's."""
_LONGEST_NAME = 253
_FOLDER_STARTS = ("/", ".", "~")
_PLUGIN = re.compile(r"([a-z][a-z0-9_-]*)\.([a-z][a-z0-9_]*)=(.+)", re.DOTALL)
ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"
"""Where kfp looks for the server's address when no `--host` is given."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON_FIELDS = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_CRON_WORDS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_CRON_PART = re.compile(r"(?P<low>\*|\?|\w+)(-(?P<high>\w+))?(/(?P<step>\d+))?")
_CRON_EVERY = re.compile(r"@every ([0-9]+(\.[0-9]+)?(h|m|s|ms))+")


def check_server(host: str | None, namespace: str | None) -> None:
    """Refuse an address that is not one and a namespace that Kubernetes does not allow; raises BadInputError."""
    address = os.environ.get(ENDPOINT_VARIABLE) or None if host is None else host
    if address is not None and not _is_http(address):
        what = ENDPOINT_VARIABLE if host is None else "--host"
        raise BadInputError(f"{what} {address}: expected an address that begins with http:// or https://")
    if namespace is not None:
        check_namespace(namespace)


def check_namespace(namespace: str) -> None:
    """Refuse a namespace that Kubernetes does not allow; raises BadInputError."""
    if not _DNS_LABEL.fullmatch(namespace):
        raise BadInputError(
            f"--namespace {namespace}: names of namespaces have lower-case letters, digits and '-', at most 63, "
            "with a letter or digit at both ends"
        )


def check_service_account(name: str | None) -> None:
    """Refuse a name that Kubernetes does not allow; raises BadInputError."""
    if name is not None and not (len(name) <= _LONGEST_NAME and _DNS_NAME.fullmatch(name)):
        raise BadInputError(
            f"--service-account {name}: names of ServiceAccounts have lower-case letters, digits, '-' and '.', at most "
            f"{_LONGEST_NAME}, with a letter or digit at both ends"
        )


def plugins_input(
    given: Sequence[str], placed: Mapping[str, Mapping[str, str | bool]] | None = None
) -> dict[str, dict[str, str | bool]]:
    """Add `PLUGIN.KEY=VALUE` texts to the plugins of a placement file; raises BadInputError.

    The keys of Kubeflow's own plugin `mlflow` are checked; those of other plugins are passed on.
    """
    found: dict[str, dict[str, str | bool]] = {}
    for text in given:
        match = _PLUGIN.fullmatch(text)
        if match is None:
            raise BadInputError(
                f"--plugins {text}: write it as PLUGIN.KEY=VALUE, such as mlflow.experiment_name=lorapar"
            )
        plugin, key, value = match.groups()
        if key in found.get(plugin, {}):
            raise BadInputError(f"--plugins {plugin}.{key}: is given twice")
        switch = (plugin, key) == ("mlflow", "disabled") and value in ("true", "false")
        found.setdefault(plugin, {})[key] = value == "true" if switch else value
        try:
            checked_plugins({plugin: {key: found[plugin][key]}})
        except ValueError as error:
            raise BadInputError(f"--plugins {text}: {str(error).removeprefix(f'{plugin}.{key}: ')}") from None
    both = {plugin: dict(values) for plugin, values in (placed or {}).items()}
    for plugin, values in found.items():
        both[plugin] = {**both.get(plugin, {}), **values}
    return both


def check_store(address: str) -> None:
    """Refuse an address that is no store; raises BadInputError. `check_reach` refuses what pods cannot reach."""
    try:
        parse_address(address)
    except BadInputError as error:
        raise BadInputError(f"store: {error}") from None


def check_nodes(config: RunConfig, asked: Mapping[str, Takes], store: str | None) -> None:
    """Refuse several nodes where the training cannot be divided among them or they share no store.

    `asked` is what each task takes, as the package passes it to `plan`; without a `store` it is the pipeline's own.
    Raises BadInputError.
    """
    for task, takes in asked.items():
        if takes.nodes == 1:
            continue
        if store is not None and not is_s3(store):
            raise BadInputError(
                f"store: {store} is a folder, and {task} trains on {takes.nodes} nodes, which share none; name "
                "s3://BUCKET/PREFIX"
            )
        from lorapar.training.shares import nodes_text

        nodes_text(config, task, takes.nodes, takes.processes)


def check_webhook(address: str) -> None:
    """Refuse an address that cannot be posted to. The message does not repeat it, since it may hold a token."""
    if address and not _is_http(address):
        raise BadInputError("webhook: expected an address that begins with https:// or http://")


def check_reach(config: RunConfig, store: str | None, mounts: Sequence[str] = ()) -> None:
    """Refuse what pods cannot read or write: they see buckets, the hub and `mounts`, but no folder of this machine.

    Raises BadInputError naming the setting.
    """
    if config.report.trackers:
        raise BadInputError(
            "report.trackers: shows runs on one machine; for MLflow leave it out and use Kubeflow's own plugin: "
            "--plugins mlflow.experiment_name=NAME"
        )
    for setting, variable in SETTINGS.items():
        if value := getattr(config.store, setting):
            raise BadInputError(
                f"store.{setting}: every pod needs it, and takes it from the Secret `lorapar-credentials`; put "
                f"{variable}={in_variable(value)} there, and leave it out here"
            )
    addresses = {"registry.address": config.registry.address, "data.capture.address": config.data.capture.address}
    for setting, address in {"store": store, **addresses}.items():
        if address is not None:
            _require_bucket(setting, address)
    for setting, source in _rows(config).items():
        if _is_file(source) and not _is_below(source, mounts):
            raise BadInputError(
                f"{setting}: {source} is on this machine, where no pod can read it; "
                "upload it and name its s3:// address"
            )
    _check_adapter(config, mounts)
    for benchmark in config.evaluate.benchmarks:
        if benchmark.task_folder is not None and not _is_below(benchmark.task_folder, mounts):
            raise BadInputError(
                f"evaluate.benchmarks[{benchmark.task}].task_folder: {benchmark.task_folder} is on this machine, "
                "where no pod can read it; mount a claim with it by a placement file and name its path there"
            )
    for setting, name in _models(config).items():
        if name.startswith(_FOLDER_STARTS) and not _is_below(name, mounts):
            raise BadInputError(
                f"{setting}: {name} is on this machine, where no pod can read it; copy it to a bucket (`lorapar "
                f"models mirror`), or name one below {MODELS} and mount a claim there with a placement file"
            )


def _check_adapter(config: RunConfig, mounts: Sequence[str]) -> None:
    adapter = config.model.adapter
    if adapter is None or _is_below(adapter, mounts):
        return
    if adapter.startswith(_FOLDER_STARTS) or (Path(adapter) / "adapter_config.json").is_file():
        raise BadInputError(
            f"model.adapter: {adapter} is on this machine, where no pod can read it; name NAME@VERSION of the "
            f"registry, or a folder below {MODELS} and mount a claim there with a placement file"
        )


def _rows(config: RunConfig) -> dict[str, str]:
    """Addresses of rows, by the setting that names them."""
    keys = [f"data.sources[{place}].source" for place in range(len(config.data.sources))] or ["data.source"]
    found: dict[str, str | None] = dict(zip(keys, (part.source for part in config.data.parts), strict=True))
    found["edits.source"] = config.edits.source
    found["data.capture.file"] = config.data.capture.file
    for benchmark in config.evaluate.benchmarks:
        found[f"evaluate.benchmarks[{benchmark.task}].data"] = benchmark.data
        found[f"evaluate.benchmarks[{benchmark.task}].few_shot_data"] = benchmark.few_shot_data
    return {setting: source for setting, source in found.items() if source is not None}


def _models(config: RunConfig) -> dict[str, str]:
    """Names of models, by the setting; models behind an endpoint are left out."""
    own = {f"teachers[{one.name}].model": one.model for one in config.teachers if one.model and one.endpoint is None}
    return {"model.name": config.model.name, **own}


def _is_http(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _require_bucket(setting: str, address: str) -> None:
    if isinstance(parse_address(address), Path):
        raise BadInputError(
            f"{setting}: {address} is a folder, and the pods of a run share none; name s3://BUCKET/PREFIX"
        )


def _is_file(source: str) -> bool:
    """Whether rows come from a local file or folder: one that exists here, or a text that can only be a path."""
    if "://" in source or source.startswith(("hub:", CAPTURE)) or source == TASK_MIX:
        return False
    return source.startswith(_FOLDER_STARTS) or Path(source).suffix != "" or Path(source).exists()


def _is_below(path: str, mounts: Sequence[str]) -> bool:
    return ".." not in Path(path).parts and any(path.startswith(f"{mount}/") for mount in mounts)


def check_cron(cron: str) -> None:
    """Raise BadInputError naming the field that is wrong; six fields, or a word such as `@daily`."""
    if cron in _CRON_WORDS or _CRON_EVERY.fullmatch(cron):
        return
    if cron.startswith("@"):
        raise BadInputError(f"CRON '{cron}': no such word; known: {', '.join(_CRON_WORDS)}, and '@every 12h'")
    fields = cron.split()
    if len(fields) != len(_CRON_FIELDS):
        raise BadInputError(f"CRON '{cron}': expected six fields, the first of them seconds, such as '0 0 3 * * *'")
    for text, (name, low, high, words) in zip(fields, _CRON_FIELDS, strict=True):
        if not all(_fits(part, low, high, words) for part in text.split(",")):
            named = f" or {words[0]} to {words[-1]}" if words else ""
            raise BadInputError(
                f"CRON '{cron}': {name} '{text}': expected {low} to {high}{named}, `*`, a range `{low}-{high}`, a step "
                "`*/5`, or several with commas; the fields are second, minute, hour, day of month, month, day of week"
            )


def _fits(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    found = _CRON_PART.fullmatch(part)
    if found is None or found["step"] == "0" or (found["low"] in "*?" and found["high"]):
        return False
    if found["low"] in "*?":
        return True
    first = _number(found["low"], low, words)
    last = first if found["high"] is None else _number(found["high"], low, words)
    return first is not None and last is not None and low <= first <= last <= high


def _number(text: str, low: int, words: tuple[str, ...]) -> int | None:
    if text.lower() in words:
        return words.index(text.lower()) + low
    return int(text) if text.isascii() and text.isdigit() else None
