"""Write values.schema.json and the table in README.md from helm/lorapar/values.yaml, its only source.

A comment `# -- text` above a key documents it. `# @schema {...}` beside it adds to or replaces what is inferred from
the default: inline YAML, in which `$ref: name` names one of DEFINITIONS, and `nullable` that null may stand for a whole
mapping. A mapping admits the keys written in
values.yaml and no others, so that a misspelt key fails `helm install` with its name; an empty mapping or list must say
what it may hold.

Simplified: values.yaml is read as plain block YAML, comments stand directly above their key.
Run it by `make docs`; tests/helm/test_values.py fails while its outputs are stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorapar.kubeflow.placement import OTHERS, Placement
from lorapar.kubeflow.tasks import tasks_of_stage
from lorapar.stages.contract import STAGE_NAMES

CHART = Path(__file__).parent / "lorapar"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"

Schema = dict[str, Any]

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
# A bucket by its name, or by the ARN of an access point, as `lorapar.store.address` takes it.
ADDRESS = (
    r"^s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|"
    r"arn:aws[a-z-]*:s3[a-z-]*:[a-z0-9-]*:[0-9]{12}:[a-z/]*accesspoint[:/][a-z0-9.-]+)(/[^?#]*)?$"
)


def closed(properties: dict[str, Schema], *required: str) -> Schema:
    """An object that admits the named properties only."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"required": list(required)} if required else {}),
    }


STRING: Schema = {"type": "string"}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
KEY_REFERENCE = closed({"name": STRING, "key": STRING, "optional": {"type": "boolean"}}, "name", "key")
TOLERATION = {
    "key": STRING,
    "operator": {"enum": ["Exists", "Equal"]},
    "value": STRING,
    "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    "tolerationSeconds": {"type": "integer", "minimum": 0},
}


def placement() -> Schema:
    """The placement file's own schema, from the model that reads it, with its parts written out in place."""
    whole = Placement.model_json_schema()
    parts = whole.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inline(parts[node["$ref"].rpartition("/")[2]])
        # Defaults would be read as the chart's; titles only repeat the keys.
        kept = {key: inline(value) for key, value in node.items() if key not in ("default", "title")}
        return kept

    found: Schema = inline(whole)
    # What pydantic leaves to read_placement: groups are stages with tasks of their own; any other ends installing too.
    placed = [stage for stage in STAGE_NAMES if tasks_of_stage(stage)]
    found["properties"]["groups"]["propertyNames"] = {"enum": [*placed, OTHERS]}
    return found


