"""Whether two model folders turn a chat into the same tokens, by tokenizer and chat template, however saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorapar.errors import BadInputError
from lorapar.records import read_json
from lorapar.store import file_sha256

TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"
VOCABULARIES = ("tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "merges.txt", "vocab.txt")
"""Files with the tokens of a model without `tokenizer.json`."""
TEXT_FILES = (TOKENIZER, TEMPLATE, SETTINGS, *VOCABULARIES)
"""All files that this module reads."""
_OF_A_CALL = ("version", "truncation", "padding")


def unlike_text(left: Path, right: Path) -> str:
    """How the second folder differs from the first; empty where nothing differs or it is unknown.

    Raises the errors of reading a damaged file (OSError, LoraparError).
    """
    if _unlike_tokenizers(left, right):
        return "its tokenizer is another one"
    if _template(left) != _template(right):
        return "its chat template is another one"
    return ""


def _unlike_tokenizers(left: Path, right: Path) -> bool:
    sides = [folder / TOKENIZER for folder in (left, right)]
    if all(side.is_file() for side in sides):
        return file_sha256(sides[0]) != file_sha256(sides[1]) and _tokenizer(sides[0]) != _tokenizer(sides[1])
    shared = [name for name in VOCABULARIES if (left / name).is_file() and (right / name).is_file()]
    return any(file_sha256(left / name) != file_sha256(right / name) for name in shared)


def _tokenizer(file: Path) -> dict[str, Any]:
    """A tokenizer.json without the parts that a call sets, and with merges in one of their two notations."""
    found = {key: value for key, value in read_object(file).items() if key not in _OF_A_CALL}
    try:
        model = dict(found.get("model") or {})
        merges = model.get("merges") or []
        model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    except (TypeError, ValueError):
        raise BadInputError(f"{file}: its model is written as no tokenizer writes it") from None
    return {**found, "model": model}


def _template(folder: Path) -> str:
    """The chat template; empty where there is none."""
    if (folder / TEMPLATE).is_file():
        try:
            return (folder / TEMPLATE).read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise BadInputError(f"{folder / TEMPLATE}: its bytes are no UTF-8") from None
    settings = folder / SETTINGS
    given = read_object(settings).get("chat_template") if settings.is_file() else None
    if isinstance(given, list):  # several by name; chats use this one
        named = [one for one in given if isinstance(one, dict)]
        given = next((one.get("template") for one in named if one.get("name") == "default"), None)
    return str(given or "").strip()


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; raises BadInputError where there is none."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise BadInputError(f"{file}: it holds no JSON object")
    return found
