"""Strict platforms, and charts around this one: OpenShift, GitOps, umbrellas, quotas, meshes, IPv6, proxies."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.placement import read_placement
from tests.helm.chart import (
    CHART,
    EVERYTHING,
    LOADER,
    Manifest,
    containers,
    environment,
    helm,
    of_kind,
    only,
    pod_labels,
    pod_spec,
    pods,
    render,
    template,
)

USERS = ("runAsUser", "runAsGroup", "fsGroup")
AUTHORITIES = dict.fromkeys(
    ("LORAPAR_CA_BUNDLE", "AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), "/etc/lorapar/ca/company.pem"
)
DEVELOPMENT = {"objectStore": {"createBucket": True, "development": {"enabled": True}}}


def everything(**values: Any) -> list[Manifest]:
    return render(values={**EVERYTHING, **values})


def placement_of(manifests: list[Manifest], tmp_path: Path) -> Any:
    """The package that the upload Job compiles."""
    path = tmp_path / "placement.yaml"
    path.write_text(only(manifests, "ConfigMap", "-upload")["data"]["placement.yaml"], encoding="utf-8")
    return build_package({}, read_placement(path))


def tasks(package: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(variables, Kubernetes settings) of each task."""
    platform = package.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return [
        ({one["name"]: one["value"] for one in executor["container"].get("env", [])}, platform[label])
        for label, executor in package.spec["deploymentSpec"]["executors"].items()
    ]


# Users that the platform gives out


@pytest.mark.parametrize(
    "values", [{"openshift": True}, {"podSecurityContext": {"runAsUser": None}}, {"podSecurityContext": None}]
)
def test_one_value_leaves_the_user_to_the_platform_in_pods_and_tasks(values: dict[str, Any], tmp_path) -> None:
    for manifests in (everything(**values), render(values={**DEVELOPMENT, **values})):
        for name, spec in pods(manifests):
            context = spec["securityContext"]
            assert not set(context) & {*USERS, "fsGroupChangePolicy"}, name
            assert context["runAsNonRoot"] is True
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in containers(spec):
                assert not set(container["securityContext"]) & set(USERS)
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for _, pod in tasks(placement_of(manifests, tmp_path)):
        assert pod["securityContext"] == {"runAsNonRoot": True}


def test_tasks_alone_may_be_left_to_the_platform(tmp_path) -> None:
    manifests = everything(**{"pipeline": {**EVERYTHING["pipeline"], "placement": {"user": None}}})
    assert all(spec["securityContext"]["runAsUser"] == 10001 for _, spec in pods(manifests))
    for _, pod in tasks(placement_of(manifests, tmp_path)):
        assert pod["securityContext"] == {"runAsNonRoot": True}


def test_another_user_is_that_of_pods_and_tasks(tmp_path) -> None:
    manifests = everything(podSecurityContext={"runAsUser": 4000, "fsGroup": 0})
    for _, spec in pods(manifests):
        assert [spec["securityContext"][key] for key in USERS] == [4000, 4000, 0]
    for _, pod in tasks(placement_of(manifests, tmp_path)):
        assert pod["securityContext"]["runAsUser"] == "4000"


def test_the_user_is_named_where_its_number_has_no_name() -> None:
    for name, spec in pods(everything()):
        for container in containers(spec):
            if "lorapar/vllm" in container["image"]:
                assert {"USER", "LOGNAME", "HOME"} <= set(environment(container)), name


# GitOps and umbrella charts


def test_rendering_twice_is_the_same_and_two_releases_have_different_keys() -> None:
    def rendered(*release: str) -> str:
        done = helm("template", *release, CHART, values={**EVERYTHING, "objectStore": DEVELOPMENT["objectStore"]})
        assert done.code == 0, done.error
        return done.out

    def key(text: str) -> bytes:
        (secret,) = [one for one in yaml.load_all(text, Loader=LOADER) if one and one["kind"] == "Secret"]
        return base64.b64decode(secret["data"]["AWS_SECRET_ACCESS_KEY"])

    first = rendered("a", "--namespace", "one")
    assert first == rendered("a", "--namespace", "one")
    assert len({key(first), key(rendered("b", "--namespace", "one")), key(rendered("a", "--namespace", "two"))}) == 3


