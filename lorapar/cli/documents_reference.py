"""The schemas of what `--json` prints and docs/json.md: `python -m lorapar.cli.documents_reference > docs/json.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lorapar.cli import documents, documents_capture
from lorapar.cli.documents import Document
from lorapar.errors import BadInputError, nearest

DOCUMENTS: dict[str, type[Document]] = {
    "presets": documents.Presets,
    "plan": documents.PlanDocument,
    "doctor": documents.DoctorDocument,
    "study status": documents.StudyStatusDocument,
    "study list": documents.Studies,
    "watch": documents.WatchDocument,
    "partition": documents.PartitionDocument,
    "gate": documents.GateDocument,
    "ask": documents.AskedDocument,
    "adapters list": documents.AdaptersDocument,
    "adapters show": documents.ShownVersion,
    "adapters diff": documents.DiffDocument,
    "adapters why": documents.WhyDocument,
    "adapters history": documents.HistoryDocument,
    "adapters verify": documents.VerifyDocument,
    "adapters gc": documents.AdapterGcDocument,
    "capture list": documents_capture.Captures,
    "capture show": documents_capture.CaptureContents,
    "capture delete": documents_capture.DeletedDocument,
    "capture prune": documents_capture.PrunedDocument,
    "gc": documents.GarbageDocument,
    "runs": documents.Runs,
    "schedules list": documents.Schedules,
}
"""The document of each command that has `--json`, in the order of `lorapar --help`."""


def document_schema(command: str) -> str:
    """JSON Schema (draft 2020-12) of what a command prints with --json; raises BadInputError for one without."""
    if command not in DOCUMENTS:
        known = list(DOCUMENTS)
        raise BadInputError(
            f"{command}: this command has no --json{nearest(command, known)}; these have: {', '.join(known)}"
        )
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"lorapar {command} --json"}
    schema = DOCUMENTS[command].model_json_schema(mode="serialization")
    return json.dumps({**schema, **head}, indent=1, ensure_ascii=False) + "\n"


def document_keys() -> list[str]:
    """Every key as `adapters list: adapters[].name`; a test freezes them."""
    return [f"{command}: {path}" for command, model in DOCUMENTS.items() for path, _, _ in _keys("", _schema(model))]


INTRODUCTION = """\
# JSON

Every command that lists or shows something prints one JSON document with `--json`, for scripts and programs:

```
lorapar adapters list --json
lorapar gate runs/demo --json
```

- Standard output holds that document and nothing else; it is an object, so that keys can be added.
- Every key below is always there, `null` where it does not apply. Keys are frozen: none goes away or changes its
  meaning. Numbers that are not finite are `null`.
- Errors are one line on standard error and the same [exit code](exit-codes.md) as without `--json`. Where the command
  found something out before it ended so (`gate`: not better, `adapters verify`: damaged), the document is there too.
- `lorapar schema adapters list` prints the JSON Schema of a command's document, `lorapar schema` that of the settings.

A program in Python can do without the command: [from Python](python.md).

*This page is made by `make docs` from the models in `lorapar/cli/documents.py`; a test keeps the two equal.*
"""


def documents_text() -> str:
    """docs/json.md: a table for each command."""
    parts = [INTRODUCTION]
    for command, model in DOCUMENTS.items():
        parts.append(f"## {command}\n\n| key | type | meaning |\n|---|---|---|")
        parts += [f"| `{path}` | {kind} | {text} |" for path, kind, text in _keys("", _schema(model))]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _schema(model: type[Document]) -> dict[str, Any]:
    return model.model_json_schema(mode="serialization")


def _keys(path: str, schema: dict[str, Any], model: dict[str, Any] | None = None) -> Iterator[tuple[str, str, str]]:
    """(path, type, meaning) of each key, those inside lists and objects after the key that holds them."""
    for key, field in (model or schema)["properties"].items():
        inner, several = _inside(field)
        name = f"{path}{key}" + ("[]" if several else "")
        yield name, _type(field), field["description"]
        if inner is not None:
            yield from _keys(f"{name}.", schema, schema["$defs"][inner])


def _inside(field: dict[str, Any]) -> tuple[str | None, bool]:
    """The document that a field holds, and whether it holds a list of them."""
    for one in (field, *field.get("anyOf", ())):
        items = one.get("items", {})
        for holder, several in ((one, False), (items, True)):
            name = str(holder.get("$ref", "")).rsplit("/", 1)[-1]
            if name and name != "JsonValue":
                return name, several
    return None, False


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return "any value" if field["$ref"].endswith("JsonValue") else "object"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if field.get("type") == "object":
        return f"name to {_type(field['additionalProperties'])}"
    kind = str(field.get("type", "any value"))
    return {"null": "`null`", "boolean": "true or false"}.get(kind, kind)


if __name__ == "__main__":
    print(documents_text(), end="")
