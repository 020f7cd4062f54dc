"""One version of an adapter as a manifest for KServe, whose server loads it at its start and never changes it.

For a cluster that serves with KServe's own vLLM, without aliases, canary or version header: a promotion is a new
manifest. The kind is `LLMInferenceService` (KServe 0.16 and later), whose LoRA adapters may be in S3.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lorapar.basemodel.resolve import Kind, kind_of
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, IntegrityError
from lorapar.registry import Registry, Version, stop_strings, stop_token_ids
from lorapar.registry.layout import version_prefix
from lorapar.registry.overview import lineage_of
from lorapar.serving.base_address import compare_address
from lorapar.serving.base_identity import base_of, base_text, is_on_hub
from lorapar.serving.command import served_rank
from lorapar.store import is_s3

_URI = re.compile(r"(pvc|s3|hf|oci|gs|https)://[^/\s]+\S*$")
_DEFAULT_RANK = 16
"""vLLM's default of --max-lora-rank."""


def kserve_manifest(registry: Registry, version: Version, base_uri: str | None = None) -> dict[str, Any]:
    """An LLMInferenceService with the version as its LoRA adapter, requested as `model: NAME@VERSION`.

    `base_uri` is where KServe finds the base model, if not at the hub or bucket it was trained from.

    Raises BadInputError for a registry that is not in S3, and a base model in a folder without `base_uri`.
    """
    if not is_s3(registry.address):
        raise BadInputError(
            f"{registry.address}: KServe fetches adapters from S3; give a registry at s3://BUCKET/PREFIX"
        )
    base = base_of(registry, version)
    folder = version_prefix(version.name, version.number).rstrip("/")
    rank = served_rank(registry, version)
    lora: dict[str, Any] = {"adapters": [{"name": str(version), "uri": f"{registry.address}/{folder}"}]}
    if rank > _DEFAULT_RANK:  # the first releases with LoRA lack this field, so only where it is needed
        lora["maxRank"] = rank
    serving = lineage_of(registry, version).get("serving", {})
    ends = {"stop-token-ids": stop_token_ids(serving), "stop": stop_strings(serving)}
    endings = {f"lorapar.io/{name}": json.dumps(found) for name, found in ends.items() if found}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {
            "name": _object_name(version),
            "annotations": {"lorapar.io/adapter": str(version), "lorapar.io/digest": version.digest, **endings},
        },
        "spec": {
            "model": {
                "name": base.name,
                "uri": _base_uri(version, base, base_uri),
                "lora": lora,
            },
            "replicas": 1,
            "router": {"gateway": {}, "route": {}, "scheduler": {}},
        },
    }


def require_same_base(registry: Registry, version: Version, manifest: dict[str, Any]) -> str:
    """Raise IntegrityError where KServe would fetch another base; returns why that is unknown, or ''."""
    base, uri = base_of(registry, version), str(manifest["spec"]["model"]["uri"])
    compared = compare_address(base, uri)
    if compared.found == "other":
        raise IntegrityError(
            f"{version}: was trained on the base model {base_text(base)}, and {uri} holds another one "
            f"({compared.is_there}); give the address of the one it was trained on as --base, or say --other-base if "
            "it is meant, such as a quantised copy"
        )
    if compared.found == "same":
        return ""
    return f"{uri} could not be compared with the base model {base_text(base)}: {compared.is_there}"


def _base_uri(version: Version, base: ModelConfig, given: str | None) -> str:
    """The address from which KServe's storage initializer fetches the base."""
    if given is not None:
        if not _URI.match(given):
            raise BadInputError(
                f"--base {given}: write pvc://CLAIM/PATH, s3://BUCKET/PREFIX, hf://NAME:REVISION or oci://…"
            )
        return given
    if kind_of(base) is Kind.BUCKET:
        return base.name.rstrip("/")
    if is_on_hub(base):
        return f"hf://{base.name}" + (f":{base.revision}" if base.revision else "")
    raise BadInputError(
        f"{version}: its base model '{base.name}' is neither on the hub nor in a bucket, where KServe fetches it; say "
        "--base pvc://CLAIM/PATH for a copy on a claim, or --base s3://… after `lorapar models mirror`"
    )


def _object_name(version: Version) -> str:
    """A name that Kubernetes allows: lower-case letters, digits and dashes, at most 63."""
    plain = re.sub(r"[^a-z0-9-]+", "-", version.name.lower()).strip("-")
    return f"{plain[:50].strip('-')}-v{version.number}"