def test_what_reads_the_development_keys_starts_anew_when_they_change() -> None:
    values = {**DEVELOPMENT, "serving": {"enabled": True, "model": "a/b"}}
    for kind, name in (("StatefulSet", "-object-store"), ("Deployment", "-serving")):
        about = only(render(values=values), kind, name)["spec"]["template"]["metadata"]
        assert len(about["annotations"]["lorapar/object-store-keys"]) == 16


def umbrella(folder: Path, values: dict[str, Any], *dependencies: dict[str, str]) -> Path:
    """A chart with this one in it."""
    shutil.copytree(CHART, folder / "charts" / "lorapar")
    listed = [{"name": "lorapar", "version": ">=0.0.0-0", **one} for one in dependencies]
    chart = {"apiVersion": "v2", "name": "all", "version": "0.1.0", "dependencies": listed}
    (folder / "Chart.yaml").write_text(json.dumps(chart), encoding="utf-8")
    (folder / "values.yaml").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize("on", [True, False])
def test_an_umbrella_switches_it_by_a_condition(on: bool, tmp_path) -> None:
    values = {"global": {"anything": 1}, "lorapar": {"enabled": on, "objectStore": {"address": "s3://bucket/p"}}}
    done = helm("template", "u", umbrella(tmp_path, values, {"condition": "lorapar.enabled"}))
    assert done.code == 0, done.error
    assert ("s3://bucket/p" in done.out) == on


def test_a_misspelt_key_is_refused_below_an_umbrella_too(tmp_path) -> None:
    done = helm("template", "u", umbrella(tmp_path, {"lorapar": {"servng": {"enabled": True}}}, {}))
    assert done.code != 0
    assert "servng" in done.error


def test_two_aliases_stand_beside_each_other_and_nulls_of_the_parent_take_lists_away(tmp_path) -> None:
    nulls = {"commonLabels": None, "extraEnv": None, "images": {"pullSecrets": None}, "jobs": {"labels": None}}
    values = {
        "tuning": {**nulls, "pipeline": {"placement": None, "recurring": None}},
        "answers": {"pipeline": {"enabled": False}, "serving": {"enabled": True, "model": "a/b", "resources": None}},
    }
    done = helm("template", "u", umbrella(tmp_path, values, {"alias": "tuning"}, {"alias": "answers"}))
    assert done.code == 0, done.error
    manifests = [one for one in yaml.load_all(done.out, Loader=LOADER) if one]
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(set(names)) == len(names)
    assert of_kind(manifests, "Deployment", "u-answers-serving")
    assert of_kind(manifests, "Job", "u-tuning-upload")


LONG = "a-release-name-as-long-as-helm-lets-it-be-53-letters-"


def test_long_names_stay_within_what_kubernetes_takes_and_do_not_meet() -> None:
    def names(release: str, **values: Any) -> set[str]:
        done = helm("template", release, CHART, values={**EVERYTHING, **DEVELOPMENT, **values})
        assert done.code == 0, done.error
        manifests = [one for one in yaml.load_all(done.out, Loader=LOADER) if one]
        for manifest in manifests:
            labels = {**manifest["metadata"]["labels"], **(pod_labels(manifest) if pod_spec(manifest) else {})}
            # A StatefulSet's pods carry its name and ten letters more as a label.
            longest = 52 if manifest["kind"] == "StatefulSet" else 63
            assert len(manifest["metadata"]["name"]) <= longest
            assert all(len(value) <= 63 for value in labels.values())
        return {one["metadata"]["name"] for one in manifests if one["metadata"]["name"] != "kfp-launcher"}

    assert len(LONG) == 53
    first, second = names(LONG[:-1] + "x", **FREE), names(LONG[:-1] + "y", **FREE)
    assert not first & second
    assert {name.startswith("mine-") for name in names("a", fullnameOverride="mine", **FREE)} == {True}


FREE = {"pipeline": {"kueue": {"enabled": False}}}
"""The local queue has a name of the user's own."""


def test_a_release_of_digits_is_still_a_label() -> None:
    done = helm("template", "123", CHART)
    assert done.code == 0, done.error
    for manifest in yaml.load_all(done.out, Loader=LOADER):
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "123"


