"""Make a version known to Kubeflow Model Registry: `lorapar adapters register`.

The adapter becomes a registered model, its version a model version, and the folder in the bucket a model artifact. The
bytes stay where they are; digest, base, verdict and the address of the lineage go along as custom properties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorapar.errors import BadInputError
from lorapar.registry.layout import version_prefix
from lorapar.registry.lineage import LINEAGE_FILE
from lorapar.registry.model_registry_client import ModelRegistryClient, Resource
from lorapar.registry.overview import last_verdict, lineage_of
from lorapar.registry.registry import Registry
from lorapar.registry.signature import require_trusted
from lorapar.registry.versions import Version
from lorapar.store import is_s3

DIGEST = "digest"
"""Custom property by which a model version is known to be this version."""


@dataclass(frozen=True)
class Registered:
    """What `register_version` did."""

    version: Version
    model_id: str
    version_id: str
    new: bool
    """False: it was there already."""


def register_version(registry: Registry, reference: str, address: str) -> Registered:
    """Register a version with the Model Registry at an address; one that is there is found, never doubled.

    Of one that is there, a verdict that has changed since is brought up to date, and a registration that broke off is
    finished. Raises BadInputError for a registry that is no bucket, for a version that is not there, and where the
    Model Registry has another adapter by this name and number; IntegrityError for a damaged or an unsigned version,
    UnreachableError where the Model Registry is silent or refuses.
    """
    if not is_s3(registry.address):
        raise BadInputError(
            f"{registry.address}: only versions in a bucket can be registered; a folder of this machine means nothing "
            "to a cluster"
        )
    version = registry.resolve(reference)
    require_trusted(registry.store, version)
    registry.require_whole(version)
    with ModelRegistryClient(address) as client:
        model, _ = client.find_or_create("registered_model", _model(version), name=version.name)
        found, known = client.find_or_create(
            "model_version",
            {"name": str(version.number), "registeredModelId": model.id, "state": "LIVE", **_about(registry, version)},
            name=str(version.number),
            parentResourceId=model.id,
        )
        if known:
            _bring_up_to_date(client, registry, version, found)
        uri = f"{registry.address}/{version_prefix(version.name, version.number)}"
        client.add_artifact(found, _artifact(version, uri))
    return Registered(version, model.id, found.id, new=not known)


def _bring_up_to_date(client: ModelRegistryClient, registry: Registry, version: Version, found: Resource) -> None:
    if found.text(DIGEST) != version.digest:
        other = found.text(DIGEST)
        what = f"with the digest {other}" if other else "that lorapar has not registered"
        raise BadInputError(
            f"{client.address}: {version.name} has a version {version.number} there already, {what}; nothing was "
            f"changed, and {version} of {registry.address} has the digest {version.digest}"
        )
    about = _about(registry, version)
    properties = about["customProperties"]
    if any(found.custom_properties.get(key) != value for key, value in properties.items()):
        # The API replaces all of them: those that somebody else has added are sent back.
        client.update_version(found, {**about, "customProperties": {**found.custom_properties, **properties}})


def _model(version: Version) -> dict[str, Any]:
    return {"name": version.name, "description": f"LoRA adapter {version.name}, tuned with lorapar", "state": "LIVE"}


def _about(registry: Registry, version: Version) -> dict[str, Any]:
    """Author, description and custom properties of a model version."""
    claim, lineage, verdict = registry.claim(version), lineage_of(registry, version), last_verdict(registry, version)
    base, serving = lineage.get("base", {}), lineage.get("serving", {})
    texts = {
        DIGEST: version.digest,
        "verdict": verdict or "none",
        "run": claim.run,
        "base_model": base.get("name"),
        "base_model_revision": base.get("revision"),
        "base_model_digest": base.get("digest"),
        "lineage": f"{registry.address}/{version_prefix(version.name, version.number)}{LINEAGE_FILE}"
        if lineage
        else "",
    }
    numbers = {"lora_rank": serving.get("rank"), "vllm_max_lora_rank": serving.get("max_lora_rank")}
    of_base = f" for {base['name']}" if base else ""
    return {
        "author": claim.by,
        "description": f"Version {version.number} of the LoRA adapter {version.name}{of_base}",
        "customProperties": {
            **{
                key: {"metadataType": "MetadataStringValue", "string_value": text}
                for key, text in texts.items()
                if text
            },
            **{
                key: {"metadataType": "MetadataIntValue", "int_value": str(number)}
                for key, number in numbers.items()
                if number
            },
        },
    }


def _artifact(version: Version, uri: str) -> dict[str, Any]:
    return {
        "artifactType": "model-artifact",
        "name": version.name,
        "uri": uri,
        "modelFormatName": "peft",
        "modelFormatVersion": "1",
        "state": "LIVE",
    }
