"""What a server needs to prompt the model as in training: the chat template, and what ends an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lorapar.basemodel.cache import cache_root
from lorapar.errors import BadInputError
from lorapar.registry import Registry, Version, stop_strings, stop_words
from lorapar.registry.overview import lineage_of
from lorapar.store import write_atomically


def template_arguments(registry: Registry, versions: Sequence[Version]) -> tuple[str, ...]:
    """`--chat-template` with a local copy of the template, where it is not the base model's own.

    Raises BadInputError where the versions have different templates: a server has only one.
    """
    templates = {str(version): _template(registry, version) for version in versions}
    if len(set(templates.values())) > 1:
        raise BadInputError(
            f"{' and '.join(templates)} were trained with unlike chat templates; start one server for each"
        )
    text = next(iter(templates.values()), b"")
    if not text:
        return ()
    path = cache_root() / "chat-templates" / f"{hashlib.sha256(text).hexdigest()[:24]}.jinja"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.decode())
    return ("--chat-template", str(path))


def _template(registry: Registry, version: Version) -> bytes:
    """The template a version was trained with; empty where it is the base model's own."""
    file = lineage_of(registry, version).get("serving", {}).get("chat_template")
    return registry.read_file(version, str(file)) if file else b""


def candidate_notes(registry: Registry, served: Version, candidates: Sequence[Version]) -> tuple[str, ...]:
    """Notes about candidates that were trained with another template than the server's."""
    unlike = [one for one in candidates if _template(registry, one) != _template(registry, served)]
    return tuple(
        f"{one} was trained with another chat template than {served}: give it a server of its own" for one in unlike
    )


def quantised_notes(registry: Registry, versions: Sequence[Version]) -> tuple[str, ...]:
    """Versions that were trained on a quantised base, where the server holds it as its files have it."""
    held = {str(one): lineage_of(registry, one).get("base", {}).get("quantization") for one in versions}
    return tuple(
        f"{name} was trained and evaluated on its base held in {how}, and this server holds the base as its files have "
        "it, so that its answers may differ a little"
        for name, how in held.items()
        if how
    )


def ending_notes(registry: Registry, versions: Sequence[Version]) -> tuple[str, ...]:
    """Notes about what ends the answers of these versions, where the base model's settings do not say so."""
    ends = {version.name: stop_words(lineage_of(registry, version).get("serving", {})) for version in versions}
    texts = {version.name: stop_strings(lineage_of(registry, version).get("serving", {})) for version in versions}
    return tuple(
        f"answers of {name} end before {' or '.join(map(repr, found))} too; the middleware adds it to requests as "
        "`stop`, which vLLM reads from no file"
        for name, found in texts.items()
        if found
    ) + tuple(
        f"answers of {name} end with {words.replace('`', '')}; the middleware adds these stop_token_ids to requests, "
        "because the base model's settings do not name them all"
        for name, words in ends.items()
        if words
    )
