"""The part of each custom resource that the chart writes, as closed schemas: a field not listed here is refused.

Written from the projects' documentation and checked against the projects' own schemas, whose copies are not part of
this repository: give tests/helm/test_manifests.py a checkout of a CRD catalogue by CRD_SCHEMAS to check it again. What
is rendered for KEDA and the Prometheus operator is also read by models that others made from those schemas.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
DURATION: Schema = {"type": "string", "pattern": r"^(0|([0-9]+(ms|s|m|h|d))+)$"}


def closed(properties: dict[str, Schema], *optional: str) -> Schema:
    """An object with these properties, all required but those named, and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def several(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def resource(version: str, kind: str, spec: Schema) -> Schema:
    """A whole resource around its spec."""
    metadata = closed({"name": TEXT, "namespace": TEXT, "labels": LABELS, "annotations": LABELS}, "annotations")
    return closed({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


SELECTOR = closed({"matchLabels": LABELS})
ALERT = closed({
    "alert": {"type": "string", "pattern": "^Lorapar[A-Za-z]+$"},
    "expr": TEXT,
    "for": DURATION,
    "labels": LABELS,
    "annotations": closed({"summary": TEXT, "description": TEXT, "runbook_url": TEXT}, "runbook_url"),
})  # fmt: skip
# KEDA: values in `metadata` are strings, numbers included.
KUBERNETES_WORKLOAD = closed(
    {"type": {"const": "kubernetes-workload"}, "metadata": closed({"podSelector": TEXT, "value": TEXT})}
)
PROMETHEUS = closed({
    "type": {"const": "prometheus"},
    "metadata": closed({"serverAddress": TEXT, "query": TEXT, "threshold": TEXT}),
})  # fmt: skip
BEHAVIOUR = closed({"scaleDown": closed({"stabilizationWindowSeconds": COUNT})})
MATCH = closed({"path": closed({"type": {"enum": ["Exact", "PathPrefix", "RegularExpression"]}, "value": TEXT})})

SCHEMAS: dict[str, Schema] = {
    "monitoring.coreos.com/v1/ServiceMonitor": resource("monitoring.coreos.com/v1", "ServiceMonitor", closed({
        "selector": SELECTOR,
        "namespaceSelector": closed({"matchNames": several(TEXT)}),
        "endpoints": several(closed({"port": TEXT, "path": TEXT, "interval": DURATION})),
    })),
    "monitoring.coreos.com/v1/PrometheusRule": resource("monitoring.coreos.com/v1", "PrometheusRule", closed({
        "groups": several(closed({"name": TEXT, "rules": several(ALERT)})),
    })),
    "keda.sh/v1alpha1/ScaledObject": resource("keda.sh/v1alpha1", "ScaledObject", closed({
        "scaleTargetRef": closed({"name": TEXT}),
        "minReplicaCount": COUNT,
        "maxReplicaCount": COUNT,
        "cooldownPeriod": COUNT,
        "advanced": closed({"horizontalPodAutoscalerConfig": closed({"behavior": BEHAVIOUR})}),
        "triggers": several({"oneOf": [KUBERNETES_WORKLOAD, PROMETHEUS]}),
    }, "advanced")),
    "gateway.networking.k8s.io/v1/HTTPRoute": resource("gateway.networking.k8s.io/v1", "HTTPRoute", closed({
        "parentRefs": several(closed({"name": TEXT, "namespace": TEXT}, "namespace")),
        "hostnames": several(TEXT),
        "rules": several(closed({
            "matches": several(MATCH),
            "backendRefs": several(closed({"name": TEXT, "port": COUNT})),
        })),
    }, "hostnames")),
    "kueue.x-k8s.io/v1beta1/LocalQueue": resource("kueue.x-k8s.io/v1beta1", "LocalQueue", closed({
        "clusterQueue": TEXT,
    })),
}  # fmt: skip
