"""A server's settings, from its environment; `lorapar serve` prints them, a chart sets them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorapar.basemodel.cache import cache_root
from lorapar.config.capture import CaptureConfig
from lorapar.config.load import parse_settings, read_text
from lorapar.config.mistakes import validated
from lorapar.errors import BadInputError, nearest
from lorapar.registry import CANDIDATE, Reference, parse_reference

REGISTRY = "LORAPAR_REGISTRY"
PREFIX = "LORAPAR_SERVING_"
CAPTURE = PREFIX + "CAPTURE"
# Kubernetes tells pods of a Service named lorapar-serving by variables that begin the same.
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?)")


class ServingSettings(BaseModel):
    """Settings of one server; each is read from `LORAPAR_SERVING_<NAME>`, the registry from `LORAPAR_REGISTRY`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: str
    """Address of the registry: s3://BUCKET/PREFIX or a folder."""
    adapters: str = ""
    """What is served, separated by commas: NAME for what `production` names, NAME@ALIAS for another alias."""
    base_model: str = ""
    """Name of the base model as the adapters' files give it; empty: what the server's --model says."""
    base_digest: str = ""
    """Its identity as `base.digest` of a lineage; `any`: not compared; empty: found out from --model and --revision."""
    cache: Path = Field(default_factory=lambda: cache_root() / "adapters")
    """Folder for downloaded versions; may be thrown away at any time the server is not running."""
    cache_versions: int = Field(8, ge=1)
    """Versions of one adapter kept in that folder besides those in use."""
    poll_seconds: float = Field(10.0, gt=0)
    """Time between two looks at the aliases; a replica follows a move within this time plus one download and load."""
    startup_seconds: float = Field(120.0, ge=0)
    """Longest wait for the first adapters before the server takes requests."""
    canary_requests: int = Field(30, ge=1)
    """Requests a canary needs before it is judged, on this replica."""
    canary_error_increase: float = Field(0.05, ge=0, le=1)
    """A canary ends where its share of failed requests is above production's by more than this."""
    canary_latency_ratio: float = Field(1.5, gt=0)
    """A canary ends where its median time to the first byte is above production's times this."""
    canary_reward: str = ""
    """What judges answers: package.module:function, or a YAML file with a judge; empty: answers are not looked at."""
    canary_reward_share_percent: float = Field(10.0, gt=0, le=100)
    """Share of the answers of both sides that it sees."""
    canary_reward_decrease: float = Field(0.05, ge=0)
    """A canary ends where its mean reward is below production's by more than this and by more than chance."""
    capture: str = ""
    """What is kept of requests and answers: YAML or JSON of `lorapar.config.capture.CaptureConfig`, or a file with it;
    empty: nothing is."""

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """The aliases that are served; raises BadInputError for what is none."""
        return tuple(_alias(text.strip()) for text in self.adapters.split(",") if text.strip())

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the adapters that are served."""
        return frozenset(reference.name for reference in self.references)

    def environment(self) -> dict[str, str]:
        """The variables that say the same; those at their default are left out."""
        values = {
            PREFIX + name.upper(): str(value)
            for name, value in self.model_dump(exclude_defaults=True).items()
            if name != "registry"
        }
        return {REGISTRY: self.registry, **values}


def settings_from(environment: Mapping[str, str] | None = None) -> ServingSettings:
    """Settings as the environment gives them; raises BadInputError that names the variable."""
    given = os.environ if environment is None else environment
    if not given.get(REGISTRY):
        raise BadInputError(f"{REGISTRY} is not set: the server needs the address of the registry its adapters lie in")
    values: dict[str, Any] = {
        name: given[PREFIX + name.upper()] for name in ServingSettings.model_fields if PREFIX + name.upper() in given
    }
    known = {PREFIX + name.upper() for name in ServingSettings.model_fields}
    ours = (name for name in given if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name))
    if unknown := sorted(set(ours) - known):
        raise BadInputError(f"{unknown[0]} is not a setting of serving{nearest(unknown[0], sorted(known))}")
    try:
        settings = ServingSettings(registry=given[REGISTRY], **values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{PREFIX}{str(first['loc'][0]).upper()}: {first['msg']}") from None
    settings.references  # noqa: B018 -- a wrong name should end the start of the server, not its first request
    return settings


def _alias(text: str) -> Reference:
    reference = parse_reference(text)
    if reference.alias is None:
        raise BadInputError(
            f"{PREFIX}ADAPTERS: {text} is a version; name an alias to follow (a client may ask for versions anyway)"
        )
    return reference


def read_capture(given: str, origin: str) -> CaptureConfig:
    """The settings in a YAML or JSON text, or in the file that is named; raises BadInputError for what is wrong."""
    text = given.strip()
    if text.endswith((".yaml", ".yml", ".json")) and "\n" not in text and not text.startswith("{"):
        origin = f"{origin}: {text}"
        text = read_text(Path(text), origin)
    return validated(CaptureConfig, parse_settings(text, origin), origin)


def capture_config(settings: ServingSettings, origin: str = CAPTURE) -> CaptureConfig:
    """The settings of the server's capture, adapters compared with those that it serves; raises BadInputError."""
    config = read_capture(settings.capture, origin)
    # The candidate answers a canary's share of the requests for the bare name.
    aliases = {f"{one.name}@{one.alias}" for one in settings.references} | {
        f"{one}@{CANDIDATE}" for one in settings.names
    }
    for one in config.adapters:
        served = sorted(aliases if "@" in one else settings.names)
        if one not in served:
            raise BadInputError(
                f"{origin}: adapters: {one} is not served here{nearest(one, served)}; there is {', '.join(served)}"
            )
    return config


def compact_text(config: CaptureConfig) -> str:
    """The settings that are not at their defaults, in one line of JSON, for a variable."""
    return json.dumps(config.model_dump(mode="json", exclude_defaults=True), separators=(",", ":"), ensure_ascii=False)
