"""How the cluster's Argo controller is set up, which decides whether a stopped task is tried again.

Kubeflow 2.17.0 ships `templateDefaults.retryStrategy: {limit: 2, retryPolicy: OnError}` (manifests/kustomize/
third-party/argo/base/workflow-controller-configmap-patch.yaml), and merges a task's own strategy into it. KFP's SDK has
no field for the policy, so OnError stays. A task that ends with an exit code, such as the 143 of a stopped pod, is then
never tried again.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import yaml

from lorapar.errors import UnreachableError
from lorapar.network import network_cause

CONFIG_MAP = "workflow-controller-configmap"
WANTED = "Always"
SHIPPED_WITHOUT = "OnFailure"
"""Argo's default where a strategy names no policy."""
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Retries:
    """Which ends of a task Argo tries again."""

    policy: str
    cluster: str

    @property
    def good(self) -> bool:
        """Whether a failed and a stopped task are both tried again."""
        return self.policy == WANTED


def retries(namespace: str) -> Retries:
    """Read the controller's ConfigMap from the cluster of the current context, or the one this runs in.

    Raises UnreachableError where there is no cluster or no right to read it.
    """
    import kubernetes
    import urllib3
    from kubernetes.client.exceptions import ApiException

    where = f"ConfigMap {namespace}/{CONFIG_MAP}"
    try:
        # It prints where it has not found a kubeconfig.
        with contextlib.redirect_stdout(io.StringIO()):
            kubernetes.config.load_config()
        configuration = kubernetes.client.Configuration.get_default_copy()
        configuration.retries = False
        with kubernetes.client.ApiClient(configuration) as client:
            found = kubernetes.client.CoreV1Api(client).read_namespaced_config_map(
                CONFIG_MAP, namespace, _request_timeout=TIMEOUT_SECONDS
            )
    except kubernetes.config.ConfigException:
        raise UnreachableError(f"{where}: no kubectl context here, and this is no pod of a cluster") from None
    except ApiException as error:
        raise UnreachableError(f"{where}: refused ({error.status} {error.reason})") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        cause = network_cause(
            error, kubernetes.client.Configuration.get_default_copy().host, "the kubeconfig's certificate-authority"
        )
        raise UnreachableError(f"{where}: {cause or f'the cluster did not answer ({type(error).__name__})'}") from None
    return Retries(retry_policy(found.data or {}), str(configuration.host))


def retry_policy(data: dict[str, Any]) -> str:
    """The policy that a ConfigMap's data gives a task that asks for retries without naming one."""
    try:
        value: Any = yaml.safe_load(data.get("workflowDefaults") or "")
    except yaml.YAMLError:
        value = None
    for key in ("spec", "templateDefaults", "retryStrategy", "retryPolicy"):
        value = value.get(key) if isinstance(value, dict) else None
    return str(value or SHIPPED_WITHOUT)
