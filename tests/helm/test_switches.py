"""What each switch makes appear, and what must not appear without it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helm.chart import (
    CHART,
    EVERYTHING,
    PROFILES,
    SERVING,
    containers,
    environment,
    kinds,
    of_kind,
    only,
    pod_spec,
    pods,
    render,
    server_of,
    serving,
    teachers,
)


def names(manifests: list[dict[str, Any]]) -> set[str]:
    return {f"{m['kind']}/{m['metadata']['name']}" for m in manifests}


# What a switch adds to the defaults: values, and all that they make appear.
ADDS: list[tuple[str, dict[str, Any], set[str]]] = [
    (
        "serving",
        SERVING,
        {
            "Deployment/lorapar-serving",
            "Service/lorapar-serving",
            "ServiceAccount/lorapar-serving",
            "NetworkPolicy/lorapar-serving",
            "NetworkPolicy/lorapar-to-serving",
            "NetworkPolicy/lorapar-to-model-hub",
            "Pod/lorapar-test-completion",
        },
    ),
    (
        "training on several nodes",
        {"pipeline": {"trainJobs": {"enabled": True}, "placement": {"groups": {"rl": {"nodes": 2}}}}},
        {"Role/lorapar-runner-train-jobs", "RoleBinding/lorapar-runner-train-jobs"},
    ),
    (
        "multi-user Kubeflow",
        {"pipeline": {"kfp": {"multiUser": True}}},
        {"Role/lorapar-upload", "RoleBinding/lorapar-upload"},
    ),
    (
        "teachers",
        teachers(),
        {
            "Deployment/lorapar-teacher-one",
            "Service/lorapar-teacher-one",
            "NetworkPolicy/lorapar-teachers",
            "NetworkPolicy/lorapar-to-model-hub",
        },
    ),
    (
        "page for all runs",
        {"ui": {"enabled": True}},
        {"Deployment/lorapar-ui", "Service/lorapar-ui", "ServiceAccount/lorapar-ui", "NetworkPolicy/lorapar-ui"},
    ),
    ("launcher", {"pipeline": {"launcherConfigMap": {"enabled": True}}}, {"ConfigMap/kfp-launcher"}),
    ("kueue", {"pipeline": {"kueue": {"enabled": True, "clusterQueue": "gpu"}}}, {"LocalQueue/lorapar"}),
    ("dashboard", {"monitoring": {"dashboard": {"enabled": True}}}, {"ConfigMap/lorapar-dashboard"}),
    (
        "development store",
        {"objectStore": {"development": {"enabled": True}}},
        {
            "Secret/lorapar-object-store",
            "Service/lorapar-object-store",
            "StatefulSet/lorapar-object-store",
            "NetworkPolicy/lorapar-object-store",
        },
    ),
    (
        "development store with your own keys",
        {"objectStore": {"existingSecret": "mine", "development": {"enabled": True}}},
        {
            "Service/lorapar-object-store",
            "StatefulSet/lorapar-object-store",
            "NetworkPolicy/lorapar-object-store",
        },
    ),
]


@pytest.mark.parametrize(
    ("values", "appears"), [(values, appears) for _, values, appears in ADDS], ids=[n for n, *_ in ADDS]
)
def test_switch_adds_exactly_this(values: dict[str, Any], appears: set[str]) -> None:
    assert names(render(values=values)) - names(render()) == appears
    assert not names(render()) - names(render(values=values))


# What a switch adds to a part that is on.
ADDS_TO_SERVING: list[tuple[dict[str, Any], set[str]]] = [
    (serving(replicas=2), {"PodDisruptionBudget/lorapar-serving"}),
    (serving(cache={"persistent": True}), {"PersistentVolumeClaim/lorapar-serving-cache"}),
    (serving(cache={"persistent": True, "existingClaim": "mine"}), set()),
    (serving(ingress={"enabled": True, "host": "x.example.com"}), {"Ingress/lorapar-serving"}),
    (serving(gateway={"enabled": True, "name": "g"}), {"HTTPRoute/lorapar-serving"}),
    (serving(autoscaling={"enabled": True}), {"ScaledObject/lorapar-serving", "PodDisruptionBudget/lorapar-serving"}),
    (
        serving(autoscaling={"enabled": True, "by": "prometheus-adapter"}),
        {"HorizontalPodAutoscaler/lorapar-serving", "PodDisruptionBudget/lorapar-serving"},
    ),
    ({**SERVING, "monitoring": {"serviceMonitor": {"enabled": True}}}, {"ServiceMonitor/lorapar-serving"}),
    ({**SERVING, "monitoring": {"prometheusRule": {"enabled": True}}}, {"PrometheusRule/lorapar-serving"}),
]


@pytest.mark.parametrize(("values", "appears"), ADDS_TO_SERVING)
def test_switch_adds_exactly_this_to_serving(values: dict[str, Any], appears: set[str]) -> None:
    assert names(render(values=values)) - names(render(values=SERVING)) == appears


# What a switch takes away from everything.
TAKES: list[tuple[dict[str, Any], set[str]]] = [
    ({"networkPolicy": {"enabled": False}}, {"NetworkPolicy"}),
    ({"pipeline": {"rbac": {"create": False}}}, {"Role", "RoleBinding"}),
    ({"pipeline": {"upload": {"enabled": False}}}, {"Job"}),
]


@pytest.mark.parametrize(("values", "gone"), TAKES)
def test_switch_takes_away_a_kind(values: dict[str, Any], gone: set[str]) -> None:
    assert kinds(render()) - kinds(render(values=values)) == gone


def test_each_part_is_usable_alone() -> None:
    without_pipeline = {"pipeline": {"enabled": False}}
    serving_alone = names(render(values={**SERVING, **without_pipeline}))
    assert "Deployment/lorapar-serving" in serving_alone
    assert not [name for name in serving_alone if "upload" in name or "runner" in name or "kubeflow" in name]
    teachers_alone = names(render(values={**teachers(), **without_pipeline}))
    assert "Deployment/lorapar-teacher-one" in teachers_alone
    assert not [name for name in teachers_alone if "serving" in name]
    store_alone = render(values={"objectStore": {"development": {"enabled": True}}, **without_pipeline})
    assert {m["metadata"]["name"] for m in of_kind(store_alone, "StatefulSet")} == {"lorapar-object-store"}
    nothing = render(values=without_pipeline)
    assert kinds(nothing) == {"ConfigMap", "NetworkPolicy", "Pod"}


def test_scaled_deployments_leave_the_number_of_replicas_to_their_scaler() -> None:
    manifests = render(values=EVERYTHING)
    scaled = {m["spec"]["scaleTargetRef"]["name"] for m in of_kind(manifests, "ScaledObject")}
    assert scaled == {"lorapar-serving", "lorapar-teacher-two"}
    for deployment in of_kind(manifests, "Deployment"):
        assert ("replicas" in deployment["spec"]) is (deployment["metadata"]["name"] not in scaled)


def test_a_teacher_scales_to_zero_by_the_label_of_voting_pods() -> None:
    scaler = only(render(values=teachers(scaling={"enabled": True})), "ScaledObject")["spec"]
    assert scaler["minReplicaCount"] == 0
    assert scaler["triggers"][0]["metadata"] == {"podSelector": "lorapar/stage=vote", "value": "8"}


def test_one_registry_prefix_for_every_image() -> None:
    values = {
        **EVERYTHING,
        "images": {"registry": "mirror.internal/x"},
        "objectStore": {"development": {"enabled": True}},
    }
    images = {c["image"] for _, spec in pods(render(values=values)) for c in containers(spec)}
    assert images
    assert all(image.startswith("mirror.internal/x/") for image in images)


def test_a_digest_counts_before_the_tag() -> None:
    digest = "sha256:" + "a" * 64
    values = {**SERVING, "images": {"vllm": {"digest": digest, "tag": "1"}}}
    _, container = server_of(values, "-serving")
    assert container["image"] == f"ghcr.io/lorapar/vllm@{digest}"


def test_air_gapped_servers_are_told_not_to_look_for_a_hub() -> None:
    for _, spec in pods(render("production")):
        for container in containers(spec):
            variables = environment(container)
            if "HF_HOME" in variables:
                assert (variables["HF_HUB_OFFLINE"], variables["TRANSFORMERS_OFFLINE"]) == ("1", "1")
                assert "HF_TOKEN" not in variables
                assert "HF_ENDPOINT" not in variables


def test_workload_identity_needs_no_secret_and_annotates_the_accounts() -> None:
    manifests = render("production")
    for account in ("-runner", "-serving"):
        annotations = only(manifests, "ServiceAccount", account)["metadata"]["annotations"]
        assert annotations["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    variables = environment(pod_spec(only(manifests, "Deployment", "-serving"))["containers"][0])
    assert "AWS_ACCESS_KEY_ID" not in variables


def test_with_workload_identity_every_pod_that_asks_the_store_has_an_account_that_may() -> None:
    """An identity is an account's: a pod of the namespace's default one would be refused."""
    teacher = {"teachers": {"enabled": True, "models": [{"name": "one", "model": "s3://models/one"}]}}
    identity = {"objectStore": {"createBucket": True}, **teacher}
    asking = (("Pod", "-test-store"), ("Job", ""), ("Deployment", "-teacher-one"))

    def accounts(values: dict[str, Any]) -> set[str | None]:
        found = render(values={**identity, **values})
        named = [
            one for kind, end in asking for one in of_kind(found, kind, end) if "upload" not in one["metadata"]["name"]
        ]
        assert len(named) == len(asking)
        return {pod_spec(one).get("serviceAccountName") for one in named}

    serving = {"serving": {"enabled": True, "model": "a/b"}}
    assert accounts({}) == {"lorapar-runner"}
    assert accounts({"pipeline": {"serviceAccount": {"name": "mine", "create": False}}}) == {"mine"}
    assert accounts({"pipeline": {"enabled": False}, **serving}) == {"lorapar-serving"}
    assert accounts({"objectStore": {"createBucket": True, "existingSecret": "keys"}}) == {None}, "keys need none"


def test_the_launcher_s_configmap_says_where_artifacts_go() -> None:
    import yaml

    for values, endpoint, secret in (
        ({"endpoint": "http://minio:9000", "existingSecret": "keys"}, "minio:9000", "keys"),
        ({"region": "eu-central-1"}, "s3.eu-central-1.amazonaws.com", None),
    ):
        data = only(
            render(values={"objectStore": values, "pipeline": {"launcherConfigMap": {"enabled": True}}}),
            "ConfigMap",
            "kfp-launcher",
        )["data"]
        assert data["defaultPipelineRoot"] == "s3://lorapar/kfp"
        s3 = yaml.safe_load(data["providers"])["s3"]["default"]
        assert s3["endpoint"] == endpoint
        assert s3["disableSSL"] is ("minio" in endpoint)
        assert s3["credentials"].get("secretRef", {}).get("secretName") == secret
        assert s3["credentials"]["fromEnv"] is (secret is None)


def test_upgrades_of_the_bucket_job_get_another_name_when_its_pod_changes() -> None:
    """A Job's pod is immutable: an upgrade that changed it in place would fail."""

    def name(**values: Any) -> str:
        manifests = render(values={**values, "objectStore": {"createBucket": True, **values.get("objectStore", {})}})
        (job,) = [m for m in of_kind(manifests, "Job") if "-bucket-" in m["metadata"]["name"]]
        return str(job["metadata"]["name"])

    assert name() == name(tests={"timeoutSeconds": 99})
    changed = name(objectStore={"region": "eu-west-1"}), name(commonLabels={"a": "b"}), name(podLabels={"a": "c"})
    assert len({name(), *changed}) == 4


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_installs_the_parts_its_name_promises(profile: str) -> None:
    deployments = {m["metadata"]["name"] for m in of_kind(render(profile), "Deployment")}
    assert ("lorapar-serving" in deployments) is (profile != "kubeflow-store")
    assert bool([name for name in deployments if "teacher" in name]) is (profile in ("production", "single-gpu"))
    assert ("StatefulSet" in kinds(render(profile))) is (profile in ("kind", "single-gpu"))