# Networks


@pytest.mark.parametrize("under", ["", "objectStore"])
def test_the_companys_authorities_reach_every_container_and_task(under: str, tmp_path) -> None:
    bundle = {"caBundle": {"configMap": "company", "entry": "company.pem"}}
    plain = {key: value for key, value in EVERYTHING.items() if key != "objectStore"}
    store = {"createBucket": True, "existingSecret": "s3"}
    values = {**plain, "objectStore": {**store, **bundle}} if under else {**plain, "objectStore": store, **bundle}
    manifests = render(values=values)
    for name, spec in pods(manifests):
        assert {"name": "ca", "configMap": {"name": "company"}} in spec["volumes"], name
        for container in containers(spec):
            assert environment(container).items() >= AUTHORITIES.items(), f"{name}: {container['name']}"
            assert {"name": "ca", "mountPath": "/etc/lorapar/ca", "readOnly": True} in container["volumeMounts"]
    for variables, pod in tasks(placement_of(manifests, tmp_path)):
        assert variables.items() >= AUTHORITIES.items()
        assert pod["configMapAsVolume"][0]["configMapName"] == "company"


def test_authorities_in_a_secret_are_mounted_without_its_private_key(tmp_path) -> None:
    values = {
        **EVERYTHING,
        "objectStore": {"existingSecret": "s3"},
        "caBundle": {"secret": "company", "entry": "company.pem"},
    }
    manifests = render(values=values)
    items = [{"key": "company.pem", "path": "company.pem"}]
    for name, spec in pods(manifests):
        assert {"name": "ca", "secret": {"secretName": "company", "items": items}} in spec["volumes"], name
        for container in containers(spec):
            assert environment(container).items() >= AUTHORITIES.items(), f"{name}: {container['name']}"
    for variables, pod in tasks(placement_of(manifests, tmp_path)):
        assert variables.items() >= AUTHORITIES.items()
        mounted = {one["mountPath"]: one["secretName"] for one in pod["secretAsVolume"]}
        assert mounted["/etc/lorapar/ca"] == "company"
        assert "s3" in mounted.values(), "the credentials are another Secret"


def test_authorities_are_in_one_place() -> None:
    done = template(values={"caBundle": {"configMap": "a", "secret": "b"}})
    assert done.code != 0
    assert "give configMap or secret, not both" in done.error


def test_two_names_for_the_authorities_must_not_differ() -> None:
    done = template(values={"caBundle": {"configMap": "a"}, "objectStore": {"caBundle": {"configMap": "b"}}})
    assert done.code != 0
    assert "objectStore.caBundle: names another ConfigMap" in done.error


