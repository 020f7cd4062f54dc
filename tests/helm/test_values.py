"""values.yaml is the one source: documented, strict, and what its table and schema say."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from helm import describe_values as describe
from tests.helm.chart import CHART, EVERYTHING, PROFILES, ROOT, template

VALUES_TEXT = (CHART / "values.yaml").read_text(encoding="utf-8")
VALUES = yaml.safe_load(VALUES_TEXT)
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
READ = describe.read_values(VALUES_TEXT)
HOW = "run `make docs` and commit helm/lorapar"


def leaves(values: list[Any]) -> Iterator[Any]:
    for value in values:
        yield value
        yield from leaves(value.children)


def mappings(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all mappings whose keys the chart itself names."""
    yield path
    for key, value in values.items():
        if isinstance(value, dict) and value and "$ref" not in note_of((*path, key)):
            yield from mappings(value, (*path, key))


def note_of(path: tuple[str, ...]) -> dict[str, Any]:
    return next(value.note for value in leaves(READ) if value.path == path)


def errors_of(values: dict[str, Any]) -> list[str]:
    """What the schema has against values, as helm would print it: with the defaults beneath them."""
    values = with_defaults(VALUES, values)
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)
    ]


def with_defaults(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """As helm merges: mappings key by key, null takes a key away, everything else replaces."""
    merged = dict(defaults)
    for key, value in values.items():
        there = defaults.get(key)
        if value is None and key in defaults:
            del merged[key]
        else:
            merged[key] = with_defaults(there, value) if isinstance(value, dict) and isinstance(there, dict) else value
    return merged


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return {path[0]: nested(path[1:], value)} if path else value


def test_schema_and_table_are_what_values_yaml_says() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == describe.schema_text(READ), HOW
    assert readme == describe.readme_text(readme, READ), HOW


def test_every_value_is_documented() -> None:
    silent = [".".join(value.path) for value in leaves(READ) if not value.text and not is_inside_a_default(value.path)]
    assert not silent, f"write `# --` above {silent}"


def is_inside_a_default(path: tuple[str, ...]) -> bool:
    """Keys of a default that is one value to its reader, such as `resources`, need no text of their own."""
    return any("$ref" in note_of(path[:length]) for length in range(1, len(path)))


def test_the_schema_is_a_schema_and_holds_for_the_defaults_and_profiles() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert not errors_of(VALUES)
    for profile in PROFILES:
        assert not errors_of(yaml.safe_load((CHART / f"values-{profile}.yaml").read_text(encoding="utf-8")))
    assert not errors_of(EVERYTHING)


@pytest.mark.parametrize("path", sorted(mappings(VALUES)), ids=".".join)
def test_a_misspelt_key_is_refused_at_every_level(path: tuple[str, ...]) -> None:
    wrong = copy.deepcopy(VALUES)
    place = wrong
    for key in path:
        place = place[key]
    place["misspelt"] = 1
    assert any("'misspelt' was unexpected" in error for error in errors_of(wrong))


SIMPLE = [value for value in leaves(READ) if not isinstance(value.default, dict | list)]


@pytest.mark.parametrize("path", [value.path for value in SIMPLE], ids=".".join)
def test_a_wrong_type_is_refused_everywhere(path: tuple[str, ...]) -> None:
    if is_inside_a_default(path):
        path = path[:-1]
    assert errors_of(nested(path, ["neither text nor number"]))


NOTES = {"name": "notes", "configMap": {"name": "notes"}}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"servng": {}}, "servng"),
        ({"serving": {"maxLoraRanks": 16}}, "maxLoraRanks"),
        ({"teachers": {"models": [{"name": "a", "model": "b", "replica": 2}]}}, "replica"),
        ({"serving": {"maxLoraRank": "16"}}, "serving.maxLoraRank"),
        ({"serving": {"replicas": "two"}}, "serving.replicas"),
        ({"images": {"client": {"digest": "sha256:abc"}}}, "images.client.digest"),
        ({"objectStore": {"address": "https://s3"}}, "objectStore.address"),
        ({"teachers": None}, "teachers is required"),
        ({"serving": {"canary": None}}, "canary is required"),
        ({"extraEnv": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}, "fieldRef"),
        ({"podSecurityContext": {"runAsUser": 0}}, "podSecurityContext.runAsUser"),
        ({"extraVolumes": [{"name": "notes"}]}, "extraVolumes.0"),
        ({"extraVolumeMounts": [{"name": "notes", "mountPath": "notes"}]}, "extraVolumeMounts.0.mountPath"),
        ({"extraVolumeMounts": [{"name": "notes", "mountPath": "/a", "readonly": True}]}, "readonly"),
        ({"topologySpreadConstraints": [{"topologyKey": "zone"}]}, "maxSkew is required"),
    ],
)
def test_helm_refuses_it_by_name(values: dict[str, Any], named: str) -> None:
    """By `helm template`, which checks values as `helm install` does and, unlike it, asks no cluster first."""
    done = template(values=values)
    assert done.code != 0
    assert named in done.error, done.error


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"serving": {"enabled": True}}, "serving.model"),
        ({"serving": {"enabled": True, "model": "a/b", "capture": {"enabled": True}}}, "serving.capture.name"),
        ({"teachers": {"enabled": True}}, "teachers.models"),
        ({"pipeline": {"kueue": {"enabled": True}}}, "pipeline.kueue.clusterQueue"),
        ({"pipeline": {"placement": {"groups": {"rl": {"nodes": 2}}}}}, "only with pipeline.trainJobs.enabled"),
        (
            {"objectStore": {"endpoint": "http://s3:9000", "development": {"enabled": True}}},
            "objectStore.endpoint",
        ),
        (
            {"teachers": {"enabled": True, "models": [{"name": "a", "model": "b"}, {"name": "a", "model": "c"}]}},
            'two entries are named "a"',
        ),
        (
            {"teachers": {"enabled": True, "models": [{"name": "a", "model": "b", "tensorParallelSize": 2}]}},
            "teachers.models[a].tensorParallelSize",
        ),
        (
            {"teachers": {"enabled": True, "models": [{"name": "a", "model": "b", "rolloutRank": 8, "replicas": 2}]}},
            "teachers.models[a].rolloutRank: an adapter is sent to one replica, and there may be 2",
        ),
        (
            {
                "teachers": {
                    "enabled": True,
                    "models": [{"name": "a", "model": "b", "rolloutRank": 8}],
                    "defaults": {"scaling": {"enabled": True, "minReplicas": 0, "maxReplicas": 1}},
                }
            },
            "teachers.models[a].rolloutRank: a server that is scaled to zero is woken by voters alone",
        ),
        ({"airGapped": True, "serving": {"enabled": True, "model": "Qwen/Qwen2.5-7B"}}, "serving.model"),
        ({"serving": {"enabled": True, "model": "/models/x"}}, "baseModels.existingClaim"),
        ({"serving": {"enabled": True, "model": "a", "ingress": {"enabled": True}}}, "serving.ingress.host"),
        ({"serving": {"enabled": True, "model": "a", "gateway": {"enabled": True}}}, "serving.gateway.name"),
        (
            {"serving": {"enabled": True, "model": "a", "autoscaling": {"enabled": True, "minReplicas": 9}}},
            "serving.autoscaling.minReplicas",
        ),
        (
            {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]},
            'extraVolumes: "tmp" is the name of a volume of the chart',
        ),
        ({"extraVolumes": [NOTES], "jobs": {"extraVolumes": [NOTES]}}, "jobs.extraVolumes: two volumes of a pod"),
        ({"extraVolumes": [NOTES, NOTES]}, 'extraVolumes: two volumes of a pod are named "notes"'),
        (
            {"extraVolumeMounts": [{"name": "notes", "mountPath": "/notes"}]},
            'extraVolumeMounts: no volume is named "notes"',
        ),
        (
            {"extraVolumes": [NOTES], "extraVolumeMounts": [{"name": "notes", "mountPath": "/cache/"}]},
            "extraVolumeMounts: the chart mounts something at /cache",
        ),
        (
            {
                "extraVolumes": [NOTES],
                "extraVolumeMounts": [{"name": "notes", "mountPath": "/notes"}],
                "serving": {"extraVolumeMounts": [{"name": "notes", "mountPath": "/notes"}]},
            },
            "serving.extraVolumeMounts: two mounts of a container are at /notes",
        ),
        (
            {
                "teachers": {
                    "enabled": True,
                    "models": [{"name": "a", "model": "b", "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}]}],
                }
            },
            "teachers.models[a].extraVolumeMounts",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    done = template(values=values)
    assert done.code != 0
    assert named in done.error, done.error


PAGES = [*sorted((ROOT / "docs" / "platform").glob("*.md")), CHART / "README.md"]
SHOWN = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"^```yaml values\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("page", "block"), SHOWN)
def test_values_shown_in_the_docs_are_valid(page: str, block: str) -> None:
    assert not errors_of(yaml.safe_load(block)), page