# Kubernetes' own types. Deep ones (affinity, selectors) are left to the API server.
DEFINITIONS: dict[str, Schema] = {
    "name": {"type": "string", "pattern": NAME, "maxLength": 63},
    # Of Secrets, ConfigMaps, claims, accounts: dots are allowed in them.
    "object": {"type": "string", "pattern": OBJECT, "maxLength": 253},
    "optionalObject": {"type": "string", "pattern": rf"^$|{OBJECT}", "maxLength": 253},
    "optionalName": {"type": "string", "pattern": rf"^$|{NAME}", "maxLength": 253},
    "quantity": {"type": ["string", "integer", "number"], "pattern": QUANTITY},
    "stringMap": STRINGS,
    "affinity": closed({kind: {"type": "object"} for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}),
    "tolerations": {"type": "array", "items": closed(TOLERATION)},
    "spread": {
        "type": "array",
        "items": {"type": "object", "required": ["maxSkew", "topologyKey", "whenUnsatisfiable"]},
    },
    # A name and one source; which sources there are is the API server's business.
    "volumes": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"$ref": "#/definitions/name"}},
            "minProperties": 2,
            "maxProperties": 2,
        },
    },
    "volumeMounts": {
        "type": "array",
        "items": closed(
            {
                "name": {"$ref": "#/definitions/name"},
                "mountPath": {"type": "string", "pattern": "^/[^:]+$"},
                **dict.fromkeys(("subPath", "subPathExpr", "mountPropagation", "recursiveReadOnly"), STRING),
                "readOnly": {"type": "boolean"},
            },
            "name",
            "mountPath",
        ),
    },
    "resourceList": {"type": "object", "additionalProperties": {"$ref": "#/definitions/quantity"}},
    "resources": closed({kind: {"$ref": "#/definitions/resourceList"} for kind in ("requests", "limits")}),
    "env": {
        "type": "array",
        "items": closed(
            {
                "name": {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"},
                "value": STRING,
                # Nothing else: tasks of a run can be given what stands in a Secret or a ConfigMap only.
                "valueFrom": {
                    **closed({"secretKeyRef": KEY_REFERENCE, "configMapKeyRef": KEY_REFERENCE}),
                    "minProperties": 1,
                    "maxProperties": 1,
                },
            },
            "name",
        ),
    },
    "strings": {"type": "array", "items": STRING},
    "names": {"type": "array", "items": {"$ref": "#/definitions/name"}},
    # Both forms in use: `- NAME`, as other charts take it too, and `- name: NAME`, as Kubernetes does.
    "pullSecrets": {
        "type": "array",
        "items": {
            **closed({"name": {"$ref": "#/definitions/object"}}, "name"),
            "type": ["string", "object"],
            "pattern": OBJECT,
        },
    },
    "peers": {
        "type": "array",
        "items": {
            **closed(
                {
                    "namespaceSelector": {"type": "object"},
                    "podSelector": {"type": "object"},
                    "ipBlock": {"type": "object"},
                }
            ),
            "minProperties": 1,
        },
    },
    "labelSelectorPeers": {"type": "array", "items": {"type": "object"}},
    "digest": {"type": "string", "pattern": r"^$|^sha256:[0-9a-f]{64}$"},
    "address": {"type": "string", "pattern": ADDRESS},
    "optionalAddress": {"type": "string", "pattern": f"^$|{ADDRESS}"},
    "url": {"type": "string", "pattern": r"^https?://[^/\s]+"},
    "optionalUrl": {"type": "string", "pattern": r"^$|^https?://[^/\s]+"},
    "seconds": {"type": "integer", "minimum": 1},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "placement": placement(),
    "ports": {"type": "array", "items": {"$ref": "#/definitions/port"}},
}


@dataclass
class Value:
    """One key of values.yaml."""

    path: tuple[str, ...]
    default: Any
    text: str
    note: Schema
    children: list[Value] = field(default_factory=list)


def comment_above(lines: list[str], row: int) -> list[str]:
    """The unbroken comment lines directly above row `row` (counted from 0), without their `#`."""
    found: list[str] = []
    while row > 0 and lines[row - 1].strip().startswith("#"):
        row -= 1
        found.insert(0, lines[row].strip().removeprefix("#").removeprefix(" "))
    return found


def documentation(comment: list[str], path: tuple[str, ...]) -> tuple[str, Schema]:
    """The text after `--` and the schema note of a comment."""
    texts, note = [], ""
    started = False
    for line in comment:
        if line.startswith("@schema "):
            note = line.removeprefix("@schema ")
        elif line.startswith("-- "):
            texts, started = [line[3:]], True
        elif started:
            texts.append(line)
    parsed = yaml.safe_load(note) if note else {}
    if not isinstance(parsed, dict):
        raise SystemExit(f"values.yaml: {'.'.join(path)}: @schema must be a mapping, not {note!r}")
    return " ".join(texts), parsed


def read_values(text: str) -> list[Value]:
    """Every key of values.yaml in the order of the file, with its comment and default."""
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, path: tuple[str, ...]) -> list[Value]:
        found = []
        for key, value in node.value:
            here = (*path, key.value)
            words, note = documentation(comment_above(lines, key.start_mark.line), here)
            default = yaml.safe_load(yaml.serialize(value))
            nested = walk(value, here) if isinstance(value, yaml.MappingNode) else []
            found.append(Value(here, default, words, note, nested))
        return found

    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise SystemExit("values.yaml: must be a mapping")
    return walk(root, ())


def resolve(note: Any) -> Any:
    """`$ref: name` written out as a JSON pointer, at any depth."""
    if isinstance(note, dict):
        return {
            key: f"#/definitions/{value}" if key == "$ref" and value in DEFINITIONS else resolve(value)
            for key, value in note.items()
        }
    return [resolve(item) for item in note] if isinstance(note, list) else note


