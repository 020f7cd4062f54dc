"""The chart's vLLM servers, of teachers, rollouts and adapters: what a setting puts into their pods."""

from __future__ import annotations

from typing import Any

import pytest

from lorapar.config.capture import CaptureConfig
from lorapar.serving.settings import read_capture
from lorapar.training.rollout_server import ENVIRONMENT, server_arguments
from tests.helm.chart import (
    SERVING,
    TEACHER,
    containers,
    environment,
    only,
    pod_labels,
    pod_spec,
    render,
    server_of,
    serving,
    teachers,
)


def test_gpu_pool_settings_reach_the_pod() -> None:
    pool = {
        "acceleratorCount": 4,
        "accelerator": "amd.com/gpu",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "sharedMemory": "8Gi",
    }
    spec, container = server_of(teachers(**pool))
    assert container["resources"]["limits"]["amd.com/gpu"] == 4
    assert "--tensor-parallel-size=4" in container["args"]
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName"):
        assert spec[key] == pool[key]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in spec["volumes"]


def volumes_of(kind: str) -> dict[str, Any]:
    """Values that give a part a volume of this name, and where it is mounted."""
    return {
        "extraVolumes": [{"name": kind, "emptyDir": {}}],
        "extraVolumeMounts": [{"name": kind, "mountPath": f"/{kind}", "readOnly": True}],
    }


@pytest.fixture(scope="module")
def with_extras() -> list[dict[str, Any]]:
    """Every pod of the chart, with volumes, spread, priorities, labels and annotations for all and for some."""
    zone = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    host = {**zone, "topologyKey": "host", "labelSelector": {"matchLabels": {"app": "all"}}}
    own = {"podLabels": {"team": "answers"}, "podAnnotations": {"note": "own"}}
    values = {
        **volumes_of("shared"),
        "topologySpreadConstraints": [zone],
        "priorityClassName": "high",
        "podLabels": {"team": "all", "all": "yes"},
        "jobs": {**volumes_of("briefly"), "priorityClassName": "low"},
        "ui": {"enabled": True},
        "pipeline": {"enabled": True, "upload": {"enabled": True}},
        "objectStore": {"development": {"enabled": True}},
        "serving": {**SERVING["serving"], **own, **volumes_of("served"), "model": "builtin:tiny"},
        "teachers": {
            "enabled": True,
            "defaults": {**volumes_of("taught"), **own},
            "models": [
                TEACHER,
                {**TEACHER, "name": "two", "priorityClassName": "mid", "topologySpreadConstraints": [host]},
            ],
        },
    }
    return render(None, values)


def test_volumes_of_the_release_and_of_a_part_reach_each_of_its_containers(with_extras) -> None:
    own = {"serving": ["served"], "teacher": ["taught"], "ui": [], "object-store": []}
    found = set()
    for manifest in with_extras:
        spec = pod_spec(manifest)
        if spec is None:
            continue
        part = pod_labels(manifest)["app.kubernetes.io/component"]
        found.add(part)
        names = ["shared", *own.get(part, ["briefly"])]
        assert [one["name"] for one in spec["volumes"] if "emptyDir" in one and one["name"] not in CHARTS_OWN] == names
        for container in containers(spec):
            mounted = {one["name"]: one for one in container["volumeMounts"]}
            assert set(names) <= set(mounted)
            assert mounted["shared"] == {"name": "shared", "mountPath": "/shared", "readOnly": True}
    assert {"serving", "teacher", "ui", "object-store", "upload", "test-store"} <= found


CHARTS_OWN = ("cache", "tmp", "shm", "scratch", "data")


def test_pods_are_spread_by_component_and_have_the_nearest_priority(with_extras) -> None:
    spread, priorities = {}, {}
    for manifest in with_extras:
        spec = pod_spec(manifest)
        if spec is None:
            continue
        labels = pod_labels(manifest)
        name = labels.get("lorapar/teacher", labels["app.kubernetes.io/component"])
        priorities[name] = spec["priorityClassName"]
        (constraint,) = spec["topologySpreadConstraints"]
        spread[name] = constraint["topologyKey"]
        chosen = constraint["labelSelector"]["matchLabels"]
        assert chosen == {"app": "all"} if name == "two" else chosen.items() <= labels.items()
    assert {name: spread[name] for name in ("serving", "one", "two")} == {
        "serving": "zone",
        "one": "zone",
        "two": "host",
    }
    wanted = {"serving": "high", "one": "high", "two": "mid", "ui": "high", "upload": "low"}
    assert wanted.items() <= priorities.items()


def test_labels_and_annotations_of_a_server_win_over_those_of_the_release(with_extras) -> None:
    for name in ("-serving", "-teacher-one"):
        metadata = only(with_extras, "Deployment", name)["spec"]["template"]["metadata"]
        assert metadata["labels"].items() >= {"team": "answers", "all": "yes"}.items()
        assert metadata["annotations"]["note"] == "own"
    assert pod_labels(only(with_extras, "Deployment", "-ui"))["team"] == "all"


def test_a_cpu_server_asks_for_no_accelerator() -> None:
    _, container = server_of(teachers(acceleratorCount=0))
    assert set(container["resources"]["limits"]) == {"memory"}
    assert "--tensor-parallel-size=1" in container["args"]


def test_slow_loading_is_allowed_for_by_the_startup_probe_alone() -> None:
    _, container = server_of(teachers(startupSeconds=3600))
    startup, liveness = container["startupProbe"], container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 3600
    assert liveness["periodSeconds"] * liveness["failureThreshold"] <= 300


