"""Which image runs which stage, and how images are named."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lorapar import __version__
from lorapar.errors import BadInputError, nearest
from lorapar.stages.contract import stage_spec

IMAGES = ("client", "trainer", "vllm")
REPOSITORY = "lorapar"
"""Images are named REPOSITORY/NAME:VERSION; compiling replaces the registry or the tag where asked."""
# On one machine these run beside training; in a cluster they have an image with vLLM, which trainer's pins exclude.
_IN_CLUSTERS = {"vote": "vllm", "evaluate": "vllm"}
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_REFERENCE = re.compile(r"[a-z0-9][a-zA-Z0-9._/:-]*(@sha256:[0-9a-f]{64})?")


def image_of(stage: str) -> str:
    """The name of a stage's image in a cluster: client, trainer or vllm."""
    return _IN_CLUSTERS.get(stage, stage_spec(stage).image)


def default_reference(image: str) -> str:
    """The tag the shipped pipeline names."""
    return f"{REPOSITORY}/{image}:{__version__}"


def is_pinned(reference: str) -> bool:
    """Whether a reference names a digest: a tag can move, and KFP's cache would not notice."""
    return _DIGEST.search(reference) is not None


def references(registry: str | None, given: Sequence[str]) -> dict[str, str]:
    """The replacement of each default reference, from `--registry` and `--image NAME=REFERENCE`."""
    return {default_reference(image): default_reference(image) for image in IMAGES} | named(registry, given)


def named(registry: str | None, given: Sequence[str]) -> dict[str, str]:
    """Like `references`, but only the images that the options name; raises BadInputError for an unknown image."""
    if registry and (not _REFERENCE.fullmatch(f"{registry.rstrip('/')}/image:tag") or "//" in registry):
        raise BadInputError(
            f"--registry {registry}: write it as HOST[:PORT]/PATH, without https://, such as registry.example/lorapar"
        )
    found = {}
    if registry:
        found = {default_reference(image): f"{registry.rstrip('/')}/{image}:{__version__}" for image in IMAGES}
    for text in given:
        name, equals, reference = text.partition("=")
        if name not in IMAGES:
            raise BadInputError(f"--image {text}: no image is called '{name}'{nearest(name, list(IMAGES))}")
        if not equals or not _REFERENCE.fullmatch(reference):
            raise BadInputError(f"--image {text}: write it as {name}=REGISTRY/{name}@sha256:DIGEST or with a tag")
        found[default_reference(name)] = reference
    return found
