"""Read a run's settings: a preset or a YAML file, then `--set section.key=value` on top; every mistake in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from lorapar.config.mistakes import fields_of, validated
from lorapar.config.run import RunConfig
from lorapar.errors import BadInputError, nearest

_PRESETS = "lorapar.presets"


def preset_names() -> list[str]:
    """Names of the presets that ship with the package, sorted."""
    files = resources.files(_PRESETS).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of a preset; raises BadInputError with the nearest right name."""
    known = preset_names()
    if name not in known:
        raise BadInputError(f"--preset: no preset is called '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return resources.files(_PRESETS).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def preset_summary(name: str) -> str:
    """What a preset is for: the first line of its file after the one for editors."""
    lines = (line for line in preset_text(name).splitlines() if "yaml-language-server" not in line)
    return next(lines).removeprefix("# ")


def load_config(
    *, preset: str | None = None, file: str | Path | None = None, overrides: Iterable[str] = ()
) -> RunConfig:
    """Settings from a preset or a file, with `section.key=value` overrides; raises BadInputError in one line."""
    if preset is not None and file is not None:
        raise BadInputError("--preset and --config exclude each other; give one of them")
    origin = str(file) if file is not None else f"preset {preset}" if preset is not None else "the defaults"
    text = _read(Path(file)) if file is not None else preset_text(preset) if preset is not None else ""
    values = parse_settings(text, origin)
    given = []
    for override in overrides:
        apply_override(values, override)
        given.append(override.partition("=")[0].strip())
    return validated(RunConfig, values, origin, given)


def dump_config(config: BaseModel) -> str:
    """YAML of the settings, every default written out, in the order of the sections."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def dump_changed(config: BaseModel) -> str:
    """YAML of the settings that are not at their defaults: read again, it gives the same settings."""
    changed = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=100)


def read_text(file: Path, option: str = "", absent: str = "") -> str:
    """The text of a file that a person wrote; raises BadInputError, with `absent` for one that is not there."""
    called = f"{option}: " if option else ""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInputError(called + (absent or f"there is no file {file}")) from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{called}{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise BadInputError(f"{called}{file} cannot be read: {error.strerror}") from None


def _read(file: Path) -> str:
    beside: list[str] = []
    with suppress(OSError):
        beside = sorted(one.name for one in file.parent.glob("*.y*ml"))
    text = read_text(file, "--config", f"there is no file {file}{nearest(file.name, beside)}")
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        raise BadInputError(f"--config: {file} has no settings in it; for a run with the defaults write {{}} into it")
    return text


def parse_settings(text: str, origin: str) -> dict[str, Any]:
    """The values of a YAML text; `origin` is what errors call it. Raises BadInputError with the line."""
    try:
        values = _unique(text, origin) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadInputError(f"{origin}{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise BadInputError(f"{origin}: expected sections such as 'model:', got {type(values).__name__}")
    return values


def _unique(text: str, origin: str) -> Any:
    """The values of a YAML text; of a key that is there twice, YAML would silently take the last."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        for node, mistake in _mistakes(root, (), set()):
            raise BadInputError(f"{origin}, line {node.start_mark.line + 1}: {mistake}")
        return loader.construct_document(root)
    except RecursionError:
        raise BadInputError(f"{origin}: is nested too deeply; settings have a few levels") from None
    finally:
        loader.dispose()


def _mistakes(node: yaml.Node, above: tuple[yaml.Node, ...], seen: set[yaml.Node]) -> Iterator[tuple[yaml.Node, str]]:
    """Keys that their own mapping has had before, and what an alias puts into itself; a node is looked at once."""
    if node in above:
        yield node, "what this anchor (&) names contains itself; write the values out"
        return
    if node in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(node)
    if isinstance(node, yaml.MappingNode):
        yield from ((key, f"the key '{key.value}' is there twice; keep one of them") for key in _repeated(node))
    inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    for part in inside:
        yield from _mistakes(part, (*above, node), seen)


def _repeated(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    """Keys that the mapping has had before."""
    names = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in names:
                yield key
            names.add(key.value)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put one `section.key=value` into the values; raises BadInputError for what is not of this form."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadInputError(f"--set {override}: write it as section.key=value")
    try:
        value = _unique(text, f"--set {key}")
    except (yaml.YAMLError, ValueError):
        value = text
    if isinstance(value, str):
        value = _number(value)
    target = values
    for depth, part in enumerate(parts[:-1], 1):
        target = target.setdefault(part, _named_values(parts[:depth]))
        if not isinstance(target, dict):
            raise BadInputError(f"--set {key}: '{part}' is not a section")
    target[parts[-1]] = value


def _named_values(path: list[str]) -> dict[str, Any]:
    """The default of a setting that is itself names and values (`rl.rewards`): setting one of them keeps the others."""
    model: Any = RunConfig
    for part in path[:-1]:
        field = fields_of(model).get(part) if model is not None else None
        model = _model_of(field.annotation) if field is not None else None
    field = fields_of(model).get(path[-1]) if model is not None else None
    return dict(field.default) if field is not None and isinstance(field.default, dict) else {}


def _number(text: str) -> str | float:
    """YAML 1.1 reads 2e-4 as text; people mean the number."""
    try:
        return float(text) if "e" in text.lower() and text[:1] in "+-.0123456789" else text
    except ValueError:
        return text


def validate_settings(values: Mapping[str, Any], origin: str) -> RunConfig:
    """The settings; raises BadInputError naming each key that is unknown or wrong, in one line."""
    return validated(RunConfig, values, origin)


def checked_again(config: RunConfig, origin: str) -> RunConfig:
    """Settings that a program may have changed by `model_copy(update=...)`, which pydantic does not check."""
    try:
        values = config.model_dump(mode="json", warnings=False)
    except (PydanticSerializationError, AttributeError, TypeError, ValueError) as error:
        raise BadInputError(f"{origin}: holds what no setting can be ({error})") from None
    _add_unknown(config, values)
    found = validate_settings(values, origin)
    return config if found == config else found


def _add_unknown(section: BaseModel, values: dict[str, Any]) -> None:
    """Put in the keys that are no settings, which a dump leaves out."""
    for name, inner in vars(section).items():
        if name not in type(section).model_fields:
            values[name] = inner
        elif isinstance(inner, BaseModel) and isinstance(values.get(name), dict):
            _add_unknown(inner, values[name])


def _model_of(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as `Model`, `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_of(inner)
        if found is not None:
            return found
    return None
