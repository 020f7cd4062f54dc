"""What is rendered is valid Kubernetes: strictly against the oldest and the newest schema, and in its references."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from tests.helm.chart import (
    CHART,
    NAMESPACE,
    PROFILES,
    Manifest,
    all_renderings,
    containers,
    helm,
    of_kind,
    only,
    pod_labels,
    pod_spec,
    pods,
    render,
)
from tests.helm.crd_schemas import SCHEMAS

OLDEST = "1.31"
NEWEST = kubernetes_validate.latest_version()
NAMES = (*PROFILES, "defaults", "everything")
# A checkout of a catalogue of CRD schemas (GROUP/KIND_VERSION.json), to check what is rendered against them too.
CATALOGUE = os.environ.get("CRD_SCHEMAS")

# Made by others from the definitions that the projects ship; there are none for Gateway API and Kueue.
MODELS = {
    "keda.sh/v1alpha1/ScaledObject": ScaledObject,
    "monitoring.coreos.com/v1/PrometheusRule": PrometheusRule,
    "monitoring.coreos.com/v1/ServiceMonitor": ServiceMonitor,
}


@functools.cache
def rendering(name: str) -> list[Manifest]:
    return all_renderings()[name]


@pytest.mark.parametrize("profile", PROFILES)
def test_lint(profile: str) -> None:
    done = helm("lint", "--strict", CHART, "--values", CHART / f"values-{profile}.yaml")
    assert done.code == 0, done.out + done.error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_strictly_valid(name: str, version: str) -> None:
    checked = 0
    for manifest in rendering(name):
        which = f"{manifest['apiVersion']}/{manifest['kind']}"
        if which in SCHEMAS:
            jsonschema.validate(manifest, SCHEMAS[which])
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
        checked += 1
    assert checked > 5


@pytest.mark.parametrize("which", SCHEMAS)
def test_our_subset_of_a_custom_resource_refuses_a_misspelt_field(which: str) -> None:
    manifest = next(m for m in rendering("everything") if f"{m['apiVersion']}/{m['kind']}" == which)
    wrong = {**manifest, "spec": {**manifest["spec"], "misspelt": 1}}
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        jsonschema.validate(wrong, SCHEMAS[which])


@pytest.mark.skipif(not CATALOGUE, reason="CRD_SCHEMAS names no checkout of a catalogue of CRD schemas")
@pytest.mark.parametrize("which", SCHEMAS)
def test_custom_resources_are_valid_by_the_projects_own_schemas(which: str) -> None:
    group, version, kind = which.split("/")
    schema = json.loads((Path(str(CATALOGUE)) / group / f"{kind.lower()}_{version}.json").read_text(encoding="utf-8"))
    found = [m for name in NAMES for m in rendering(name) if f"{m['apiVersion']}/{m['kind']}" == which]
    assert found
    for manifest in found:
        # Not `jsonschema.validate`, which checks the schema too: theirs hold regular expressions of Go.
        jsonschema.Draft202012Validator(schema).validate(manifest)


@pytest.mark.parametrize("which", MODELS)
def test_custom_resources_are_read_by_models_made_from_the_projects_own_definitions(which: str) -> None:
    found = [m for name in NAMES for m in rendering(name) if f"{m['apiVersion']}/{m['kind']}" == which]
    assert found
    for manifest in found:
        # These models pass over fields that they do not know: only what comes out again was one that they know.
        read = MODELS[which].model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert read == manifest


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_short_and_in_the_release_s_namespace(name: str) -> None:
    seen = set()
    for manifest in rendering(name):
        key = (manifest["kind"], manifest["metadata"]["name"])
        assert key not in seen, key
        seen.add(key)
        assert len(key[1]) <= 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", key[1]), key
        assert manifest["metadata"]["namespace"] == NAMESPACE, key


def test_long_release_names_stay_within_the_limits() -> None:
    from tests.helm.chart import EVERYTHING

    long = {**EVERYTHING, "fullnameOverride": "a" * 53}
    assert all(len(manifest["metadata"]["name"]) <= 63 for manifest in render(values=long))


@pytest.mark.parametrize("name", NAMES)
def test_services_and_budgets_select_pods_that_are_there(name: str) -> None:
    manifests = rendering(name)
    labels = [pod_labels(manifest) for manifest in manifests if pod_spec(manifest) is not None]
    for manifest in of_kind(manifests, "Service") + of_kind(manifests, "PodDisruptionBudget"):
        selector = manifest["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= have.items() for have in labels), manifest["metadata"]["name"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_pod_refers_to_is_made_here_or_named_by_the_user(name: str) -> None:
    manifests = rendering(name)
    made = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    # Names that the profile or EVERYTHING gives for things that exist already.
    given = {
        "ca", "s3-keys", "hub-token", "teacher-key", "serving-key", "base-models", "serving-api-key", "teacher-api-key",
        "lorapar-kubeflow-store",
    }  # fmt: skip
    for which, spec in pods(manifests):
        for kind, referred in references(spec):
            assert (kind, referred) in made or referred in given, f"{which} needs {kind} {referred}"


def references(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of the Secrets, ConfigMaps, claims and ServiceAccounts that a pod needs."""
    found = [("ServiceAccount", spec["serviceAccountName"])] if "serviceAccountName" in spec else []
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            found.append(("ConfigMap", volume["configMap"]["name"]))
        if "secret" in volume:
            found.append(("Secret", volume["secret"]["secretName"]))
        if "persistentVolumeClaim" in volume:
            found.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    for container in containers(spec):
        for entry in container.get("env", []):
            secret = entry.get("valueFrom", {}).get("secretKeyRef")
            if secret:
                found.append(("Secret", secret["name"]))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_mounts_have_volumes_and_volumes_have_mounts(name: str) -> None:
    for which, spec in pods(rendering(name)):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        mounted = {mount["name"] for c in containers(spec) for mount in c.get("volumeMounts", [])}
        extra = {"data"} if which.startswith("StatefulSet/") else set()
        assert mounted - extra == volumes, which


def test_service_monitors_find_a_port_of_a_service() -> None:
    manifests = rendering("everything")
    for monitor in of_kind(manifests, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [s for s in of_kind(manifests, "Service") if wanted <= s["metadata"]["labels"].items()]
        assert services
        for service in services:
            assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_scalers_and_routes_point_at_what_is_there() -> None:
    manifests = rendering("everything")
    deployments = {m["metadata"]["name"] for m in of_kind(manifests, "Deployment")}
    for scaler in of_kind(manifests, "ScaledObject"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in deployments
    service = only(manifests, "Service", "-serving")
    route = only(manifests, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]
    assert (route["name"], route["port"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