PROXIES = [
    {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"},
    {"name": "NO_PROXY", "value": ".svc,.cluster.local"},
    {"name": "PIN", "valueFrom": {"secretKeyRef": {"name": "pins", "key": "pin"}}},
]


def test_extra_variables_reach_every_container_once_and_every_task(tmp_path) -> None:
    values = json.loads(json.dumps(EVERYTHING))
    values["serving"]["extraEnv"] = [{"name": "NO_PROXY", "value": "mine"}, {"name": "USER", "value": "me"}]
    manifests = render(values={**values, "extraEnv": PROXIES})
    for name, spec in pods(manifests):
        for container in containers(spec):
            variables = environment(container)
            assert len(variables) == len(container["env"]), f"{name}: a variable stands there twice"
            assert variables["HTTPS_PROXY"] == "http://proxy.example:3128"
            assert variables["PIN"] == {"secretKeyRef": {"name": "pins", "key": "pin"}}
            assert variables["NO_PROXY"] == ("mine" if name.endswith("-serving") else ".svc,.cluster.local")
    for variables, pod in tasks(placement_of(manifests, tmp_path)):
        assert variables["HTTPS_PROXY"] == "http://proxy.example:3128"
        assert {"secretKey": "pin", "envVar": "PIN"} in [one["keyToEnv"][0] for one in pod["secretAsEnv"]]
    rules = only(manifests, "NetworkPolicy", "-default-deny")["spec"]["egress"]
    assert {"ports": [{"port": 3128, "protocol": "TCP"}]} in rules


@pytest.mark.parametrize(
    "entry", [{"name": "HF_TOKEN", "value": "x" * 9}, {"name": "HTTPS_PROXY", "value": "http://me:word@proxy:1"}]
)
def test_a_secret_as_a_plain_variable_is_refused(entry: dict[str, str]) -> None:
    done = template(values={"extraEnv": [entry]})
    assert done.code != 0
    assert f"extraEnv: {entry['name']} looks like a secret" in done.error
    assert entry["value"] not in done.error


def test_servers_listen_on_both_families_and_may_reach_both() -> None:
    manifests = everything()
    servers = of_kind(manifests, "Deployment")
    assert len(servers) == 4
    for server in servers:
        assert "--host=::" in pod_spec(server)["containers"][0]["args"]  # type: ignore[index]
    for service in of_kind(manifests, "Service"):
        assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    (old,) = pod_spec(only(everything(listenAddress="0.0.0.0"), "Deployment", "-serving"))["containers"]  # noqa: S104
    assert "--host=0.0.0.0" in old["args"]
    for part in ("-to-object-store", "-to-model-hub"):
        (rule,) = only(manifests, "NetworkPolicy", part)["spec"]["egress"]
        blocks = {peer["ipBlock"]["cidr"]: peer["ipBlock"]["except"] for peer in rule["to"]}
        assert set(blocks) == {"0.0.0.0/0", "::/0"}
        assert "fe80::/10" in blocks["::/0"]


def test_peers_of_a_persons_own_stand_alone() -> None:
    own = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    (rule,) = only(everything(networkPolicy={"objectStore": own}), "NetworkPolicy", "-to-object-store")["spec"][
        "egress"
    ]
    assert rule["to"] == own


# Quotas, policies, meshes, nodes


def test_labels_and_annotations_that_a_policy_wants_are_on_every_pod_and_task(tmp_path) -> None:
    manifests = everything(podLabels={"cost": "17"}, podAnnotations={"owner": "nlp"})
    for manifest in manifests:
        if pod_spec(manifest) is not None:
            about = manifest["metadata"] if manifest["kind"] == "Pod" else manifest["spec"]["template"]["metadata"]
            assert about["labels"].items() >= {"team": "nlp", "cost": "17"}.items(), manifest["metadata"]["name"]
            assert about["annotations"]["owner"] == "nlp"
    for _, pod in tasks(placement_of(manifests, tmp_path)):
        assert pod["podMetadata"]["labels"].items() >= {"team": "nlp", "cost": "17"}.items()
        assert pod["podMetadata"]["annotations"] == {"owner": "nlp"}


def test_no_label_of_a_persons_own_takes_the_place_of_one_that_selects() -> None:
    wrong = {"app.kubernetes.io/component": "other"}
    for manifest in everything(podLabels=wrong, commonLabels=wrong):
        if manifest["kind"] == "Deployment":
            assert manifest["spec"]["selector"]["matchLabels"].items() <= pod_labels(manifest).items()


def ends(manifest: Manifest) -> bool:
    return manifest["kind"] in ("Pod", "Job")


def test_no_sidecar_keeps_a_job_from_ending() -> None:
    for manifest in render(values={**EVERYTHING, "jobs": {"annotations": {"linkerd.io/inject": "disabled"}}}):
        if pod_spec(manifest) is not None:
            labels = pod_labels(manifest)
            assert ("sidecar.istio.io/inject" in labels) == ends(manifest), manifest["metadata"]["name"]


def test_every_pod_goes_where_all_of_them_go_and_a_server_where_its_own_values_say() -> None:
    where = {
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "ml", "operator": "Exists"}],
        "priorityClassName": "batch",
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }
    serving = {**EVERYTHING["serving"], "nodeSelector": {"pool": "gpu"}}
    for values in ({**EVERYTHING, "serving": serving, **where}, {**DEVELOPMENT, **where}):
        for name, spec in pods(render(values=values)):
            assert spec["nodeSelector"] == ({"pool": "gpu"} if name.endswith("-serving") else {"zone": "a"})
            assert (spec["tolerations"], spec["priorityClassName"]) == (where["tolerations"], "batch")
            assert spec["affinity"] == where["affinity"]


