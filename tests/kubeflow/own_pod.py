"""The pod of a task, as Kubernetes gives it to whoever asks from inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMESPACE = "team"
OWN_POD = "run-abc-rl-executor"


def own_pod(env: Mapping[str, str], wanted: str) -> dict[str, Any]:
    """The pod of a task as Kubernetes gives it once Kubeflow 2.17 and Argo 4.0 have changed it."""
    named = [{"name": name, "value": value} for name, value in env.items()]
    run = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['pipeline/runid']"}}
    keys = [
        {"name": f"AWS_{name}", "valueFrom": {"secretKeyRef": {"name": "keys", "key": key}}}
        for name, key in (("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "secret"))
    ]
    own = [
        {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
        {"name": "ARGO_TEMPLATE", "value": "{}"},
        {"name": "LORAPAR_RUN", "valueFrom": run},
        {"name": "LORAPAR_NODES", "value": wanted},
    ]
    mounts = {
        "scratch": "/scratch", "tmp": "/tmp", "shm": "/dev/shm", "lorapar-credentials": "/run/lorapar",  # noqa: S108
        "company": "/etc/lorapar/ca", "models": "/models", "kfp-launcher": "/kfp-launcher", "s3-scratch": "/s3",
        "var-run-argo": "/var/run/argo", "kube-api-access-7xk2p": "/var/run/secrets/kubernetes.io/serviceaccount",
    }  # fmt: skip
    volumes = [
        *({"name": name, "emptyDir": {}} for name in ("scratch", "tmp", "kfp-launcher", "s3-scratch", "var-run-argo")),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        {"name": "lorapar-credentials", "secret": {"secretName": "lorapar-credentials", "optional": True}},
        {"name": "company", "configMap": {"name": "company"}},
        {"name": "models", "persistentVolumeClaim": {"claimName": "shared-models"}},
        {"name": "kube-api-access-7xk2p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
    ]
    main = {
        "name": "main", "image": "registry.example/lorapar/trainer@sha256:" + "a" * 64, "env": [*own, *keys, *named],
        "command": ["/var/run/argo/argoexec", "emissary", "--", "/kfp-launcher/launch"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }  # fmt: skip
    return {
        "metadata": {
            "name": OWN_POD, "namespace": NAMESPACE, "uid": "1111",
            "labels": {
                "pipeline/runid": "run-abc", "lorapar/stage": "rl", "pipelines.kubeflow.org/v2_component": "true",
                "workflows.argoproj.io/workflow": "run-abc-xyz", "kueue.x-k8s.io/queue-name": "team",
            },
            "annotations": {"workflows.argoproj.io/node-id": "1", "sidecar.istio.io/inject": "false"},
            "ownerReferences": [{
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-abc-xyz", "uid": "2222",
                "controller": True, "blockOwnerDeletion": True,
            }],
        },
        "spec": {
            "serviceAccountName": "lorapar-runner", "imagePullSecrets": [{"name": "regcred"}],
            "nodeSelector": {"pool": "gpu"}, "containers": [{"name": "wait", "image": "argoexec"}, main],
            "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "runAsNonRoot": True},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
            ],
            "volumes": volumes,
        },
    }  # fmt: skip
