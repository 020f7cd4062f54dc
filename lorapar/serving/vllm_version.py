"""Which vLLM may load adapters while it answers: in earlier ones a request could get another adapter's weights.

vLLM cached which adapter each token of a batch belongs to, and kept the cache where loading an adapter gave a slot to
another one: running requests went on with the weights of the slot's new adapter (vllm-project/vllm issue 47724). The
fix, pull request 47725, is in 0.26.0 and not in 0.25.1.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, packages_distributions, version

from packaging.version import InvalidVersion, Version

from lorapar.errors import BadInputError

FIRST_SAFE = "0.26.0"
_UNNUMBERED = Version("0.2")
"""The version of a vLLM built from a checkout without tags: 0.1.dev and a commit."""


def installed_vllm() -> str | None:
    """The version of vLLM in this environment, under any package name; None where there is none."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        names = packages_distributions().get("vllm")
        return version(names[0]) if names else None


def refuse_unsafe(found: str | None) -> None:
    """Raise BadInputError for a vLLM that could answer a request with another adapter's weights.

    A build without a release number passes: its number does not show what it contains.
    """
    try:
        number = Version(found or "")
    except InvalidVersion:
        return
    if _UNNUMBERED <= number < Version(FIRST_SAFE):
        raise BadInputError(
            f"vLLM {found} is here: before {FIRST_SAFE}, loading an adapter could make it answer a running request "
            f"with another adapter's weights (vLLM issue 47724); install vLLM {FIRST_SAFE} or later"
        )
