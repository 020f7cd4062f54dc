"""Write docs/configuration.md from the settings' models: `python -m lorapar.config.reference > docs/configuration.md`.

Everything in the page comes from the JSON schema of `RunConfig`, so a description is written once, at its field.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from lorapar.config.load import preset_names, preset_summary
from lorapar.config.run import RunConfig

Schema = dict[str, Any]

INTRODUCTION = """\
# Settings

A run's settings are one YAML file with a section for each part of the work. Start from a preset (`lorapar presets`
lists them, `lorapar presets --show NAME` prints one), or from nothing: every key has a default unless the table says
*required*. A YAML file goes to `--config FILE`; single values go on top with `--set section.key=value`, as often as
needed:

```
lorapar run --preset demo --set partition.theta=0.95 --set rl.max_steps=40
```

Editors that know YAML schemas complete and check a file whose first line names one, as every preset's does:

```
lorapar schema > lorapar.schema.json
lorapar presets --show demo > mine.yaml
```

Keys that do not exist and values out of range end the command at once with exit code 2 and the nearest right key.
The run folder's `config.yaml` holds the settings of the last run with every default written out.

*This page is made by `make docs` from the models in `lorapar/config/`; a test keeps the two equal.*
"""

_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def reference_text() -> str:
    """The whole page, as Markdown."""
    schema = RunConfig.model_json_schema()
    return "\n".join([INTRODUCTION, *_presets(), *_section("", schema, schema["$defs"])]).rstrip() + "\n"


def schema_text() -> str:
    """The settings as a JSON Schema (draft 2020-12), by which editors complete and check a YAML file."""
    schema = RunConfig.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Settings of a lorapar run"}
    return json.dumps({**schema, **head}, indent=1, ensure_ascii=False) + "\n"


def setting_keys() -> list[str]:
    """Every key of the settings as `section.key`, lists as `teachers[].name`; a test freezes them."""
    schema = RunConfig.model_json_schema()
    return list(_keys("", schema, schema["$defs"]))


def _keys(path: str, model: Schema, definitions: Schema) -> Iterator[str]:
    for key, field in model["properties"].items():
        inner = _model_in(field)
        name = _join(path, key, field)
        named = _model_named_in(field)
        if inner is None:
            yield name
            if named is not None:
                yield from _keys(f"{name}.NAME", definitions[named], definitions)
        else:
            yield from _keys(name, definitions[inner], definitions)


def _presets() -> Iterator[str]:
    """The presets and what each is for: the first line of its file."""
    yield "## Presets\n\n| preset | what for |\n|---|---|"
    for name in preset_names():
        yield f"| `{name}` | {preset_summary(name)} |"
    yield ""


def _section(path: str, model: Schema, definitions: Schema) -> Iterator[str]:
    """Heading and table of one section, then those of the sections inside it."""
    if path:
        yield f"## {path}\n\n{model['description'].splitlines()[0]}\n"
    else:
        yield "## The whole\n"
    yield "| key | what it takes | default | meaning |\n|---|---|---|---|"
    inside = []
    for key, field in model["properties"].items():
        inner = _model_in(field)
        name = _join(path, key, field)
        if inner is not None:
            inside.append((name, definitions[inner]))
        if (named := _model_named_in(field)) is not None:
            inside.append((f"{name}.NAME", definitions[named]))
        yield _row(key, name, field, required=key in model.get("required", ()))
    yield ""
    for name, section in inside:
        yield from _section(name, section, definitions)


def _row(key: str, path: str, field: Schema, *, required: bool) -> str:
    if _model_named_in(field) is not None:
        takes = f"name to number, or section [{path}.NAME](#{_anchor(path + '.NAME')})"
    else:
        takes = _takes(field) if _model_in(field) is None else _section_link(path, field)
    cells = (f"`{key}`", takes, "*required*" if required else _default(field), field.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _section_link(path: str, field: Schema) -> str:
    what = "list of sections" if field.get("type") == "array" else "section"
    return f"{what} [{path}](#{_anchor(path)})"


def _takes(field: Schema) -> str:
    if "anyOf" in field:
        return ", or ".join("nothing" if one.get("type") == "null" else _takes(one) for one in field["anyOf"])
    if "$ref" in field:
        return "`{...}` as its meaning says"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "pattern" in field:
        return "name: letters, digits, `.`, `_`, `-`"
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}, each {_takes(field['prefixItems'][0])}"
        return f"list of {_takes(field['items'])}"
    if field.get("type") == "object":
        values = field["additionalProperties"]
        known = isinstance(values, dict) and values.keys() & {"type", "anyOf"}
        return f"name to {_takes(values) if known else 'any value'}"
    bounds = [
        f"{sign} {int(field[bound]) if field[bound] == int(field[bound]) else field[bound]}"
        for bound, sign in _BOUNDS
        if bound in field
    ]
    return " ".join([_WORDS[field["type"]], " and ".join(bounds)]).strip()


def _default(field: Schema) -> str:
    if _model_in(field) is not None and not field.get("default"):
        return "none" if field.get("type") == "array" or "anyOf" in field else "its defaults"
    value = field.get("default")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "one: " + ", ".join(f"`{entry['name']}`" for entry in value)
    if value is None or value == []:
        return "none"
    if isinstance(value, str):
        return f"`{json.dumps(value, ensure_ascii=False)[1:-1]}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _model_in(field: Schema) -> str | None:
    """The name of the section that a field holds, one or a list of them; None for plain values."""
    for one in (field, field.get("items", {}), *field.get("anyOf", ())):
        if "$ref" in one:
            return str(one["$ref"]).rsplit("/", 1)[-1]
    return None


def _model_named_in(field: Schema) -> str | None:
    """The name of the section that the values of a mapping may be; None where they are plain values."""
    values = field.get("additionalProperties")
    found = _model_in(values) if isinstance(values, dict) else None
    return None if found == "JsonValue" else found


def _join(path: str, key: str, field: Schema) -> str:
    several = "[]" if _model_in(field) is not None and field.get("type") == "array" else ""
    return f"{path}.{key}{several}" if path else f"{key}{several}"


def _anchor(heading: str) -> str:
    """The anchor that Markdown renderers give a heading."""
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "_- ").replace(" ", "-")


if __name__ == "__main__":
    print(schema_text() if "--schema" in sys.argv else reference_text(), end="")