def test_a_quota_on_everything_can_be_met() -> None:
    whole = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    values = json.loads(json.dumps({**EVERYTHING, "jobs": {"resources": whole}}))
    values["pipeline"]["upload"] = {"resources": whole}
    values["serving"]["resources"] = whole
    values["teachers"]["defaults"] = {"resources": whole}
    values["ui"]["resources"] = whole
    for name, spec in pods(render(values=values)):
        for container in containers(spec):
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name


def test_every_image_comes_from_the_mirror_and_is_pulled_with_the_secret() -> None:
    for values in (EVERYTHING, DEVELOPMENT):
        manifests = render(
            values={**values, "images": {"registry": "mirror.example/all", "pullSecrets": [{"name": "p"}]}}
        )
        for name, spec in pods(manifests):
            assert spec["imagePullSecrets"] == [{"name": "p"}], name
            for container in containers(spec):
                assert container["image"].startswith("mirror.example/all/")
                assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("form", [["pull.one"], [{"name": "pull.one"}]])
def test_pull_secrets_are_names_in_either_form_for_pods_accounts_and_tasks(form: list[Any], tmp_path) -> None:
    manifests = render(values={"images": {"pullSecrets": form}})
    for name, spec in pods(manifests):
        assert spec["imagePullSecrets"] == [{"name": "pull.one"}], name
    assert only(manifests, "ServiceAccount", "-runner")["imagePullSecrets"] == [{"name": "pull.one"}]
    for _, pod in tasks(placement_of(manifests, tmp_path)):
        assert [one["secretName"] for one in pod["imagePullSecret"]] == ["pull.one"]


@pytest.mark.parametrize("wrong", [["Not A Name"], [{"name": ""}], [{"secret": "x"}], [7], "pull"])
def test_pull_secrets_that_are_none_are_refused(wrong: Any) -> None:
    done = template(values={"images": {"pullSecrets": wrong}})
    assert done.code != 0
    assert "images.pullSecrets" in done.error


@pytest.mark.parametrize("secrets", [["above"], "above", {"name": "above"}], ids=str)
def test_mirror_and_pull_secrets_of_an_umbrella_hold_where_the_chart_names_none(secrets: Any) -> None:
    above = {"imageRegistry": "mirror.example:5000/all", "imagePullSecrets": secrets}
    for name, spec in pods(render(values={"global": above})):
        assert spec["imagePullSecrets"] == [{"name": "above"}], name
        assert all(one["image"].startswith("mirror.example:5000/all/lorapar/") for one in containers(spec))
    own = {"images": {"registry": "own.example", "pullSecrets": ["own"]}}
    for name, spec in pods(render(values={"global": above, **own})):
        assert spec["imagePullSecrets"] == [{"name": "own"}], name
        assert all(one["image"].startswith("own.example/lorapar/") for one in containers(spec))


def test_names_of_secrets_and_claims_may_have_dots() -> None:
    values = {"objectStore": {"existingSecret": "s3.keys"}, "baseModels": {"existingClaim": "base.models"}}
    assert "s3.keys" in json.dumps(render(values=values))


def test_what_the_store_asks_for_reaches_the_tasks_too(tmp_path) -> None:
    asked = [{"name": "AWS_REQUEST_CHECKSUM_CALCULATION", "value": "when_required"}]
    manifests = render(values={"objectStore": {"extraEnv": asked}})
    for variables, _ in tasks(placement_of(manifests, tmp_path)):
        assert variables["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


POINT = "s3://arn:aws:s3:eu-central-1:123456789012:accesspoint/team"


def test_a_store_may_be_an_access_point(tmp_path) -> None:
    """As everywhere else an address is read; a bucket cannot be made through one."""
    values = {"objectStore": {"address": f"{POINT}/runs"}, "serving": {"enabled": True, "model": "a/b"}}
    assert f"{POINT}/runs/registry" in json.dumps(render(values=values))
    refused = template(values={"objectStore": {"address": POINT, "createBucket": True}})
    assert refused.code != 0
    assert "objectStore.createBucket: an access point" in refused.error
    wrong = template(values={"objectStore": {"address": POINT.replace("accesspoint", "bucket")}})
    assert "objectStore.address" in wrong.error
