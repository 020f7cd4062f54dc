"""Fields that Kubernetes refuses to change in an upgrade, frozen as the first version rendered them.

A difference here means that `helm upgrade` fails for everybody who has the chart installed. There is no command that
accepts it: either the change is taken back, or the object gets another name, or the way around it (delete and install
again, what that costs) goes into docs/platform/operations.md and this file is edited by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.helm.chart import EVERYTHING, Manifest, of_kind, render

FROZEN = Path(__file__).parent / "frozen_fields.yaml"
VALUES: dict[str, Any] = {
    **EVERYTHING,
    "objectStore": {**EVERYTHING["objectStore"], "development": {"enabled": True}},
}


def immutable(manifest: Manifest) -> Any:
    """What of a manifest must stay; nothing for kinds whose fields may all change."""
    spec = manifest.get("spec", {})
    return {
        "Deployment": lambda: {"selector": spec["selector"]},
        "StatefulSet": lambda: {
            key: spec[key] for key in ("selector", "serviceName", "volumeClaimTemplates") if key in spec
        },
        "PersistentVolumeClaim": lambda: {key: spec[key] for key in ("accessModes", "storageClassName") if key in spec},
        "RoleBinding": lambda: {"roleRef": manifest["roleRef"]},
        "Service": lambda: {"clusterIP": spec.get("clusterIP", "given by the cluster")},
    }.get(manifest["kind"], lambda: None)()


def found() -> dict[str, Any]:
    """By kind and name."""
    fields = {
        f"{manifest['kind']}/{manifest['metadata']['name']}": held
        for manifest in render(values=VALUES)
        if (held := immutable(manifest)) is not None
    }
    return yaml.safe_load(yaml.safe_dump(fields))


def test_immutable_fields_are_those_of_the_first_version() -> None:
    frozen = yaml.safe_load(FROZEN.read_text(encoding="utf-8"))
    now = found()
    assert {name: now.get(name) for name in frozen} == frozen


def test_every_object_with_immutable_fields_is_frozen() -> None:
    assert set(found()) == set(yaml.safe_load(FROZEN.read_text(encoding="utf-8"))), "add what is new by hand"


def test_selectors_hold_nothing_that_changes_with_a_version() -> None:
    for manifest in render(values=VALUES):
        selector = manifest.get("spec", {}).get("selector", {})
        labels = selector.get("matchLabels", selector) if isinstance(selector, dict) else {}
        assert not {"app.kubernetes.io/version", "helm.sh/chart", "team"} & set(labels), manifest["metadata"]["name"]


def test_what_carries_data_outlives_the_release() -> None:
    """Keys of the development server: with new ones its volume could not be opened any more."""
    values = {"objectStore": {"development": {"enabled": True}}}
    (secret,) = of_kind(render(values=values), "Secret")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
