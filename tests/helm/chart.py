"""The chart rendered by the real helm; each set of values is rendered once and then shared.

Simplified: nothing is installed here, so what only an API server does (defaults, admission, `lookup`) is not seen. The
scripts in tests/kind do that on a real cluster.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "lorapar"
HELM = Path(sys.executable).with_name("helm")
PROFILES = tuple(sorted(path.stem.removeprefix("values-") for path in CHART.glob("values-*.yaml")))
NAMESPACE = "ml"
RELEASE = "lorapar"

Manifest = dict[str, Any]
# The C loader is ten times as fast as the plain one.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Values with everything switched on that can be on at once: what a profile leaves out is tested with these.
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "nlp"},
    "images": {"pullSecrets": [{"name": "pull"}]},
    "objectStore": {"createBucket": True, "existingSecret": "s3-keys", "caBundle": {"configMap": "ca"}},
    "huggingFace": {"existingSecret": "hub-token"},
    "baseModels": {"existingClaim": "base-models"},
    "pipeline": {
        "kfp": {"multiUser": True},
        "launcherConfigMap": {"enabled": True},
        "kueue": {"enabled": True, "clusterQueue": "gpu"},
        "recurring": [{"name": "nightly", "cron": "0 0 3 * * *", "config": {"model": {"name": "builtin:tiny"}}}],
        "placement": {"groups": {"others": {"cpu": "2"}, "sft": {"count": 2, "memory": "64Gi"}}},
    },
    "teachers": {
        "enabled": True,
        "apiKeySecret": "teacher-key",
        "models": [
            {"name": "one", "model": "a/b", "replicas": 2, "cache": {"persistent": True}},
            {"name": "two", "model": "/models/c", "scaling": {"enabled": True}, "acceleratorCount": 4},
        ],
    },
    "serving": {
        "enabled": True,
        "model": "a/b",
        "adapters": ["first", "second@staging"],
        "replicas": 2,
        "apiKey": {"existingSecret": "serving-key"},
        "cache": {"persistent": True},
        "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}],
        "ingress": {"enabled": True, "host": "lorapar.example.com", "tlsSecret": "certificate"},
        "gateway": {"enabled": True, "name": "company", "hostnames": ["lorapar.example.com"]},
        "autoscaling": {"enabled": True},
    },
    "ui": {
        "enabled": True,
        "rootPath": "/lorapar",
        "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


@dataclass(frozen=True)
class Helm:
    """How a call of helm ended."""

    code: int
    out: str
    error: str


def helm(*arguments: str | Path, values: dict[str, Any] | None = None) -> Helm:
    """Call the real helm; `values` go in as a values file on standard input."""
    command = [str(HELM), *map(str, arguments), *(["--values", "-"] if values is not None else [])]
    text = json.dumps(values) if values is not None else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, input=text)
    return Helm(done.returncode, done.stdout, done.stderr)


def template(profile: str | None = None, values: dict[str, Any] | None = None, *more: str) -> Helm:
    """`helm template` of a profile with values on top."""
    files = ["--values", CHART / f"values-{profile}.yaml"] if profile else []
    return helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *files, *more, values=values)


@functools.cache
def _rendered(profile: str | None, values: str | None, more: tuple[str, ...]) -> list[Manifest]:
    done = template(profile, json.loads(values) if values else None, *more)
    assert done.code == 0, done.error
    return [manifest for manifest in yaml.load_all(done.out, Loader=LOADER) if manifest]


def render(profile: str | None = None, values: dict[str, Any] | None = None, *more: str) -> list[Manifest]:
    """The manifests of a profile with values on top; equal calls share one rendering, which nobody changes."""
    return _rendered(profile, json.dumps(values, sort_keys=True) if values else None, more)


def all_renderings() -> dict[str, list[Manifest]]:
    """Every profile, the defaults, and everything switched on."""
    named = {profile: render(profile) for profile in PROFILES}
    return {**named, "defaults": render(), "everything": render(values=EVERYTHING)}


def only(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The one manifest of a kind whose name ends like that."""
    found = of_kind(manifests, kind, name)
    assert len(found) == 1, f"{kind} …{name}: {[manifest['metadata']['name'] for manifest in found]}"
    return found[0]


def of_kind(manifests: list[Manifest], kind: str, name: str = "") -> list[Manifest]:
    """The manifests of a kind whose names end like that."""
    return [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(name)]


def kinds(manifests: list[Manifest]) -> set[str]:
    """Kinds that occur."""
    return {manifest["kind"] for manifest in manifests}


def pod_spec(manifest: Manifest) -> dict[str, Any] | None:
    """The pod's spec in a Pod or in what makes pods."""
    if manifest["kind"] == "Pod":
        return manifest["spec"]
    if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        return manifest["spec"]["template"]["spec"]
    return manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"] if manifest["kind"] == "CronJob" else None


def pod_labels(manifest: Manifest) -> dict[str, str]:
    """Labels of the pods that a manifest makes."""
    if manifest["kind"] == "Pod":
        return manifest["metadata"]["labels"]
    return manifest["spec"]["template"]["metadata"]["labels"]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind/name, pod spec) of everything that makes pods."""
    for manifest in manifests:
        spec = pod_spec(manifest)
        if spec is not None:
            yield f"{manifest['kind']}/{manifest['metadata']['name']}", spec


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod, those that run first included."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: dict[str, Any]) -> dict[str, Any]:
    """A container's variables: the value, or where it comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


SERVING = {"serving": {"enabled": True, "model": "a/b", "adapters": ["assistant"]}}
TEACHER = {"name": "one", "model": "a/b"}


def serving(**values: Any) -> dict[str, Any]:
    return {"serving": {**SERVING["serving"], **values}}


def teachers(**teacher: Any) -> dict[str, Any]:
    return {"teachers": {"enabled": True, "models": [{**TEACHER, **teacher}]}}


def server_of(values: dict[str, Any], name: str = "-teacher-one") -> tuple[dict[str, Any], dict[str, Any]]:
    """(pod, container) of the one server of a rendering."""
    spec = pod_spec(only(render(values=values), "Deployment", name))
    assert spec
    return spec, spec["containers"][0]
