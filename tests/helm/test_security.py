"""Pods meet the Pod Security profile "restricted", secrets stay Secrets, the network is closed but for a list."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.helm.chart import (
    EVERYTHING,
    PROFILES,
    Manifest,
    all_renderings,
    containers,
    environment,
    of_kind,
    only,
    pod_labels,
    pod_spec,
    pods,
    render,
)

NAMES = (*PROFILES, "defaults", "everything", "seaweedfs", "minio")
# The volume types that "restricted" admits (Kubernetes, Pod Security Standards).
ADMITTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip


def rendering(name: str) -> list[Manifest]:
    if name in ("seaweedfs", "minio"):
        return render(values={"objectStore": {"createBucket": True, "development": {"enabled": True, "server": name}}})
    return all_renderings()[name]


def against_restricted(spec: dict[str, Any]) -> Iterator[str]:
    """What in a pod the profile forbids (https://kubernetes.io/docs/concepts/security/pod-security-standards/)."""
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= ADMITTED_VOLUMES:
            yield f"volume {volume}"
    for container in containers(spec):
        kept = held(spec.get("securityContext", {}), container)
        yield from (f"{container['name']}: {what}" for what, fine in kept.items() if not fine)


def held(pod: dict[str, Any], container: dict[str, Any]) -> dict[str, bool]:
    """Whether a container keeps each demand, by itself or by its pod."""
    own = container.get("securityContext", {})
    both = {**pod, **own}
    capabilities = own.get("capabilities", {})
    return {
        "privileged": not own.get("privileged") and own.get("procMount", "Default") == "Default",
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "capabilities": capabilities.get("drop") == ["ALL"]
        and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "runAsNonRoot": both.get("runAsNonRoot") is True and both.get("runAsUser") != 0,
        "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
        "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
    }


@pytest.mark.parametrize("name", NAMES)
def test_restricted(name: str) -> None:
    found = {which: problems for which, spec in pods(rendering(name)) if (problems := list(against_restricted(spec)))}
    assert not found


@pytest.mark.parametrize(
    "broken",
    [
        {"hostNetwork": True},
        {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]},
        {"securityContext": {}},
        {"containers": [{"name": "c"}]},
    ],
)
def test_the_check_of_restricted_sees_what_is_wrong(broken: dict[str, Any]) -> None:
    (_, good), *_ = pods(rendering("defaults"))
    assert not list(against_restricted(good))
    assert list(against_restricted({**good, **broken, "containers": broken.get("containers", good["containers"])}))


@pytest.mark.parametrize("name", NAMES)
def test_root_is_read_only_no_token_and_a_memory_limit_everywhere(name: str) -> None:
    for which, spec in pods(rendering(name)):
        assert spec["automountServiceAccountToken"] is False, which
        assert spec["enableServiceLinks"] is False, which
        for container in containers(spec):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, which
            assert "memory" in container["resources"]["limits"], which
            assert not container["image"].endswith(":latest"), which


def test_a_token_is_mounted_only_where_kubeflow_asks_for_one() -> None:
    for multi_user in (True, False):
        values = {**EVERYTHING, "pipeline": {"kfp": {"multiUser": multi_user}}}
        holders = {
            which
            for which, spec in pods(render(values=values))
            for volume in spec.get("volumes", [])
            if "projected" in volume
        }
        assert holders == ({"Job/lorapar-upload", "Pod/lorapar-test-kubeflow"} if multi_user else set())


# --- secrets -------------------------------------------------------------------------------------------------------


def secret_values(manifests: list[Manifest]) -> list[str]:
    """The values of the Secrets that the chart makes, plain and encoded; addresses lie there for one place's sake."""
    open_ones = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
    held = [entry for secret in of_kind(manifests, "Secret") for entry in secret.get("data", {}).items()]
    encoded = [value for name, value in held if name not in open_ones]
    return encoded + [base64.b64decode(value).decode() for value in encoded]


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_value_outside_a_secret(name: str) -> None:
    manifests = rendering(name)
    text = json.dumps([manifest for manifest in manifests if manifest["kind"] != "Secret"])
    assert not [value for value in secret_values(manifests) if value in text]


def test_the_development_server_has_keys_of_its_own() -> None:
    values = secret_values(rendering("seaweedfs"))
    assert len(set(values)) == 4
    assert all(len(value) >= 32 for value in values)


SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSWORD")
NO_SECRETS = {"KF_PIPELINES_SA_TOKEN_PATH"}