def test_the_store_of_kubeflow_goes_on_top_of_the_values_for_kind() -> None:
    """Its SeaweedFS takes no second bucket, so none is made, and everything lies below a prefix of its own one."""
    both = render("kind", None, "--values", str(CHART / "values-kubeflow-store.yaml"))
    assert "StatefulSet" not in kinds(both)
    assert not of_kind(both, "Job", "-bucket")
    recurring = json.loads(only(both, "ConfigMap", "-upload")["data"]["recurring.json"])
    assert recurring["parameters"]["store"] == "s3://mlpipeline/lorapar"
    (server,) = pod_spec(only(both, "Deployment", "-serving"))["containers"]  # type: ignore[index]
    assert environment(server)["AWS_ENDPOINT_URL_S3"] == "http://seaweedfs.kubeflow:8333"


def test_kueue_s_newer_version_is_used_where_the_cluster_has_it() -> None:
    values = {"pipeline": {"kueue": {"enabled": True, "clusterQueue": "gpu"}}}
    (old,) = of_kind(render(None, values), "LocalQueue")
    (new,) = of_kind(render(None, values, "--api-versions", "kueue.x-k8s.io/v1beta2"), "LocalQueue")
    assert old["apiVersion"] == "kueue.x-k8s.io/v1beta1"
    assert new == {**old, "apiVersion": "kueue.x-k8s.io/v1beta2"}