@pytest.mark.parametrize(
    ("setting", "argument"),
    [
        ({"revision": "abc"}, "--revision=abc"),
        ({"servedName": "judge"}, "--served-model-name=judge"),
        ({"dtype": "bfloat16"}, "--dtype=bfloat16"),
        ({"quantization": "awq"}, "--quantization=awq"),
        ({"maxModelLength": 4096}, "--max-model-len=4096"),
        ({"maxModelLength": 131072}, "--max-model-len=131072"),
        ({"gpuMemoryUtilization": 0.5}, "--gpu-memory-utilization=0.5"),
        ({"extraArgs": ["--seed=3"]}, "--seed=3"),
    ],
)
def test_teacher_setting_becomes_an_argument(setting: dict[str, Any], argument: str) -> None:
    _, container = server_of(teachers(**setting))
    assert argument in container["args"]


def test_a_server_of_rollouts_takes_adapters_as_rl_sends_them() -> None:
    _, voting = server_of(teachers())
    assert not [argument for argument in voting["args"] if "lora" in argument]
    _, container = server_of(teachers(rolloutRank=32, extraEnv=[{"name": "A", "value": "b"}]))
    told = server_arguments(32, sent=True)
    flags = [one for one in told if one == "--enable-lora"]
    pairs = [f"{name}={value}" for name, value in zip(told[1::2], told[2::2], strict=True)]
    assert {*flags, *pairs} <= set(container["args"])
    assert environment(container).items() >= {**ENVIRONMENT, "A": "b"}.items()


def test_a_teacher_s_own_settings_count_before_the_defaults() -> None:
    values = teachers(dtype="float16")
    values["teachers"]["defaults"] = {"dtype": "bfloat16", "maxModelLength": 512}
    _, container = server_of(values)
    assert {"--dtype=float16", "--max-model-len=512"} <= set(container["args"])


def test_serving_settings_reach_the_server() -> None:
    settings = serving(maxLoraRank=32, maxLoras=8, baseModelName="Qwen/Q", pollSeconds=2.5, canary={"requests": 7})
    _, container = server_of(settings, "-serving")
    assert {"--enable-lora", "--max-lora-rank=32", "--max-loras=8", "--model=a/b"} <= set(container["args"])
    variables = environment(container)
    assert variables["LORAPAR_REGISTRY"] == "s3://lorapar/registry"
    assert variables["LORAPAR_SERVING_ADAPTERS"] == "assistant"
    assert variables["LORAPAR_SERVING_BASE_MODEL"] == "Qwen/Q"
    assert variables["LORAPAR_SERVING_POLL_SECONDS"] == "2.5"
    assert variables["LORAPAR_SERVING_CANARY_REQUESTS"] == "7"


def test_a_server_keeps_requests_only_where_asked_and_is_given_the_rules() -> None:
    _, container = server_of(serving(), "-serving")
    assert "LORAPAR_SERVING_CAPTURE" not in environment(container)
    asked = {"enabled": True, "name": "support", "share": 0.25, "rules": {"case": r"C-\d{4}<\w+>"}, "retentionDays": 7}
    values = serving(capture=asked, ingress={"enabled": True, "host": "models.example.org"})
    _, container = server_of(values, "-serving")
    message = environment(container)["LORAPAR_SERVING_CAPTURE"]
    expected = CaptureConfig(name="support", share=0.25, rules=asked["rules"], retention_days=7)
    assert read_capture(message, "") == expected
    (rule,) = only(render(values=values), "Ingress", "lorapar-serving")["spec"]["rules"]
    assert "/v1/feedback" in {path["path"] for path in rule["http"]["paths"]}


@pytest.mark.parametrize("model", ["s3://models/qwen", "builtin:tiny"])
def test_a_model_that_vllm_cannot_fetch_is_brought_by_a_container_before(model: str) -> None:
    spec, container = server_of(serving(model=model), "-serving")
    (init,) = spec["initContainers"]
    assert init["command"][-2:] == [model, "/cache/base-model"]
    assert {"--model=/cache/base-model", f"--served-model-name={model}"} <= set(container["args"])
    assert environment(container)["LORAPAR_SERVING_BASE_MODEL"] == model
    assert "scripts" not in {mount["name"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("model", ["a/b", "/models/x"])
def test_any_other_model_is_vllm_s_own_business(model: str) -> None:
    values = {**serving(model=model), "baseModels": {"existingClaim": "base-models"}}
    spec, container = server_of(values, "-serving")
    assert "initContainers" not in spec
    assert f"--model={model}" in container["args"]


def test_a_teacher_from_the_store_may_reach_the_store() -> None:
    def reaching(values: dict[str, Any]) -> list[str]:
        policy = only(render(values=values), "NetworkPolicy", "-to-object-store")
        return policy["spec"]["podSelector"]["matchExpressions"][0]["values"]

    assert "teacher" in reaching(teachers(model="s3://models/qwen"))
    assert "teacher" not in reaching(teachers())


def test_a_node_without_a_spare_accelerator_replaces_pods_one_by_one() -> None:
    spare = only(render(values=serving(surge=True)), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    none = only(render(values=serving(surge=False)), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert spare == {"maxSurge": 1, "maxUnavailable": 0}
    assert none == {"maxSurge": 0, "maxUnavailable": 1}