@pytest.mark.parametrize("name", NAMES)
def test_variables_that_hold_secrets_come_from_secrets(name: str) -> None:
    for which, spec in pods(rendering(name)):
        for container in containers(spec):
            for variable, value in environment(container).items():
                if any(word in variable for word in SECRET_WORDS) and variable not in NO_SECRETS:
                    assert isinstance(value, dict) and "secretKeyRef" in value, f"{which}: {variable}"  # noqa: PT018


def test_no_value_of_the_chart_takes_a_secret() -> None:
    """Secrets are named, never written into values: no key of values.yaml asks for one."""
    text = json.dumps(list(flat(yaml.safe_load(open_values()))))
    for word in ("password", "apiKeyValue", 'secretKey"', 'accessKey"'):
        assert word not in text


def open_values() -> str:
    from tests.helm.chart import CHART

    return (CHART / "values.yaml").read_text(encoding="utf-8")


def flat(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield key
            yield from flat(value)


# --- network -------------------------------------------------------------------------------------------------------


def selects(policy: Manifest, labels: dict[str, str]) -> bool:
    """Whether a NetworkPolicy holds for pods with these labels."""
    selector = policy["spec"]["podSelector"]
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    return exact and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_is_closed_by_default(name: str) -> None:
    manifests = rendering(name)
    deny = only(manifests, "NetworkPolicy", "-default-deny")
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny["spec"]
    assert [rule["ports"] for rule in deny["spec"]["egress"]] == [
        [{"port": port, "protocol": protocol} for port in (53, 5353) for protocol in ("UDP", "TCP")]
    ]
    for manifest in manifests:
        if pod_spec(manifest) is not None:
            assert selects(deny, pod_labels(manifest)), manifest["metadata"]["name"]


def opened(manifests: list[Manifest], component: str, direction: str) -> list[dict[str, Any]]:
    """Rules beyond the default for the pods of a component: `ingress` or `egress`."""
    (labels, *_) = [
        pod_labels(m)
        for m in manifests
        if pod_spec(m) is not None and pod_labels(m)["app.kubernetes.io/component"] == component
    ]
    return [
        rule
        for policy in of_kind(manifests, "NetworkPolicy")
        if not policy["metadata"]["name"].endswith("-default-deny") and selects(policy, labels)
        for rule in policy["spec"].get(direction, [])
    ]


def test_servers_are_reached_by_their_test_listed_clients_and_prometheus_only() -> None:
    (rule,) = opened(rendering("everything"), "serving", "ingress")
    assert rule["ports"] == [{"port": 8000, "protocol": "TCP"}]
    test, client, prometheus = rule["from"]
    assert test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test-completion"
    assert client == EVERYTHING["serving"]["clients"][0]
    assert prometheus["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


def test_without_clients_only_the_test_pod_reaches_the_server() -> None:
    (rule,) = opened(render(values={"serving": {"enabled": True, "model": "a/b"}}), "serving", "ingress")
    assert len(rule["from"]) == 1


def test_the_page_for_all_runs_has_no_right_and_is_reached_by_its_listed_clients_only() -> None:
    manifests = rendering("everything")
    (rule,) = opened(manifests, "ui", "ingress")
    assert rule == {"from": EVERYTHING["ui"]["clients"], "ports": [{"port": 8000, "protocol": "TCP"}]}
    assert opened(render(values={"ui": {"enabled": True}}), "ui", "ingress") == []
    spec = pod_spec(only(manifests, "Deployment", "-ui"))
    assert spec is not None
    assert spec["automountServiceAccountToken"] is False
    bound = [subject["name"] for one in of_kind(manifests, "RoleBinding") for subject in one["subjects"]]
    assert spec["serviceAccountName"] == "lorapar-ui"
    assert "lorapar-ui" not in bound


def test_teachers_are_reached_by_pipeline_runs() -> None:
    values = {"teachers": {"enabled": True, "models": [{"name": "a", "model": "b/c"}]}}
    (rule,) = opened(render(values=values), "teacher", "ingress")
    assert rule["from"] == [{"podSelector": {"matchLabels": {"pipelines.kubeflow.org/v2_component": "true"}}}]


def test_air_gapped_pods_reach_no_model_hub() -> None:
    names = [m["metadata"]["name"] for m in of_kind(rendering("production"), "NetworkPolicy")]
    assert not [name for name in names if name.endswith("-to-model-hub")]
    assert opened(rendering("production"), "teacher", "egress") == []


def test_the_development_store_is_reached_in_the_cluster_and_reaches_nothing() -> None:
    manifests = rendering("seaweedfs")
    (rule,) = opened(manifests, "object-store", "ingress")
    assert rule["ports"] == [{"port": 9000, "protocol": "TCP"}]
    assert all("ipBlock" not in peer for peer in rule["from"])
    assert opened(manifests, "object-store", "egress") == []


def test_an_endpoint_s_port_is_opened() -> None:
    values = {"objectStore": {"endpoint": "https://s3.internal:9443", "createBucket": True}}
    (rule,) = opened(render(values=values), "bucket", "egress")
    assert [port["port"] for port in rule["ports"]] == [443, 9443]


@pytest.mark.parametrize(
    ("endpoint", "namespace"),
    [
        ("http://seaweedfs.kubeflow:8333", "kubeflow"),
        ("http://minio.stores.svc.cluster.local:9000", "stores"),
        ("https://s3.eu-central-1.example.com", None),
        ("", None),
    ],
)
def test_a_store_in_the_cluster_is_reached_by_its_namespace_too(endpoint: str, namespace: str | None) -> None:
    """Kubernetes means ipBlock for addresses outside, and with Cilium one covers no pod."""
    (rule,) = opened(render(values={"objectStore": {"endpoint": endpoint}}), "test-store", "egress")
    named = [peer["namespaceSelector"]["matchLabels"] for peer in rule["to"] if "namespaceSelector" in peer]
    assert named == ([{"kubernetes.io/metadata.name": namespace}] if namespace else [])
    assert any("ipBlock" in peer for peer in rule["to"])


def test_what_leads_in_from_outside_names_the_completion_endpoints_only() -> None:
    manifests = rendering("everything")
    paths = {path["path"] for path in only(manifests, "Ingress")["spec"]["rules"][0]["http"]["paths"]}
    kinds_of_path = {path["pathType"] for path in only(manifests, "Ingress")["spec"]["rules"][0]["http"]["paths"]}
    matches = only(manifests, "HTTPRoute")["spec"]["rules"][0]["matches"]
    assert paths == {match["path"]["value"] for match in matches}
    assert paths == {"/v1/chat/completions", "/v1/completions", "/v1/models"}
    assert kinds_of_path == {match["path"]["type"] for match in matches} == {"Exact"}


def test_the_middleware_that_closes_the_load_endpoint_is_in_the_server_s_command() -> None:
    for name in ("everything", "production", "single-gpu"):
        (container,) = pod_spec(only(rendering(name), "Deployment", "-serving"))["containers"]
        assert "--middleware=lorapar.serving.middleware.AdapterMiddleware" in container["args"]


# --- rights --------------------------------------------------------------------------------------------------------


def test_runs_may_do_what_kubeflow_s_executor_does_and_no_more() -> None:
    rules = only(rendering("defaults"), "Role", "-runner")["rules"]
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert granted == {
        ("workflowtaskresults", "create"),
        ("workflowtaskresults", "patch"),
        ("pods", "get"),
        ("pods", "list"),
        ("pods", "watch"),
        ("configmaps", "get"),
        ("secrets", "get"),
    }
    for rule in rules:
        if {"secrets", "configmaps"} & set(rule["resources"]):
            assert rule["resourceNames"], "named ones only"


def test_runs_that_train_on_several_nodes_may_start_train_jobs_and_no_more() -> None:
    given = {"pipeline": {"trainJobs": {"enabled": True}}}
    rules = only(render(values=given), "Role", "-train-jobs")["rules"]
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    jobs = {("trainjobs", verb) for verb in ("create", "get", "delete")}
    assert granted == jobs | {("pods", "get"), ("pods", "list"), ("pods/log", "get")}


@pytest.mark.parametrize("name", NAMES)
def test_no_rights_beyond_the_namespace_and_no_wildcards(name: str) -> None:
    manifests = rendering(name)
    assert not of_kind(manifests, "ClusterRole") + of_kind(manifests, "ClusterRoleBinding")
    for role in of_kind(manifests, "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]


def test_images_that_others_make_are_pinned_by_digest() -> None:
    """Ours are built by who installs the chart."""
    for name in NAMES:
        used = {container["image"] for _, spec in pods(rendering(name)) for container in containers(spec)}
        foreign = {image for image in used if "lorapar" not in image.partition("@")[0].rpartition(":")[0]}
        assert all("@sha256:" in image for image in foreign), f"{name}: {foreign}"