KINDS = {bool: "boolean", int: "integer", float: "number", str: "string"}


def sections(values: list[Value]) -> list[str]:
    """Keys that have keys of their own. Helm merges the defaults in before it looks, so one is missing only where a
    person wrote null: said by its name then, and not as a nil pointer in some template."""
    return [v.path[-1] for v in values if v.children and "$ref" not in v.note and not v.note.get("nullable")]


def schema_of(value: Value, root: list[Value], *, merged: bool = True) -> Schema:
    """The schema of one key: its note, or what its default says. `merged`: with the defaults beneath."""
    if value.children and "$ref" not in value.note:
        properties = {child.path[-1]: schema_of(child, root, merged=merged) for child in value.children}
        schema = closed(properties, *(sections(value.children) if merged else ()))
        note = dict(value.note)
        if note.pop("nullable", False):
            schema["type"] = ["object", "null"]
        schema.update(resolve(note))
    elif "items_like" in value.note:
        schema = list_of_overrides(value.note, root)
    elif value.note:
        schema = resolve(value.note)
        if type(value.default) in KINDS and not {"$ref", "type", "enum"} & set(schema):
            schema = {"type": KINDS[type(value.default)], **schema}
    elif type(value.default) in KINDS:
        schema = {"type": KINDS[type(value.default)]}
    else:
        raise SystemExit(f"values.yaml: {'.'.join(value.path)}: say by @schema what it may hold")
    if value.text and "$ref" not in schema:
        schema = {"description": value.text, **schema}
    return schema


def list_of_overrides(note: Schema, root: list[Value]) -> Schema:
    """A list whose items may set anything that the mapping `items_like` has, and the properties of the note."""
    level, found = root, None
    for name in note["items_like"].split("."):
        found = next(value for value in level if value.path[-1] == name)
        level = found.children
    own = {name: resolve(schema) for name, schema in note.get("properties", {}).items()}
    shared = {child.path[-1]: schema_of(child, root, merged=False) for child in level}
    return {"type": "array", "items": closed({**own, **shared}, *note.get("required", []))}


def schema_text(values: list[Value]) -> str:
    """The whole of values.schema.json."""
    properties = {value.path[-1]: schema_of(value, values) for value in values}
    # Helm itself adds `global` where the chart is a part of another one.
    properties["global"] = {"type": "object"}
    properties["enabled"] = {"type": "boolean", "description": "For a condition of an umbrella chart; unused here"}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "lorapar values",
        **closed(properties, *sections(values)),
        "definitions": {name: resolve(schema) for name, schema in DEFINITIONS.items()},
    }
    return json.dumps(schema, indent=2) + "\n"


def table_rows(values: list[Value]) -> list[str]:
    """One row for each key that has a text."""
    rows = []
    for value in values:
        if value.text and not value.children:
            default = json.dumps(value.default).replace("|", "\\|")
            rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {value.text.replace('|', chr(92) + '|')} |")
        rows += table_rows(value.children)
    return rows


def table_text(values: list[Value]) -> str:
    """A table for each top-level key; the keys that are no mapping come first."""
    simple = [value for value in values if not value.children]
    parts = ["\n".join(["| value | default | what it does |", "|---|---|---|", *table_rows(simple)])]
    for value in values:
        if value.children:
            head = f"### {value.path[0]}\n\n{value.text}\n"
            parts.append(
                "\n".join([head, "| value | default | what it does |", "|---|---|---|", *table_rows(value.children)])
            )
    return "\n\n".join(parts)


def readme_text(current: str, values: list[Value]) -> str:
    """README.md with the table between its marks replaced."""
    pattern = re.compile(rf"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n\n{table_text(values)}\n\n{END}", current)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    values = read_values((CHART / "values.yaml").read_text(encoding="utf-8"))
    readme = CHART / "README.md"
    (CHART / "values.schema.json").write_text(schema_text(values), encoding="utf-8")
    readme.write_text(readme_text(readme.read_text(encoding="utf-8"), values), encoding="utf-8")
    sys.stdout.write("wrote helm/lorapar/values.schema.json and the table in helm/lorapar/README.md\n")


if __name__ == "__main__":
    main()
